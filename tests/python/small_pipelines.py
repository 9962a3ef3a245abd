"""diffusers' pipelines at small widths with random weights, for embeddings in place of text."""

import inspect
import pathlib
import sys

import numpy
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from small_unets import WIDTHS, image_to_video_unet, text_to_video_unet

sys.path.append(str(pathlib.Path(__file__).parents[2] / "examples"))
from animatediff import random_pipeline  # noqa: E402

EMBEDS = {
    name: torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(i))
    for i, name in enumerate(("prompt_embeds", "negative_prompt_embeds"))
}
BLOCKS_2D = dict(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
)


def small_vae(kind=AutoencoderKL, **more):
    return kind(block_out_channels=(32, 64), down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4, **more)


def image_vae():
    return small_vae(up_block_types=["UpDecoderBlock2D"] * 2, norm_num_groups=8)


def scheduler():
    return DDIMScheduler(clip_sample=False)


def without_text(**components):
    return dict(vae=image_vae(), text_encoder=None, tokenizer=None, scheduler=scheduler()) | components


def image_encoder(size=32):
    """A vision encoder of pictures of `size` pixels, and what prepares them."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=size,
        intermediate_size=16,
        patch_size=size // 4,
    )
    prepare = CLIPImageProcessor(crop_size=size, size=size)
    return {"image_encoder": CLIPVisionModelWithProjection(config).eval(), "feature_extractor": prepare}


def picture():
    from PIL import Image

    return Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=numpy.uint8))


def animatediff():
    return random_pipeline(), EMBEDS


def text_to_video():
    return TextToVideoSDPipeline(**without_text(unet=text_to_video_unet())), EMBEDS


def image_to_video():
    pipe = I2VGenXLPipeline(**without_text(unet=image_to_video_unet()), **image_encoder())
    return pipe, EMBEDS | {"image": picture(), "target_fps": 7}


def stable_video():
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        **WIDTHS,
        num_attention_heads=(2, 4),
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )
    for name, factor in unet.named_parameters():
        if name.endswith("mix_factor"):
            torch.nn.init.constant_(factor, -0.4)
    pipe = StableVideoDiffusionPipeline(
        vae=small_vae(AutoencoderKLTemporalDecoder),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0
        ),
        **image_encoder(224),  # the pipeline's own size
    )
    return pipe, {"image": picture(), "min_guidance_scale": 1.0, "max_guidance_scale": 3.0}


def small_unet(**more):
    torch.manual_seed(0)
    return UNet2DConditionModel(**(WIDTHS | BLOCKS_2D | dict(attention_head_dim=4, norm_num_groups=8) | more)).eval()


def stable_diffusion(kind=StableDiffusionPipeline, unet=None, **components):
    unet = unet if unet is not None else small_unet()
    components = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False) | components
    return kind(**without_text(unet=unet), **components), EMBEDS


def frames_of(pipe, arguments, frames=4, **more):
    """Frames or images of two steps, as a tensor."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # some pipelines draw from here too
    given = dict(num_inference_steps=2, height=16, width=16, output_type="pt", generator=generator)
    if not isinstance(pipe, StableVideoDiffusionPipeline):
        given |= {"guidance_scale": 7.5}
    if "num_frames" in inspect.signature(pipe.__call__).parameters:
        given |= {"num_frames": frames}
    return pipe(**arguments, **given, **more)[0]


def same(a, b, tolerance=2e-4):
    return (a - b).abs().max().item() <= tolerance
