"""Files that torch, safetensors and diffusers write themselves, in every published layout: each module's answer equals
diffusers' for the same weights; what is converted loads in diffusers with strict=True."""

import json
import os
import pathlib
import pickle
import subprocess

import kineograph
import numpy
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("safetensors")

from diffusers import MotionAdapter, UNet3DConditionModel, UNetMotionModel  # noqa: E402
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet  # noqa: E402
from layouts import WIDTHS, adapter, drawn, modelscope_names, original_names, temporal  # noqa: E402
from programs import PROGRAM  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

UNET_3D = dict(
    block_out_channels=WIDTHS,
    layers_per_block=1,
    sample_size=8,
    cross_attention_dim=16,
    attention_head_dim=8,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    norm_num_groups=8,
)


def check_modules(path, model, frames=4):
    """Every temporal module of `model`, read from `path`, gives diffusers' answers."""
    report = inspect(path)
    wanted = temporal(model)
    assert sorted(module["name"] for module in report["modules"]) == sorted(wanted)
    for name, module in wanted.items():
        x = torch.randn(2 * frames, module.in_channels, 3, 2, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = module(x, num_frames=frames)
        expected = expected if isinstance(expected, torch.Tensor) else expected.sample
        found = kineograph.TransformerTemporalModel.from_pretrained(path, module=name)(x, num_frames=frames).sample
        assert (found - expected).abs().max() <= 4e-6 * expected.abs().max(), name
    return report


def run(*arguments, fails=False):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def inspect(path):
    return json.loads(run("inspect", path, "--json"))


CONTAINERS = {
    "safetensors": (lambda state, path: save_file(state, path), "safetensors"),
    "zip": (torch.save, "torch archive"),
    "state_dict": (lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path), "torch archive"),
    "legacy": (lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False), "before PyTorch 1.6"),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_motion_adapter(container, tmp_path):
    model = adapter()
    write, words = CONTAINERS[container]
    write(model.state_dict(), tmp_path / "weights.anything")
    report = check_modules(tmp_path / "weights.anything", model)
    assert words in report["container"] and report["modules"][0]["layout"] == "MotionAdapter"
    assert report["modules"][0]["assumed"] == ["num_attention_heads", "norm_num_groups"]
    if container == "state_dict":
        assert report["ignored"] == [{"name": "epoch", "what": "3"}]


@pytest.mark.parametrize("safe", [True, False])
def test_folders_say_what_shapes_do_not(safe, tmp_path):
    model = adapter(motion_num_attention_heads=4, motion_norm_num_groups=8, motion_max_seq_length=16)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    report = check_modules(tmp_path, model)
    assert not report["modules"][0]["assumed"]
    assert report["modules"][0]["config"]["num_positional_embeddings"] == 16


def test_unet_motion_model(tmp_path):
    model = drawn(
        UNetMotionModel(
            block_out_channels=WIDTHS,
            layers_per_block=1,
            cross_attention_dim=16,
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            motion_num_attention_heads=4,
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        )
    )
    model.save_pretrained(tmp_path / "unet")
    assert check_modules(tmp_path / "unet", model)["modules"][0]["layout"] == "UNetMotionModel"
    run("convert", tmp_path / "unet", tmp_path / "adapter")
    assert temporal(MotionAdapter.from_pretrained(tmp_path / "adapter")).keys() == temporal(model).keys()


@pytest.mark.parametrize("kind", [UNet3DConditionModel, I2VGenXLUNet])
def test_unet_3d(kind, tmp_path):
    model = drawn(kind(**UNET_3D))
    model.save_pretrained(tmp_path)
    report = check_modules(tmp_path, model)
    assert report["modules"][0]["name"] == "transformer_in" and report["modules"][0]["layout"] == kind.__name__
    assert not any(module["assumed"] for module in report["modules"])


@pytest.mark.parametrize("prefix", ["", "module.", "model.diffusion_model."])
def test_original_animatediff(prefix, tmp_path):
    model = adapter(motion_max_seq_length=24)
    state = {prefix + name: value for name, value in original_names(model.state_dict()).items()}
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "mm.ckpt")
    report = check_modules(tmp_path / "mm.ckpt", model)
    assert report["modules"][0]["layout"] == "AnimateDiff"
    assert report["modules"][0]["config"]["num_positional_embeddings"] == 24


