"""Whole pipelines at small widths: frames with accelerate equal those without."""

import copy
import json
import pathlib
import pickle
import subprocess
import sys
import sysconfig

import kineograph
import numpy
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import (  # noqa: E402
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    I2VGenXLPipeline,
    MotionAdapter,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
)
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet  # noqa: E402

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "animatediff.py"
sys.path.append(str(EXAMPLE.parent))
from animatediff import random_pipeline  # noqa: E402

EMBEDS = {
    name: torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(i))
    for i, name in enumerate(("prompt_embeds", "negative_prompt_embeds"))
}


def small_vae():
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
    )


def text_to_video():
    torch.manual_seed(0)
    unet = UNet3DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        norm_num_groups=8,
    )
    return TextToVideoSDPipeline(
        vae=small_vae(), text_encoder=None, tokenizer=None, unet=unet, scheduler=DDIMScheduler(clip_sample=False)
    ), EMBEDS


def image_to_video():
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = I2VGenXLUNet(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        norm_num_groups=2,
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            intermediate_size=16,
            patch_size=8,
        )
    )
    pipe = I2VGenXLPipeline(
        vae=small_vae(),
        text_encoder=None,
        tokenizer=None,
        image_encoder=encoder,
        unet=unet,
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    pixels = numpy.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=numpy.uint8)
    return pipe, EMBEDS | {"image": Image.fromarray(pixels), "target_fps": 7}


def animatediff():
    return random_pipeline(), EMBEDS


