"""Whole pipelines at small widths: frames with accelerate equal those without."""

import copy
import json
import pathlib
import pickle
import subprocess
import sys
import sysconfig

import kineograph
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import AnimateDiffPipeline, MotionAdapter, UNet3DConditionModel  # noqa: E402
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel  # noqa: E402
from small_pipelines import (  # noqa: E402
    EMBEDS,
    animatediff,
    frames_of,
    image_to_video,
    random_pipeline,
    same,
    stable_diffusion,
    stable_video,
    text_to_video,
)

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "animatediff.py"
TEMPORAL, SPATIAL, VIDEO = "temporal module", "spatial transformer", "spatio-temporal transformer"


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


@pytest.mark.parametrize(
    "make, kinds",
    [
        (animatediff, {TEMPORAL: 11, SPATIAL: 6}),
        (text_to_video, {TEMPORAL: 5, SPATIAL: 4}),
        (image_to_video, {TEMPORAL: 5, SPATIAL: 4}),
        (stable_video, {VIDEO: 4}),
        (stable_diffusion, {SPATIAL: 4}),
    ],
)
def test_frames_with_and_without(make, kinds):
    pipe, arguments = make()
    wanted = frames_of(pipe, arguments)
    report = kineograph.accelerate(pipe)
    modules = len(report.native)
    assert report.kinds == kinds and modules == sum(kinds.values()) and not report.not_native
    assert all(f"{count} {kind}s run natively" in str(report) for kind, count in kinds.items())
    assert all(path.startswith("unet.") for path in report.native)
    assert same(frames_of(pipe, arguments), wanted)
    assert kineograph.stats(reset=True) == kineograph.Stats(native=2 * modules)
    # Their part matters: without it, frames are others.
    spatial = [
        m for m in pipe.unet.modules() if isinstance(m, (diffusers.Transformer2DModel, TransformerSpatioTemporalModel))
    ]
    kept = [module.proj_out.weight.data.clone() for module in spatial]
    for module in spatial:
        module.proj_out.weight.data.zero_()
    assert not same(frames_of(pipe, arguments), wanted, 1e-3)
    for module, weight in zip(spatial, kept):
        module.proj_out.weight.data.copy_(weight)
    assert kineograph.revert(pipe) == modules
    with pytest.deprecated_call():
        assert kineograph.restore(pipe) == 0
    kineograph.stats(reset=True)
    assert torch.equal(frames_of(pipe, arguments), wanted) and kineograph.stats().native == 0


def test_spatial_modules_can_be_left():
    pipe, arguments = animatediff()
    wanted = frames_of(pipe, arguments)
    report = kineograph.accelerate(pipe, spatial=False)
    assert report.kinds == {TEMPORAL: 11} and not report.not_native
    assert same(frames_of(pipe, arguments), wanted) and kineograph.stats() == kineograph.Stats(native=22)
    kineograph.accelerate(pipe)
    assert kineograph.revert(pipe) == 17


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
    assert kineograph.stats(reset=True) == kineograph.Stats(native=34)
    # Other windows, set in the blocks that are there.
    pipe.enable_free_noise(context_length=6, context_stride=3, weighting_scheme="flat")
    others = frames_of(pipe, arguments, frames)
    assert kineograph.stats(reset=True) == kineograph.Stats(native=34) and not same(others, wanted)
    kineograph.revert(pipe)
    assert same(frames_of(pipe, arguments, frames), others)
    kineograph.accelerate(pipe)
    pipe.disable_free_noise()
    kineograph.stats(reset=True)
    frames_of(pipe, arguments)
    assert kineograph.stats() == kineograph.Stats(native=34)


def test_free_noise_split_inference(tmp_path):
    pipe, arguments = with_text(random_pipeline(), tmp_path)
    pipe.enable_free_noise(context_length=4, context_stride=2)
    pipe.enable_free_noise_split_inference(spatial_split_size=16, temporal_split_size=2)
    wanted = frames_of(pipe, arguments, 8)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, arguments, 8), wanted)
    stats = kineograph.stats()
    assert stats.native > 34 and not stats.fallbacks  # spatial transformers are called piece by piece


def test_free_noise_prompts(tmp_path):
    pipe, arguments = with_text(random_pipeline(), tmp_path)
    pipe.enable_free_noise(context_length=4, context_stride=2)
    arguments = arguments | {"prompt": {0: "a cat", 5: "a dog"}}
    wanted = frames_of(pipe, arguments, 8)
    kineograph.accelerate(pipe)
    assert same(frames_of(pipe, arguments, 8), wanted)
    assert kineograph.stats() == kineograph.Stats(native=34)


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
    assert same(frames_of(pipe, arguments), wanted) and kineograph.stats().native == 18


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
    assert str(kineograph.accelerate(torch.nn.Linear(2, 2))) == "no module runs natively"


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
    assert "11 temporal modules run natively" in text and "6 spatial transformers run natively" in text
    assert "native=17, fallbacks={}" in text
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