def test_animatelcm_has_no_positions(tmp_path):
    state = {name: value for name, value in original_names(adapter().state_dict()).items() if "pos_encoder" not in name}
    torch.save(state, tmp_path / "lcm.ckpt")
    report = check_modules(tmp_path / "lcm.ckpt", adapter(motion_max_seq_length=64))
    assert "num_positional_embeddings" in report["modules"][0]["assumed"]


def test_modelscope(tmp_path):
    model = drawn(
        UNet3DConditionModel(
            **(UNET_3D | dict(attention_head_dim=64, block_out_channels=(64, 128), norm_num_groups=32))
        )
    )
    torch.save(modelscope_names(model.state_dict()), tmp_path / "text2video.pth")
    report = check_modules(tmp_path / "text2video.pth", model)
    assert report["modules"][0]["layout"] == "ModelScope"


def test_convert_to_motion_adapter_and_back(tmp_path):
    model = adapter(motion_max_seq_length=24)
    torch.save({"state_dict": original_names(model.state_dict())}, tmp_path / "mm.ckpt")
    run("convert", tmp_path / "mm.ckpt", tmp_path / "adapter")
    loaded = MotionAdapter.from_config(json.loads((tmp_path / "adapter/config.json").read_text()))
    weights = load_file(tmp_path / "adapter/diffusion_pytorch_model.safetensors")
    loaded.load_state_dict(weights, strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    run("convert", tmp_path / "adapter", tmp_path / "back.safetensors", "--to", "animatediff")
    back, original = load_file(tmp_path / "back.safetensors"), original_names(model.state_dict())
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], value) for name, value in original.items())


def damaged(tmp_path, change):
    state = adapter().state_dict()
    change(state)
    torch.save(state, tmp_path / "mm.ckpt")
    return tmp_path / "mm.ckpt"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("mid_block.motion_modules.0.proj_out.weight"), "missing proj_out.weight"),
        (lambda s: s.pop("mid_block.motion_modules.0.norm.weight"), "missing or misshapen norm.weight"),
        (
            lambda s: s.update({"mid_block.motion_modules.0.transformer_blocks.0.junk.weight": torch.ones(3)}),
            "unexpected transformer_blocks.0.junk",
        ),
        (lambda s: s.update({"mid_block.motion_modules.0.proj_in.bias": torch.ones(3)}), "misshapen proj_in.bias"),
    ],
)
def test_what_is_not_whole_is_not_converted(change, words, tmp_path):
    path = damaged(tmp_path, change)
    report = run("inspect", path)
    assert "damaged   mid_block.motion_modules.0" in report and words in report
    assert words in run("convert", path, tmp_path / "out", fails=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(kineograph.CheckpointError, match="cannot be loaded"):
        kineograph.TransformerTemporalModel.from_pretrained(path, module="mid_block.motion_modules.0")
    kineograph.TransformerTemporalModel.from_pretrained(path, module="down_blocks.0.motion_modules.0")


def test_two_tensors_in_one_place(tmp_path):
    name = "mid_block.motion_modules.0.norm.weight"
    wrapped = "mid_block.motion_modules.0._orig_mod.norm.weight"
    path = damaged(tmp_path, lambda s: s.update({wrapped: s[name].clone()}))
    assert wrapped in run("inspect", path, fails=True)
    # Under another prefix it is a part of another set, which has no whole module.
    path = damaged(tmp_path, lambda s: s.update({"unet." + name: s[name].clone()}))
    assert inspect(path)["others"] == {"unet.mid_block": 1}


def test_adapters_without_positions(tmp_path):
    """diffusers computes the table where the file has none: as many rows as config.json says, or 32."""
    model = adapter(motion_max_seq_length=16)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(".pe")}
    torch.save(state, tmp_path / "bare.ckpt")
    report = check_modules(tmp_path / "bare.ckpt", adapter(motion_max_seq_length=32))
    assert "num_positional_embeddings" in report["modules"][0]["assumed"]
    (tmp_path / "config.json").write_text(json.dumps(dict(model.config)))
    assert check_modules(tmp_path / "bare.ckpt", model)["modules"][0]["config"]["num_positional_embeddings"] == 16
    run("convert", tmp_path / "bare.ckpt", tmp_path / "adapter")
    loaded = MotionAdapter.from_config(json.loads((tmp_path / "adapter/config.json").read_text()))
    loaded.load_state_dict(load_file(tmp_path / "adapter/diffusion_pytorch_model.safetensors"), strict=True)


