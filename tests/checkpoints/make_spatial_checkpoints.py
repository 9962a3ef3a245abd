#!/usr/bin/env python3
"""Adds to this folder what diffusers computes for the spatial transformers of its files, and files of UNets that have
no others.

    pip install torch diffusers safetensors
    tests/checkpoints/make_checkpoints.py && tests/checkpoints/make_spatial_checkpoints.py

FILE (or folder) has spatial/FILE.safetensors: for each module `NAME.hidden_states` (2 videos of 2 frames),
`NAME.encoder_hidden_states` and `NAME.sample`, computed in f64 with the file's own f16 weights and rounded to f32. Of
the UNets made here only a few modules are kept.
"""

import json
import pathlib

import diffusers
import torch
from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from layouts import drawn
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
FRAMES, ROWS = 2, 4
KINDS = (diffusers.Transformer2DModel, TransformerSpatioTemporalModel)


def spatial(model):
    """Path -> module, of what kineograph should find."""
    return {path: module for path, module in model.named_modules() if isinstance(module, KINDS)}


def text_width(module):
    attention = module.transformer_blocks[0].attn2
    return attention.to_k.in_features


@torch.no_grad()
def expect(name, modules):
    tensors = {}
    for path, module in modules.items():
        module.half().double()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(ROWS, module.in_channels, 2, 3, generator=generator)
        text = torch.randn(ROWS, 3, text_width(module), generator=generator)
        call = dict(encoder_hidden_states=text.double())
        if isinstance(module, TransformerSpatioTemporalModel):
            call["image_only_indicator"] = torch.zeros(ROWS // FRAMES, FRAMES)
        prefix = f"{path}." if path else ""
        tensors |= {
            f"{prefix}hidden_states": x,
            f"{prefix}encoder_hidden_states": text,
            f"{prefix}sample": module(x.double(), **call).sample.float(),
        }
    (HERE / "spatial").mkdir(exist_ok=True)
    save_file(tensors, HERE / "spatial" / f"{name}.safetensors")


def weights(modules, rename=lambda name: name):
    return {
        rename(f"{path}.{name}"): value.half().clone()
        for path, module in modules.items()
        for name, value in module.state_dict().items()
    }


def folder(name, unet, kept, rename=lambda name: name):
    """A UNet's configuration and the weights of the modules in `kept`."""
    modules = {path: module for path, module in spatial(unet).items() if path in kept}
    assert set(modules) == set(kept), spatial(unet).keys()
    (HERE / name).mkdir(exist_ok=True)
    config = dict(unet.config, _class_name=type(unet).__name__)
    (HERE / name / "config.json").write_text(json.dumps(config, indent=1, default=str, sort_keys=True) + "\n")
    save_file(weights(modules, rename), HERE / name / "diffusion_pytorch_model.safetensors")
    expect(name, modules)


def original(name):
    """Stable Diffusion's and Stable Video Diffusion's own name of a parameter."""
    for ours, theirs in (
        ("down_blocks.0.attentions.0.", "model.diffusion_model.input_blocks.1.1."),
        ("mid_block.attentions.0.", "model.diffusion_model.middle_block.1."),
        ("up_blocks.0.attentions.1.", "model.diffusion_model.output_blocks.1.1."),
        (".temporal_transformer_blocks.", ".time_stack."),
        (".time_pos_embed.linear_1.", ".time_pos_embed.0."),
        (".time_pos_embed.linear_2.", ".time_pos_embed.2."),
    ):
        name = name.replace(ours, theirs)
    return name


def image_unet(**changes):
    return drawn(
        UNet2DConditionModel(
            **dict(
                block_out_channels=(16, 32),
                layers_per_block=1,
                cross_attention_dim=8,
                attention_head_dim=(2, 4),
                norm_num_groups=8,
                transformer_layers_per_block=(1, 2),
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            )
            | changes
        )
    )


def video_unet():
    return drawn(
        UNetSpatioTemporalConditionModel(
            block_out_channels=(32,),
            layers_per_block=1,
            cross_attention_dim=8,
            num_attention_heads=(2,),
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            down_block_types=("CrossAttnDownBlockSpatioTemporal",),
            up_block_types=("CrossAttnUpBlockSpatioTemporal",),
        )
    )


def main():
    for name, kind in (
        ("unet_motion", diffusers.UNetMotionModel),
        ("unet_3d", diffusers.UNet3DConditionModel),
        ("i2vgen_xl", diffusers.I2VGenXLUNet),
    ):
        unet = kind.from_pretrained(HERE / name, torch_dtype=torch.float16, low_cpu_mem_usage=False).eval()
        expect(name, spatial(unet))
    folder("unet_2d", image_unet(), ["down_blocks.0.attentions.0", "up_blocks.0.attentions.1"])
    folder("unet_2d_linear", image_unet(use_linear_projection=True), ["mid_block.attentions.0"])
    folder("unet_svd", video_unet(), ["down_blocks.0.attentions.0", "up_blocks.0.attentions.1"])
    folder("svd_original", video_unet(), ["up_blocks.0.attentions.1"], original)

    # 8 heads and 32 groups are what a file with a text of 768 is taken to have.
    unet = image_unet(
        block_out_channels=(32, 32),
        attention_head_dim=8,
        norm_num_groups=32,
        cross_attention_dim=768,
        transformer_layers_per_block=1,
    )
    modules = {path: module for path, module in spatial(unet).items() if path == "down_blocks.0.attentions.0"}
    save_file(weights(modules, original), HERE / "sd15_original.safetensors")
    expect("sd15_original.safetensors", modules)


if __name__ == "__main__":
    main()