def with_text(pipe, folder):
    """FreeNoise takes prompts, not embeddings: a tokenizer of letters, and a text encoder as wide as the UNet's."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    torch.manual_seed(2)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=len(letters),
            eos_token_id=len(letters) + 1,
            pad_token_id=0,
        )
    )
    pipe.register_modules(tokenizer=tokenizer, text_encoder=encoder.eval())
    return pipe, {"prompt": "a b", "negative_prompt": "c"}


def frames_of(pipe, arguments, frames=4, **more):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # some pipelines draw from here too
    return pipe(
        **arguments,
        num_frames=frames,
        num_inference_steps=2,
        guidance_scale=7.5,
        height=16,
        width=16,
        output_type="pt",
        generator=generator,
        **more,
    ).frames


def same(a, b, tolerance=2e-4):
    return (a - b).abs().max().item() <= tolerance


@pytest.mark.parametrize("make, modules", [(animatediff, 11), (text_to_video, 5), (image_to_video, 5)])
def test_frames_with_and_without(make, modules):
    pipe, arguments = make()
    wanted = frames_of(pipe, arguments)
    report = kineograph.accelerate(pipe)
    assert len(report.native) == modules and not report.not_native
    assert str(modules) in str(report) and all(path.startswith("unet.") for path in report.native)
    frames = frames_of(pipe, arguments)
    assert same(frames, wanted)
    stats = kineograph.stats(reset=True)
    assert stats.native == 2 * modules and not stats.fallbacks
    assert kineograph.revert(pipe) == modules
    with pytest.deprecated_call():
        assert kineograph.restore(pipe) == 0
    assert torch.equal(frames_of(pipe, arguments), wanted) and kineograph.stats().native == 0


def test_the_motion_modules_matter():
    """The pipelines compared above do not ignore their motion modules."""
    pipe, arguments = animatediff()
    before = frames_of(pipe, arguments)
    for module in pipe.unet.modules():
        if isinstance(module, diffusers.models.unets.unet_motion_model.AnimateDiffTransformer3D):
            module.proj_out.weight.data.zero_()
    assert not same(frames_of(pipe, arguments), before, 1e-2)


@pytest.mark.parametrize("frames", [8, 11])
def test_free_noise(frames, tmp_path):
    pipe, arguments = with_text(random_pipeline(), tmp_path)
    pipe.enable_free_noise(context_length=4, context_stride=2)
    wanted = frames_of(pipe, arguments, frames)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, arguments, frames), wanted)
    pipe.disable_free_noise()
    kineograph.stats(reset=True)
    frames_of(pipe, arguments)
    assert kineograph.stats() == kineograph.Stats(native=22)


def test_free_noise_split_inference(tmp_path):
    pipe, arguments = with_text(random_pipeline(), tmp_path)
    pipe.enable_free_noise(context_length=4, context_stride=2)
    pipe.enable_free_noise_split_inference(spatial_split_size=16, temporal_split_size=2)
    wanted = frames_of(pipe, arguments, 8)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, arguments, 8), wanted)


def test_feed_forward_chunking():
    pipe, arguments = animatediff()
    pipe.unet.enable_forward_chunking(chunk_size=2, dim=1)
    wanted = frames_of(pipe, arguments)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, arguments), wanted) and not kineograph.stats().fallbacks


def test_motion_lora():
    pytest.importorskip("peft")
    pipe, arguments = animatediff()
    plain = frames_of(pipe, arguments)
    torch.manual_seed(1)
    state = {}
    for name, module in pipe.unet.named_modules():
        if "motion_modules" in name and name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            state[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features) * 0.2
            state[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2) * 0.2
    pipe.load_lora_weights(state, adapter_name="pan")
    wanted = frames_of(pipe, arguments)
    assert not same(plain, wanted, 1e-3)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, arguments), wanted)
    pipe.set_adapters(["pan"], adapter_weights=[0.5])
    half = frames_of(pipe, arguments)
    assert not same(half, wanted, 1e-3)
    pipe.fuse_lora()
    assert same(frames_of(pipe, arguments), half)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert same(frames_of(pipe, arguments), plain)
    assert not kineograph.stats().fallbacks


def test_compiled_unet():
    pipe, arguments = text_to_video()
    wanted = frames_of(pipe, arguments)
    kineograph.accelerate(pipe)
    pipe.unet.compile(backend="eager", fullgraph=True)
    assert same(frames_of(pipe, arguments), wanted) and kineograph.stats().native == 10


def test_unets_pickle_and_copy():
    pipe, arguments = text_to_video()
    wanted = frames_of(pipe, arguments)
    kineograph.accelerate(pipe.unet)
    for unet in (copy.deepcopy(pipe.unet), pickle.loads(pickle.dumps(pipe.unet))):
        pipe.unet = unet
        assert same(frames_of(pipe, arguments), wanted)
    assert not kineograph.stats().fallbacks


def test_save_and_load_after_accelerate(tmp_path):
    pipe, arguments = text_to_video()
    kineograph.accelerate(pipe)
    wanted = frames_of(pipe, arguments)
    pipe.unet.save_pretrained(tmp_path)
    pipe.unet = UNet3DConditionModel.from_pretrained(tmp_path)
    assert same(frames_of(pipe, arguments), wanted)


def test_what_is_not_accelerated_is_said():
    class Mine(diffusers.TransformerTemporalModel):
        pass

    config = dict(num_attention_heads=2, attention_head_dim=8, in_channels=32, norm_num_groups=8)
    replaced = diffusers.TransformerTemporalModel(**config)
    replaced.forward = lambda *args, **kwargs: None
    meta = diffusers.TransformerTemporalModel(**config).to("meta")
    plain = diffusers.TransformerTemporalModel(**config)
    report = kineograph.accelerate(torch.nn.ModuleList([Mine(**config), replaced, meta, plain]))
    assert report.native == ["3"]
    assert (
        "Mine" in report.not_native["0"] and "replaced" in report.not_native["1"] and "meta" in report.not_native["2"]
    )
    with pytest.raises(TypeError, match="pipeline"):
        kineograph.accelerate("pipeline")
    assert not kineograph.accelerate(torch.nn.Linear(2, 2)).native


def test_native_modules_build_unets(monkeypatch):
    from diffusers.models.unets import unet_motion_model
    from kineograph.diffusers import AnimateDiffTransformer3D

    monkeypatch.setattr(unet_motion_model, "AnimateDiffTransformer3D", AnimateDiffTransformer3D)
    adapter = MotionAdapter(block_out_channels=(32, 64), motion_norm_num_groups=8, motion_num_attention_heads=4)
    assert sum(type(module) is AnimateDiffTransformer3D for module in adapter.modules()) == 11


def test_the_example(tmp_path):
    command = [sys.executable, EXAMPLE, "--random", "--compare", "--frames", "4", "--steps", "1", "--size", "16"]
    text = subprocess.run(
        [*command, "--output", tmp_path / "out.gif"], capture_output=True, text=True, check=True
    ).stdout
    assert "11 temporal modules run natively" in text and "native=11, fallbacks={}" in text
    assert float(text.split("differ by ")[1].split()[0]) < 2e-4
    assert (tmp_path / "out.gif").read_bytes()[:3] == b"GIF"


def test_the_training_example(tmp_path):
    """The LoRA it saves is one for diffusers and for the program, and moves the frames."""
    pytest.importorskip("peft")
    example = EXAMPLE.with_name("train_motion_lora.py")
    command = [
        sys.executable,
        example,
        "--random",
        "--compare",
        "--frames",
        "4",
        "--size",
        "16",
        "--steps",
        "3",
        "--rank",
        "4",
        "--learning-rate",
        "0.01",
        "--gradient-checkpointing",
        "--output",
        tmp_path / "lora",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "11 temporal modules run natively" in text and "fallbacks={}, backward=33" in text
    losses = [float(line.split("loss ")[1].split()[0]) for line in text.splitlines() if line.startswith("step")]
    assert len(losses) == 6 and losses[:3] == pytest.approx(losses[3:], rel=1e-3) and len(set(losses)) == 3
    assert float(text.split("losses differ by ")[1].split()[0]) < 1e-5

    pipe = random_pipeline()
    without = frames_of(pipe, EMBEDS)
    pipe.unet.save_motion_modules(tmp_path / "adapter")
    pipe.load_lora_weights(tmp_path / "lora")
    wanted = frames_of(pipe, EMBEDS)
    assert not same(wanted, without)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, EMBEDS), wanted) and not kineograph.stats().fallbacks

    program = pathlib.Path(sysconfig.get_path("scripts")) / "kineograph"
    file = next((tmp_path / "lora").iterdir())
    subprocess.run([program, "convert", tmp_path / "adapter", tmp_path / "merged", "--lora", file], check=True)
    merged = AnimateDiffPipeline(
        unet=copy.deepcopy(random_pipeline().unet),
        motion_adapter=None,
        vae=pipe.vae,
        text_encoder=None,
        tokenizer=None,
        scheduler=pipe.scheduler,
    )
    merged.unet.load_motion_modules(MotionAdapter.from_pretrained(tmp_path / "merged"))
    assert same(frames_of(merged, EMBEDS), wanted)