@pytest.mark.parametrize(
    "config, words",
    [
        ('{"_class_name": "MotionAdapter", "motion_num_attention_heads": 7}', "a divisor of its inner width"),
        ('{"motion_num_attention_heads": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}", "nesting"),
        ('{"motion_norm_num_groups": "many"}', "a positive integer"),
        ("[]", "a JSON object"),
        ('{"a": 1, "a": 2}', "once"),
    ],
)
def test_hostile_configs(config, words, tmp_path):
    torch.save(adapter().state_dict(), tmp_path / "mm.ckpt")
    (tmp_path / "config.json").write_text(config)
    assert words in run("inspect", tmp_path / "mm.ckpt", fails=True)


def test_a_config_of_something_else_is_not_read(tmp_path):
    torch.save(adapter().state_dict(), tmp_path / "mm.ckpt")
    (tmp_path / "config.json").write_text('{"model_type": "clip", "norm_num_groups": "x", "num_attention_heads": 12}')
    assert "num_attention_heads" in check_modules(tmp_path / "mm.ckpt", adapter())["modules"][0]["assumed"]


@pytest.mark.parametrize("safe", [True, False])
def test_shards(safe, tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size="400KB")
    report = check_modules(tmp_path, model)
    assert len(report["files"]) > 3 and "shards" in report["container"]


def test_which_animatediff(tmp_path):
    for version, changes in {
        "v1": dict(motion_max_seq_length=24, use_motion_mid_block=False),
        "v2": {},
        "v3": dict(use_motion_mid_block=False),
        "SDXL": dict(block_out_channels=(32, 32, 64), use_motion_mid_block=False),
    }.items():
        torch.save(original_names(adapter(**changes).state_dict()), tmp_path / "mm.ckpt")
        assert inspect(tmp_path / "mm.ckpt")["layout"] == "AnimateDiff " + version


def test_what_is_ignored_is_named(tmp_path):
    state = adapter().state_dict() | {
        "conv_in.weight": torch.ones(2),
        "up_blocks.1.resnets.0.norm1.weight": torch.ones(2),
        "\x1b[31mred\nline": torch.ones(1),
    }
    torch.save(state, tmp_path / "mm.ckpt")
    assert inspect(tmp_path / "mm.ckpt")["others"] == {"conv_in": 1, "up_blocks.1.resnets": 1, "\x1b[31mred\nline": 1}
    words = run("inspect", tmp_path / "mm.ckpt", "--tensors")
    assert "conv_in: 1 tensor" in words and "?[31mred line" in words and "\x1b" not in words


def test_the_targets_options_fit(tmp_path):
    adapter().save_pretrained(tmp_path / "adapter")
    words = run(
        "convert",
        tmp_path / "adapter",
        tmp_path / "out",
        "--to",
        "motion-adapter",
        "--module",
        "mid_block.motion_modules.0",
        fails=True,
    )
    assert "module" in words
    assert ".safetensors" in run(
        "convert", tmp_path / "adapter", tmp_path / "mm.ckpt", "--to", "animatediff", fails=True
    )
    assert not (tmp_path / "out").exists() and not (tmp_path / "mm.ckpt").exists()


def test_convert_one_module_with_options(tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path / "adapter")
    run(
        "convert",
        tmp_path / "adapter",
        tmp_path / "one",
        "--to",
        "module",
        "--module",
        "mid_block.motion_modules.0",
        "--dtype",
        "bf16",
        "--extend-positions",
        "48",
    )
    loaded = diffusers.TransformerTemporalModel.from_pretrained(tmp_path / "one", torch_dtype=torch.bfloat16)
    assert loaded.config.num_positional_embeddings == 48
    wanted = adapter(motion_max_seq_length=48).mid_block.motion_modules[0]
    for name, value in wanted.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name].float(), value, rtol=2**-8, atol=1e-6), name
    assert "24" in run("convert", tmp_path / "adapter", tmp_path / "two", "--extend-positions", "24", fails=True)


@pytest.mark.parametrize("extension", ["formula", "interpolate"])
def test_more_positions_at_run_time(tmp_path, extension):
    """The table is torch's interpolation of the stored one, or the stored rows and diffusers' formula."""
    sizes = dict(num_attention_heads=2, attention_head_dim=8, in_channels=8, norm_num_groups=4)
    positions = dict(positional_embeddings="sinusoidal", num_positional_embeddings=6)
    generator = torch.Generator().manual_seed(3)
    theirs = diffusers.TransformerTemporalModel(**sizes, **positions).eval()
    stored = torch.randn(1, 6, 16, generator=generator)
    theirs.transformer_blocks[0].pos_embed.pe.copy_(stored)
    theirs.save_pretrained(tmp_path)
    longer = diffusers.TransformerTemporalModel(**sizes, **{**positions, "num_positional_embeddings": 16}).eval()
    table = longer.transformer_blocks[0].pos_embed.pe.clone()
    if extension == "interpolate":
        table = torch.nn.functional.interpolate(stored.transpose(1, 2), size=16, mode="linear").transpose(1, 2)
    else:
        table[:, :6] = stored
    longer.load_state_dict({**theirs.state_dict(), "transformer_blocks.0.pos_embed.pe": table})
    mine = kineograph.TransformerTemporalModel.from_pretrained(
        tmp_path, num_positional_embeddings=16, position_extension=extension
    )
    x = torch.randn(16, 8, 3, 2, generator=generator)
    with torch.no_grad():
        wanted = longer(x, num_frames=16).sample
    assert torch.allclose(torch.from_numpy(mine(x.numpy(), num_frames=16).sample), wanted, atol=1e-5)
    with pytest.raises(kineograph.ArgumentError, match="num_positional_embeddings"):
        kineograph.TransformerTemporalModel.from_pretrained(tmp_path)(x.numpy(), num_frames=16)
    with pytest.raises(kineograph.ArgumentError, match="formula or interpolate"):
        kineograph.TransformerTemporalModel.from_pretrained(tmp_path, position_extension="cubic")


def lora_pairs(model, rank=2):
    """Path of a Linear -> (down, up)."""
    generator = torch.Generator().manual_seed(5)
    return {
        path: (
            torch.randn(rank, module.in_features, generator=generator),
            torch.randn(module.out_features, rank, generator=generator),
        )
        for path, module in model.named_modules()
        if path.endswith(("to_q", "to_k", "to_v", "to_out.0"))
    }


def lora_state(form, pairs):
    state = {}
    for path, (down, up) in pairs.items():
        if form == "peft":
            state[f"unet.{path}.lora_A.weight"], state[f"unet.{path}.lora_B.weight"] = down, up
            continue
        parent, _, projection = path.replace(".to_out.0", ".to_out").rpartition(".")
        if form == "original":
            parent = next(iter(original_names({parent + ".x": 0})))[:-2]
        else:
            parent = "unet." + parent
        state[f"{parent}.processor.{projection}_lora.down.weight"] = down
        state[f"{parent}.processor.{projection}_lora.up.weight"] = up
    return state


@pytest.mark.parametrize("form", ["original", "diffusers", "peft"])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_lora(form, scale, tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path / "adapter")
    pairs = lora_pairs(model)
    torch.save({"state_dict": lora_state(form, pairs)}, tmp_path / "lora.ckpt")
    run("convert", tmp_path / "adapter", tmp_path / "merged", "--lora", f"{tmp_path / 'lora.ckpt'}:{scale}")
    merged = load_file(tmp_path / "merged/diffusion_pytorch_model.safetensors")
    for name, value in model.state_dict().items():
        pair = pairs.get(name.removesuffix(".weight"))
        if pair is None:
            assert torch.equal(merged[name], value)
            continue
        exact = value.double() + scale * pair[1].double() @ pair[0].double()
        # One rounding of the exact sum; PEFT's own merge rounds the product, the scale and the sum.
        assert torch.equal(merged[name], exact.float())
        peft = value + pair[1] @ pair[0] * scale
        assert (merged[name] - peft).abs().max() <= 4 * 2**-24 * exact.abs().max()


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_lora_as_diffusers_merges_it(form, tmp_path):
    """Its own load_lora_adapter and fuse_lora; it rounds the product, the scaled product and the sum."""
    pytest.importorskip("peft")
    model = drawn(
        UNetMotionModel(
            block_out_channels=WIDTHS,
            layers_per_block=1,
            cross_attention_dim=16,
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            motion_num_attention_heads=4,
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        )
    )
    model.save_pretrained(tmp_path / "unet")
    pairs = {path: pair for path, pair in lora_pairs(model).items() if "motion_modules" in path}
    state = lora_state(form, pairs)
    save_file(state, tmp_path / "lora.safetensors")
    run("convert", tmp_path / "unet", tmp_path / "merged", "--lora", f"{tmp_path / 'lora.safetensors'}:-0.75")
    merged = load_file(tmp_path / "merged/diffusion_pytorch_model.safetensors")
    model.load_lora_adapter(state, prefix="unet", adapter_name="pan")
    model.fuse_lora(lora_scale=-0.75, adapter_names=["pan"])
    fused = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if ".lora_" not in name
    }
    for path, (down, up) in pairs.items():
        ours, theirs = merged[path + ".weight"], fused[path + ".weight"]
        # Half an ulp each of the sum, the product's of two terms and the scaling.
        largest = theirs.abs().max() + 0.75 * (up.abs() @ down.abs()).max()
        assert (ours - theirs).abs().max() <= 4 * 2**-24 * largest, path


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_scaling_that_peft_saves(rslora, tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path / "adapter")
    pairs = lora_pairs(model, rank=4)
    special = "mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q"
    settings = {"lora_alpha": 2, "use_rslora": rslora, "alpha_pattern": {special: 8}}
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(
        {name.removeprefix("unet."): value for name, value in lora_state("peft", pairs).items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    metadata = {"lora_adapter_metadata": json.dumps({"unet." + key: value for key, value in settings.items()})}
    save_file(lora_state("peft", pairs), tmp_path / "lora.safetensors", metadata)
    for lora in (folder, tmp_path / "lora.safetensors"):
        run("convert", tmp_path / "adapter", tmp_path / "merged", "--lora", lora)
        merged = load_file(tmp_path / "merged/diffusion_pytorch_model.safetensors")
        for path, (down, up) in pairs.items():
            factor = (8 if path == special else 2) / (2 if rslora else 4)
            exact = model.state_dict()[path + ".weight"].double() + factor * up.double() @ down.double()
            assert torch.allclose(merged[path + ".weight"].double(), exact, rtol=2**-23, atol=2**-24), path


def test_lora_with_the_originals_positions(tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path / "adapter")
    state = lora_state("original", lora_pairs(model))
    state |= {name: value for name, value in original_names(model.state_dict()).items() if "pos_encoder" in name}
    torch.save({"state_dict": state, "animatediff_config": Settings()}, tmp_path / "v2_lora_PanLeft.ckpt")
    run("convert", tmp_path / "adapter", tmp_path / "merged", "--lora", tmp_path / "v2_lora_PanLeft.ckpt")


def test_a_strict_lora_that_does_not_fit(tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path / "adapter")
    state = lora_state("peft", lora_pairs(model))
    state["unet.down_blocks.7.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_A.weight"] = torch.ones(2, 32)
    state["unet.down_blocks.7.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_B.weight"] = torch.ones(32, 2)
    save_file(state, tmp_path / "lora.safetensors")
    command = ("convert", tmp_path / "adapter", tmp_path / "out", "--lora", tmp_path / "lora.safetensors")
    words = run(*command, "--strict", fails=True)
    assert "down_blocks.7.motion_modules.0" in words and not (tmp_path / "out").exists()
    run(*command)


def test_dtypes_views_and_strides(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "view": base[4:16].view(3, 4),
        "turned": base.view(4, 6).t(),
        "expanded": base[:1].expand(3),
        "parameter": torch.nn.Parameter(base.clone()),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
    }
    tensors["attributes"] = base.clone()
    tensors["attributes"].note = "kept by torch.save"
    for dtype in (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ):
        tensors[str(dtype)] = base.to(dtype)
    for zipped in (True, False):
        torch.save(tensors, tmp_path / "all.pt", _use_new_zipfile_serialization=zipped)
        found = {entry["name"]: entry for entry in inspect(tmp_path / "all.pt")["tensors"]}
        assert {name: entry["shape"] for name, entry in found.items()} == {
            name: list(t.shape) for name, t in tensors.items()
        }
        assert not inspect(tmp_path / "all.pt")["ignored"]
        assert found["torch.bfloat16"]["dtype"] == "bf16" and found["torch.bool"]["dtype"] == "bool"


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "float8_e4m3fnuz", "uint16"])
def test_dtypes_that_no_module_has(dtype, tmp_path):
    tensors = adapter().state_dict() | {"freqs": torch.zeros(3).to(getattr(torch, dtype))}
    for zipped in (True, False) if dtype.startswith("complex") else (True,):
        torch.save(tensors, tmp_path / "mm.pt", _use_new_zipfile_serialization=zipped)
        report = check_modules(tmp_path / "mm.pt", adapter())
        assert report["ignored"][0]["name"] == "freqs" and "a tensor of torch." in report["ignored"][0]["what"]
    if dtype != "complex128":
        save_file(tensors, tmp_path / "mm.safetensors")
        assert check_modules(tmp_path / "mm.safetensors", adapter())["ignored"][0]["name"] == "freqs"


class Calls:
    """Pickles as a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch kineograph_was_here",)


class Evaluates:
    def __reduce__(self):
        return eval, ("1 + 1",)


class Settings:
    """An object of a class of somebody's own, as AnimateDiff's files carry."""

    def __init__(self):
        self.steps = [1, 2]


@pytest.mark.parametrize("hostile, words", [(Calls(), "posix.system"), (Evaluates(), "builtin__.eval")])
def test_nothing_runs(hostile, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "x": hostile}, "evil.pt")
    assert words in run("inspect", "evil.pt", fails=True)
    assert not (tmp_path / "kineograph_was_here").exists()


def test_foreign_objects_are_reported(tmp_path):
    torch.save({"state_dict": adapter().state_dict(), "animatediff_config": Settings()}, tmp_path / "mm.ckpt")
    report = inspect(tmp_path / "mm.ckpt")
    assert len(report["modules"]) == 11 and "Settings" in report["ignored"][0]["what"]


def test_truncated_everywhere(tmp_path):
    torch.save({"norm.weight": torch.ones(3)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(0, len(whole), 61):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(kineograph.FormatError):
            kineograph.TransformerTemporalModel.from_pretrained(tmp_path / "cut.pt")


def test_damaged_tensor(tmp_path):
    model = adapter()
    torch.save(model.state_dict(), tmp_path / "mm.ckpt")
    data = bytearray((tmp_path / "mm.ckpt").read_bytes())
    at = data.find(model.mid_block.motion_modules[0].proj_in.weight.detach().numpy().tobytes())
    data[at + 5] ^= 1
    (tmp_path / "mm.ckpt").write_bytes(data)
    kineograph.TransformerTemporalModel.from_pretrained(tmp_path / "mm.ckpt", module="down_blocks.0.motion_modules.0")
    with pytest.raises(kineograph.FormatError, match="CRC"):
        kineograph.TransformerTemporalModel.from_pretrained(tmp_path / "mm.ckpt", module="mid_block.motion_modules.0")
    assert "CRC" in run("convert", tmp_path / "mm.ckpt", tmp_path / "out", fails=True)
    assert not list(tmp_path.glob("out/*"))


def test_unknown_module_names_the_known(tmp_path):
    adapter().save_pretrained(tmp_path)
    with pytest.raises(kineograph.ArgumentError, match="mid_block.motion_modules.0"):
        kineograph.TransformerTemporalModel.from_pretrained(tmp_path, module="mid_block.motion_modules.1")


def test_run_takes_a_module(tmp_path):
    model = adapter()
    torch.save(model.state_dict(), tmp_path / "mm.ckpt")
    x = torch.randn(4, 64, 3, 2)
    numpy.save(tmp_path / "x.npy", x.numpy())
    run(
        "run",
        "--model",
        tmp_path / "mm.ckpt",
        "--module",
        "mid_block.motion_modules.0",
        "--input",
        tmp_path / "x.npy",
        "--output",
        tmp_path / "y.npy",
        "--num-frames",
        "4",
        "--verify",
    )
    with torch.no_grad():
        wanted = model.mid_block.motion_modules[0](x, num_frames=4)
    assert numpy.abs(numpy.load(tmp_path / "y.npy") - wanted.numpy()).max() < 1e-5


def test_pickles_of_every_protocol_are_only_read(tmp_path):
    """A plain pickle is no archive, and says so; nothing is loaded by Python's pickle either way."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}, protocol))
        with pytest.raises(kineograph.FormatError):
            kineograph.TransformerTemporalModel.from_pretrained(tmp_path / "plain.pt")


def published(folder):
    """Small files of the published names and layouts, as docs/checkpoints.md calls them."""
    heads_of_64 = dict(
        block_out_channels=(64, 64, 64, 64),
        attention_head_dim=64,
        norm_num_groups=32,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
        up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
    )
    original = {
        "mm_sd_v14": dict(motion_max_seq_length=24, use_motion_mid_block=False),
        "mm_sd_v15": dict(motion_max_seq_length=24, use_motion_mid_block=False),
        "mm_sd_v15_v2": {},
        "v3_sd15_mm": dict(use_motion_mid_block=False),
        "mm_sdxl_v10_beta": dict(block_out_channels=(32, 32, 64), use_motion_mid_block=False),
    }
    for name, changes in original.items():
        torch.save({"state_dict": original_names(adapter(**changes).state_dict())}, folder / f"{name}.ckpt")
    state = original_names(adapter().state_dict())
    torch.save(
        {name: value for name, value in state.items() if "pos_encoder" not in name}, folder / "AnimateLCM_sd15_t2v.ckpt"
    )
    torch.save(
        {
            "controlnet": {
                "module." + name: value
                for name, value in state.items()
                if "attention_blocks.1" not in name and "norms.1" not in name and "up_blocks" not in name
            },
            "animatediff_config": Settings(),
        },
        folder / "v3_sd15_sparsectrl_rgb.ckpt",
    )
    for name in ("PanLeft", "ZoomIn"):
        torch.save({"state_dict": lora_state("original", lora_pairs(adapter()))}, folder / f"v2_lora_{name}.ckpt")
    adapter().save_pretrained(folder / "animatediff-motion-adapter-v1-5-2")
    adapter(conv_in_channels=9).save_pretrained(folder / "PIA-condition-adapter")
    UNetMotionModel(
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        motion_num_attention_heads=4,
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    ).save_pretrained(folder / "unet-motion")
    unet = UNet3DConditionModel(**UNET_3D)
    unet.save_pretrained(folder / "text-to-video-ms-1.7b/unet", safe_serialization=False)
    unet.save_pretrained(folder / "zeroscope_v2_576w/unet")
    I2VGenXLUNet(**UNET_3D).half().save_pretrained(folder / "i2vgen-xl/unet", variant="fp16")
    original = modelscope_names(UNet3DConditionModel(**UNET_3D | heads_of_64).state_dict())
    torch.save(original, folder / "text2video_pytorch_model.pth")
    torch.save({"state_dict": original, "step": 854500}, folder / "i2vgen_xl_00854500.pth")


def test_the_documents_commands(tmp_path, monkeypatch):
    published(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (pathlib.Path(__file__).parents[2] / "docs/checkpoints.md").read_text().split("## Published models")[1]
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("kineograph ")]
    # Those of whole image UNets have no stand-in here.
    commands = [command for command in commands if any(pathlib.Path(word).exists() for word in command)]
    assert len(commands) > 15
    for command in commands:
        if command[0] == "run":
            channels = 64 if "mid_block.motion_modules.0" in command else WIDTHS[0]
            numpy.save("in.npy", numpy.random.default_rng(0).standard_normal((16, channels, 2, 2), numpy.float32))
        run(*command)
        if command[0] == "run":
            assert numpy.isfinite(numpy.load("out.npy")).all()
        elif not command[2].endswith(".safetensors"):
            kind = json.loads(pathlib.Path(command[2], "config.json").read_text())["_class_name"]
            loaded = getattr(diffusers, kind).from_config(
                json.loads(pathlib.Path(command[2], "config.json").read_text())
            )
            loaded.load_state_dict(
                load_file(pathlib.Path(command[2], "diffusion_pytorch_model.safetensors")), strict=True
            )
    assert (tmp_path / "pia.safetensors").exists() and "conv_in.weight" in load_file("pia.safetensors")
