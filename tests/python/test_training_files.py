"""What training scripts and trainers write: any chain of dictionaries and prefixes, in any container, opens as what it
is, to the bit; every form of a LoRA merges to the same bits; a file with several readings is never taken silently."""

import collections
import dataclasses
import functools
import json
import pathlib
import subprocess
import types

import kineograph
import numpy
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
hypothesis = pytest.importorskip("hypothesis")
pytest.importorskip("safetensors")

from diffusers import MotionAdapter, UNetMotionModel  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from layouts import adapter, drawn, original_names  # noqa: E402
from programs import PROGRAM  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = dict(block_out_channels=(32,), motion_layers_per_block=1)


def run(*arguments, fails=False):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done


def inspect(path, *options):
    return json.loads(run("inspect", path, "--json", *options).stdout)


def converted(path, out, *options):
    run("convert", path, out, *options)
    return load_file(out / WEIGHTS)


def equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def hotshot_names(state):
    return {
        name.replace(".motion_modules.", ".temporal_attentions.")
        .replace(".temporal_transformer", "")
        .replace("pos_encoder.pe", "pos_encoder.positional_encoding"): value
        for name, value in original_names(state).items()
    }


LAYOUTS = {"diffusers": dict, "original": original_names, "hotshot": hotshot_names}
STATE = state_of(adapter(**SMALL))
OTHER = {name: value + 1 if value.ndim == 1 else value for name, value in STATE.items()}


@dataclasses.dataclass
class Settings:
    steps: int = 3


class Attributes(dict):
    pass


class Ordered(collections.OrderedDict):
    pass


def optimizer_state():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


# What stands beside weights in a pickle.
BESIDE = {
    "optimizer": optimizer_state,
    "epoch": lambda: 3,
    "lr": lambda: 1e-4,
    "global_step": lambda: torch.tensor(5),
    "torch_rng_state": torch.get_rng_state,
    "numpy_rng": lambda: numpy.random.RandomState(0),
    "generator": lambda: numpy.random.default_rng(0),
    "array": lambda: numpy.arange(3.0),
    "number": lambda: numpy.float64(2.5),
    "schedule": lambda: functools.partial(int, "3"),
    "args": lambda: types.SimpleNamespace(lr=1, path=pathlib.PurePosixPath("a")),
    "config": Settings,
    "hyper_parameters": lambda: {"a": [1, {"b": (None, True)}], "dtype": torch.float16, "device": torch.device("cpu")},
    "history": lambda: [torch.ones(2), torch.zeros(1)],
    "callbacks": lambda: {"best": {"score": torch.tensor(0.5)}, "names": {"x", "y"}},
}
KEYS = ["state_dict", "model", "module", "unet_state_dict", "ema_model", "motion_module", "net", "0", "generator_ema"]
PREFIXES = [
    "module",
    "_orig_mod",
    "unet",
    "model",
    "diffusion_model",
    "motion_modules",
    "_fsdp_wrapped_module",
    "student",
]
DICTS = {
    "dict": dict,
    "ordered": collections.OrderedDict,
    "default": lambda items: collections.defaultdict(dict, items),
    "subclass": Attributes,
    "ordered_subclass": Ordered,
}
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")}
PICKLED = {
    "zip": {},
    "legacy": dict(_use_new_zipfile_serialization=False),
    "protocol 5": dict(pickle_protocol=5),
    "no checksums": {},
}


def stored(state, dtype):
    """As a file has it: 8-bit files keep vectors and positions in f16, as their makers do."""
    eight = dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
    return {
        name: value.to(dtype if value.ndim == 2 or not eight else torch.float16).clone()
        for name, value in state.items()
    }


def as_read(state):
    return {name: value.half() if value.dtype.itemsize == 1 else value for name, value in state.items()}


def nested(state, keys, beside, kind):
    """`state` below `keys`, each level with something of `beside` next to it."""
    for depth, key in enumerate(reversed(keys)):
        level = {name: BESIDE[name]() for name in beside[depth::3]}
        state = DICTS[kind]({**level, key: state})
    return state


def save_pickled(tree, path, container):
    torch.serialization.set_crc32_options(container != "no checksums")
    try:
        torch.save(tree, path, **PICKLED[container])
    finally:
        torch.serialization.set_crc32_options(True)


FILES = st.fixed_dictionaries(
    dict(
        layout=st.sampled_from(sorted(LAYOUTS)),
        dtype=st.sampled_from(sorted(DTYPES)),
        container=st.sampled_from([*PICKLED, "safetensors", "shards"]),
        keys=st.lists(st.sampled_from(KEYS), max_size=3),
        prefix=st.lists(st.sampled_from(PREFIXES), max_size=3),
        beside=st.lists(st.sampled_from(sorted(BESIDE)), unique=True, max_size=6),
        kind=st.sampled_from(sorted(DICTS)),
    )
)


def write(folder, file, state, name="weights"):
    """A file as `file` says; returns its path and what is read of it, under diffusers' names."""
    state = stored(state, DTYPES[file["dtype"]])
    named = {".".join([*file["prefix"], key]): value for key, value in LAYOUTS[file["layout"]](state).items()}
    wanted = as_read(state)
    if file["container"] in PICKLED:
        if file["container"] == "legacy" and "float8" in file["dtype"]:
            file = file | dict(container="zip")  # torch has no typed storages of them
        save_pickled(nested(named, file["keys"], file["beside"], file["kind"]), folder / name, file["container"])
        return folder / name, wanted
    named = {".".join([*file["keys"], key]): value.clone() for key, value in named.items()}
    if file["container"] == "safetensors":
        save_file(named, folder / name)
        return folder / name, wanted
    keys, index = sorted(named), {}
    for number, part in enumerate((keys[::2], keys[1::2])):
        shard = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({key: named[key] for key in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder / f"{name}.index.json", wanted


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(file=FILES)
def test_every_member_of_the_grammar_opens(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar")
    path, wanted = write(folder, file, STATE)
    report = inspect(path)
    assert len(report["sets"]) == 1
    assert [module["problem"] for module in report["modules"]] == [""] * 4
    equal(converted(path, folder / "adapter"), wanted)
    MotionAdapter.from_pretrained(folder / "adapter", torch_dtype=torch.float32)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    file=FILES.filter(lambda file: file["container"] in PICKLED and "float8" not in file["dtype"]), same=st.booleans()
)
def test_two_sets_are_one_only_if_they_are_equal(file, same, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    states = [stored(state, DTYPES[file["dtype"]]) for state in (STATE, STATE if same else OTHER)]
    named = [
        {".".join([*file["prefix"], key]): value for key, value in LAYOUTS[file["layout"]](state).items()}
        for state in states
    ]
    tree = nested({"plain": named[0], "average": named[1]}, file["keys"], file["beside"], file["kind"])
    save_pickled(tree, folder / "both.pt", file["container"])
    report = inspect(folder / "both.pt")
    if same:
        assert len(report["sets"]) == 1
        equal(converted(folder / "both.pt", folder / "one"), states[0])
        return
    paths = [".".join([*file["keys"], key, *file["prefix"]]) for key in ("plain", "average")]
    assert sorted(entry["path"] for entry in report["sets"]) == sorted(paths)
    words = run("convert", folder / "both.pt", folder / "none", fails=True).stderr
    assert "--select" in words and all(path in words for path in paths) and not (folder / "none").exists()
    for key, path, state in zip(("plain", "average"), paths, states):
        equal(converted(folder / "both.pt", folder / key, "--select", ".".join([*file["keys"], key])), state)
        name = "mid_block.motion_modules.0"
        model = kineograph.TransformerTemporalModel.from_pretrained(folder / "both.pt", module=name, select=path)
        if file["dtype"] == "float32":
            assert numpy.array_equal(model.state_dict()["proj_in.bias"], state[name + ".proj_in.bias"])


def test_the_moving_average_at_the_top_of_a_file(tmp_path):
    torch.save({**STATE, "ema": OTHER}, tmp_path / "both.pt")
    assert {entry["path"] for entry in inspect(tmp_path / "both.pt")["sets"]} == {".", "ema"}
    equal(converted(tmp_path / "both.pt", tmp_path / "top", "--select", "."), STATE)
    equal(converted(tmp_path / "both.pt", tmp_path / "ema", "--select", "ema"), OTHER)


def test_eight_bits_with_scales(tmp_path):
    for number, (companion, shape) in enumerate(
        [("scale_weight", ()), ("weight_scale", (-1, 1)), ("weight_scale", (-1,))]
    ):
        state, wanted = {}, {}
        generator = torch.Generator().manual_seed(number)
        for name, value in STATE.items():
            if value.ndim != 2:
                state[name] = wanted[name] = value.half()
                continue
            rows = value.shape[0] if shape else 1
            scale = torch.rand(rows, generator=generator).reshape(shape if shape else ()) + 0.01
            state[name] = (value * 4).to(torch.float8_e4m3fn)
            state[name.removesuffix("weight") + companion] = scale
            state[name.removesuffix("weight") + "scale_input"] = torch.ones(())
            wanted[name] = (state[name].float() * (scale.reshape(-1, 1) if shape else scale)).half()
        save_file(state, tmp_path / "mm.safetensors")
        report = inspect(tmp_path / "mm.safetensors")
        assert not any(module["problem"] for module in report["modules"])
        equal(converted(tmp_path / "mm.safetensors", tmp_path / f"a{number}"), wanted)
        bf16 = converted(tmp_path / "mm.safetensors", tmp_path / f"b{number}", "--dtype", "bf16")
        equal(bf16, {name: value.bfloat16() for name, value in wanted.items()})
        # The loaded module is that of the widened weights.
        x = torch.randn(8, 32, 3, 2, generator=generator)
        name = "mid_block.motion_modules.0"
        load = kineograph.TransformerTemporalModel.from_pretrained
        ours = load(tmp_path / "mm.safetensors", module=name)(x, num_frames=4).sample
        theirs = load(tmp_path / f"a{number}", module=name)(x, num_frames=4).sample
        assert torch.equal(ours, theirs)


def test_positions_are_kept(tmp_path):
    for kind, change in {
        "formula": lambda v: v,
        "trained": lambda v: v * 0.9,
        "doubled": lambda v: torch.cat([v, v], 1),
    }.items():
        for dtype in (torch.float32, torch.float16):
            state = {
                name: (change(value) if name.endswith(".pe") else value).to(dtype).contiguous().clone()
                for name, value in original_names(STATE).items()
            }
            wanted = {
                name: (change(value) if name.endswith(".pe") else value).to(dtype) for name, value in STATE.items()
            }
            file, folder = tmp_path / f"{kind}{dtype}.safetensors", tmp_path / f"{kind}{dtype}"
            save_file(state, file)
            equal(converted(file, folder), wanted)
            loaded = MotionAdapter.from_pretrained(folder)
            assert loaded.config.motion_max_seq_length == (64 if kind == "doubled" else 32)
            run("convert", folder, tmp_path / "back.safetensors", "--to", "animatediff")
            equal(load_file(tmp_path / "back.safetensors"), state)
            # In f32 the formula's own values stand for a 16-bit table that is the formula's.
            wide = converted(file, tmp_path / f"wide{kind}{dtype}", "--dtype", "f32")
            pe = "mid_block.motion_modules.0.transformer_blocks.0.pos_embed.pe"
            exact = STATE[pe] if kind == "formula" else wanted[pe].float()
            assert (wide[pe] - exact).abs().max() <= (2**-18 if kind == "formula" else 0)


def test_one_block_with_two_tables_is_damaged(tmp_path):
    state = {name: value.clone() for name, value in original_names(STATE).items()}
    state["mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"] *= 2
    save_file(state, tmp_path / "mm.safetensors")
    assert "other positions" in run("convert", tmp_path / "mm.safetensors", tmp_path / "out", fails=True).stderr


def test_pia(tmp_path):
    conv_in = {"conv_in.weight": torch.randn(32, 9, 3, 3), "conv_in.bias": torch.randn(32)}
    state = {"module." + name: value for name, value in (original_names(STATE) | conv_in).items()}
    torch.save({"state_dict": state}, tmp_path / "pia.ckpt")
    equal(converted(tmp_path / "pia.ckpt", tmp_path / "adapter"), STATE | conv_in)
    assert MotionAdapter.from_pretrained(tmp_path / "adapter").conv_in.in_channels == 9
    unet = drawn(
        UNetMotionModel(
            in_channels=9,
            block_out_channels=(32,),
            layers_per_block=1,
            cross_attention_dim=8,
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlockMotion",),
            up_block_types=("CrossAttnUpBlockMotion",),
            motion_num_attention_heads=2,
        )
    )
    unet.save_pretrained(tmp_path / "unet")
    found = converted(tmp_path / "unet", tmp_path / "of_unet")
    assert torch.equal(found["conv_in.weight"], unet.conv_in.weight)
    assert MotionAdapter.from_pretrained(tmp_path / "of_unet").conv_in.in_channels == 9


# LoRAs


def factors(model, rank=4):
    generator = torch.Generator().manual_seed(5)
    return {
        path: (
            torch.randn(rank, module.in_features, generator=generator),
            torch.randn(module.out_features, rank, generator=generator),
        )
        for path, module in model.named_modules()
        if path.endswith(("to_q", "to_k", "to_v", "to_out.0"))
    }


def original_path(path):
    return next(iter(original_names({path + ".x": 0})))[:-2]


def processor(path, side):
    parent, _, layer = path.replace(".to_out.0", ".to_out").rpartition(".")
    return f"{parent}.processor.{layer}_lora.{side}.weight"


def motion_director(path, side):
    """As AnimateDiff-MotionDirector names a motion LoRA's factors: to_out.0 becomes to_out.processor.0_lora."""
    parent, _, layer = path.rpartition(".")
    return f"{parent}.processor.{layer}_lora.{side}.weight"


def kohya(path, side):
    return "lora_unet_" + path.replace(".", "_") + f".lora_{side}.weight"


FORMS = {
    "original": lambda p, s: processor(original_path(p), s),
    "diffusers": lambda p, s: "unet." + processor(p, s),
    "diffusers lora": lambda p, s: f"unet.{p}.lora.{s}.weight",
    "linear layer": lambda p, s: f"{p}.lora_linear_layer.{s}.weight",
    "peft": lambda p, s: f"unet.{p}.lora_{'A' if s == 'down' else 'B'}.weight",
    "peft model": lambda p, s: f"base_model.model.{p}.lora_{'A' if s == 'down' else 'B'}.weight",
    "peft adapter": lambda p, s: f"unet.{p}.lora_{'A' if s == 'down' else 'B'}.zoom_in.weight",
    "loralib": lambda p, s: f"{p}.lora_{'A' if s == 'down' else 'B'}",
    "loralib original": lambda p, s: f"module.{original_path(p)}.lora_{'A' if s == 'down' else 'B'}",
    "motion director": lambda p, s: motion_director(original_path(p), s),
    "motion director's other": lambda p, s: f"{original_path(p)}.lora_{s}.weight",
    "kohya": kohya,
    "kohya original": lambda p, s: kohya(original_path(p), s),
}


def lora_state(form, pairs):
    return {FORMS[form](p, side): pair[i].clone() for p, pair in pairs.items() for i, side in enumerate(("down", "up"))}


def merged(base, lora, out, *options):
    return converted(base, out, "--lora", lora, *options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A v2 and a v3 adapter in the original's names, and the v2 one with a LoRA in the original's form."""
    folder = tmp_path_factory.mktemp("base")
    v3 = {name: value for name, value in STATE.items() if not name.startswith("mid_block")}
    torch.save(original_names(STATE), folder / "v2.ckpt")
    torch.save(original_names(v3), folder / "v3.ckpt")
    pairs = factors(adapter(**SMALL))
    save_file(lora_state("original", pairs), folder / "lora.safetensors")
    exact = merged(folder / "v2.ckpt", folder / "lora.safetensors", folder / "merged")
    for path, (down, up) in pairs.items():
        wanted = STATE[path + ".weight"].double() + up.double() @ down.double()
        assert torch.equal(exact[path + ".weight"], wanted.float())
    return types.SimpleNamespace(folder=folder, pairs=pairs, v2=folder / "v2.ckpt", v3=folder / "v3.ckpt", exact=exact)


@pytest.mark.parametrize("container", ["safetensors", "torch"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_merges_to_the_same_bits(form, container, base, tmp_path):
    state = lora_state(form, base.pairs)
    if container == "torch":
        torch.save({"lora": {"state_dict": state}, "step": 3}, tmp_path / "lora")
    else:
        save_file(state, tmp_path / "lora")
    equal(merged(base.v2, tmp_path / "lora", tmp_path / "out", "--strict"), base.exact)


@pytest.mark.parametrize(
    "alpha", [torch.tensor(8), torch.tensor([8.0]), torch.tensor(8.0).half(), torch.tensor([8]).to(torch.int32)]
)
def test_alphas_of_any_type(alpha, base, tmp_path):
    state = lora_state("kohya", base.pairs)
    state |= {
        name.removesuffix(".lora_down.weight") + ".alpha": alpha.clone() for name in list(state) if "down" in name[-16:]
    }
    save_file(state, tmp_path / "lora")
    equal(merged(base.v2, tmp_path / "lora:0.5", tmp_path / "out", "--strict"), base.exact)  # 8 / 4 * 0.5


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_match_as_peft_does(rslora, base, tmp_path):
    from peft.utils.other import get_pattern_key

    alphas = {
        r"^down_blocks.*attn1\.to_q": 1,
        r"mid_block\.motion_modules\.0\..*": 2,
        "to_k": 3,
        r"attn\d\.to_v": 5,
        "o_out.0": 7,  # the end of no component
    }
    ranks = {"to_k": 2}
    pairs = {
        path: (down[:2].contiguous(), up[:, :2].contiguous()) if path.endswith("to_k") else (down, up)
        for path, (down, up) in base.pairs.items()
    }
    settings = dict(r=4, lora_alpha=16, alpha_pattern=alphas, rank_pattern=ranks, use_rslora=rslora)
    (tmp_path / "peft").mkdir()
    save_file(lora_state("peft model", pairs), tmp_path / "peft/adapter_model.safetensors")
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps(settings))
    found = merged(base.v2, tmp_path / "peft", tmp_path / "out", "--strict")
    for path, (down, up) in pairs.items():
        alpha = alphas.get(get_pattern_key(alphas.keys(), path), 16)
        rank = ranks.get(get_pattern_key(ranks.keys(), path), 4)
        factor = alpha / (rank**0.5 if rslora else rank)
        exact = STATE[path + ".weight"].double() + factor * up.double() @ down.double()
        assert torch.allclose(found[path + ".weight"].double(), exact, rtol=2**-23, atol=2**-22), path


def report_of(*arguments):
    return json.loads(run("convert", *arguments, "--json").stdout)["loras"][0]


def test_what_fits_is_merged_and_what_does_not_is_listed(base, tmp_path):
    spatial = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    dora = "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    state = lora_state("peft", base.pairs)
    state |= {
        spatial + ".lora_A.weight": torch.randn(4, 32),
        spatial + ".lora_B.weight": torch.randn(32, 4),
        text + ".lora_down.weight": torch.randn(4, 32),
        text + ".lora_up.weight": torch.randn(32, 4),
        dora + ".lora_magnitude_vector.weight": torch.ones(32),
        "text_embedding": torch.ones(3),
    }
    save_file(state, tmp_path / "lora.safetensors")
    report = report_of(base.v2, tmp_path / "out", "--lora", tmp_path / "lora.safetensors")
    assert report["merged"] == len(base.pairs) - 1
    why = {entry["key"]: entry["why"] for entry in report["skipped"]}
    assert set(why) == {spatial, text, dora, "text_embedding"} and "DoRA" in why[dora]
    found = load_file(tmp_path / "out" / WEIGHTS)
    left = dora.removeprefix("unet.") + ".weight"
    equal(found, base.exact | {left: STATE[left]})
    words = run(
        "convert", base.v2, tmp_path / "o", "--lora", tmp_path / "lora.safetensors", "--strict", fails=True
    ).stderr
    assert "DoRA" in words and not (tmp_path / "o").exists()


def test_a_v2_lora_on_v3(base, tmp_path):
    report = report_of(base.v3, tmp_path / "out", "--lora", base.folder / "lora.safetensors")
    middle = [path for path in base.pairs if path.startswith("mid_block")]
    assert report["merged"] == len(base.pairs) - len(middle) and len(report["skipped"]) == len(middle)
    assert all("no module mid_block" in entry["why"] for entry in report["skipped"])
    equal(
        {name: value for name, value in load_file(tmp_path / "out" / WEIGHTS).items() if "to_q" in name},
        {name: value for name, value in base.exact.items() if "to_q" in name and not name.startswith("mid_block")},
    )
    only = {name: value for name, value in lora_state("peft", base.pairs).items() if "mid_block" in name}
    save_file(only, tmp_path / "middle.safetensors")
    words = run("convert", base.v3, tmp_path / "o", "--lora", tmp_path / "middle.safetensors", fails=True).stderr
    assert "no module mid_block" in words and "in all" in words


def test_several_adapters_in_a_file(base, tmp_path):
    state = lora_state("peft adapter", base.pairs)
    state |= {name.replace("zoom_in", "pan"): value * 0 for name, value in state.items()}
    save_file(state, tmp_path / "two.safetensors")
    words = run("convert", base.v2, tmp_path / "o", "--lora", tmp_path / "two.safetensors", fails=True).stderr
    assert "zoom_in" in words and "pan" in words
    found = merged(base.v2, tmp_path / "two.safetensors", tmp_path / "out", "--adapter", "zoom_in")
    equal(found, base.exact)


def test_an_injected_adapter(tmp_path):
    from peft import LoraConfig, inject_adapter_in_model

    model = adapter(**SMALL)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_out.0"]), model)
    generator = torch.Generator().manual_seed(2)
    state = {
        name: torch.randn(value.shape, generator=generator) if "lora_B" in name else value.clone()
        for name, value in model.state_dict().items()
    }
    assert any(".base_layer.weight" in name for name in state)
    save_file(state, tmp_path / "with.safetensors")
    assert "adapter" in run("inspect", tmp_path / "with.safetensors").stdout
    report = inspect(tmp_path / "with.safetensors")
    assert sum(module["adapter"] for module in report["modules"]) == sum(".lora_" in name for name in state)
    assert not report["others"]
    equal(converted(tmp_path / "with.safetensors", tmp_path / "base"), STATE)
    found = merged(tmp_path / "with.safetensors", f"{tmp_path / 'with.safetensors'}:2", tmp_path / "merged", "--strict")
    for name, value in STATE.items():
        path = name.removesuffix(".weight")
        if path + ".lora_A.default.weight" not in state:
            assert torch.equal(found[name], value), name
            continue
        up, down = state[path + ".lora_B.default.weight"], state[path + ".lora_A.default.weight"]
        assert torch.equal(found[name], (value.double() + 2 * up.double() @ down.double()).float()), name


def test_a_lora_is_no_model(base):
    words = run("convert", base.folder / "lora.safetensors", base.folder / "no", fails=True).stderr
    assert "LoRA of rank 4" in words and "--lora" in words
    assert "LoRA of rank 4" in run("inspect", base.folder / "lora.safetensors").stdout
    with pytest.raises(kineograph.CheckpointError, match="LoRA of rank 4"):
        kineograph.TransformerTemporalModel.from_pretrained(base.folder / "lora.safetensors")


def test_the_pages_commands(base, tmp_path, monkeypatch):
    from peft import LoraConfig, inject_adapter_in_model

    monkeypatch.chdir(tmp_path)
    wrapped = {"module._orig_mod." + name: value for name, value in original_names(STATE).items()}
    torch.save({"state_dict": wrapped, "optimizer": optimizer_state(), "epoch": 5}, "checkpoint-5000.ckpt")
    pathlib.Path("checkpoint-1000").mkdir()
    save_file(STATE, "checkpoint-1000/model.safetensors")
    adapter(**SMALL).save_pretrained("checkpoint-1000/unet")
    torch.save({"state_dict": STATE, "ema_model": {"module." + k: v for k, v in OTHER.items()}}, "epoch_3.pt")
    save_file(stored(original_names(STATE), torch.float8_e4m3fn), "mm_fp8.safetensors")
    torch.save(original_names(STATE), "base.ckpt")
    save_file(lora_state("original", base.pairs), "zoom_in.safetensors")
    injected = adapter(**SMALL)
    inject_adapter_in_model(LoraConfig(r=4, target_modules=["to_q"]), injected)
    save_file(state_of(injected), "with_adapter.safetensors")
    numpy.save("in.npy", numpy.random.default_rng(0).standard_normal((4, 32, 2, 2), numpy.float32))

    text = (pathlib.Path(__file__).parents[2] / "docs/from_training.md").read_text()
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("kineograph ")]
    assert len(commands) > 12
    for command in commands:
        run(*command)
        if command[0] == "convert" and not command[2].endswith(".safetensors"):
            MotionAdapter.from_pretrained(command[2], torch_dtype=torch.float32)
    equal(load_file("adapter/" + WEIGHTS), {name: value.half() for name, value in STATE.items()})
    equal(load_file("adapter-accelerate/" + WEIGHTS), STATE)
    equal(load_file("adapter-plain/" + WEIGHTS), STATE)
    equal(load_file("adapter-ema/" + WEIGHTS), OTHER)


def test_loras_of_one_module(base, tmp_path):
    """from_pretrained(loras=...) gives the weights that convert writes; what of this module's does not fit is said."""
    name = "mid_block.motion_modules.0"
    load = functools.partial(kineograph.TransformerTemporalModel.from_pretrained, base.v2, module=name)
    found = load(loras=[(base.folder / "lora.safetensors", 1.0)], strict=True).state_dict()
    for parameter, value in found.items():
        assert numpy.array_equal(value, base.exact[f"{name}.{parameter}"]), parameter
    state = lora_state("peft", base.pairs)
    layer = f"unet.{name}.transformer_blocks.0.attn1.to_q"
    state[layer + ".lora_magnitude_vector.weight"] = torch.ones(32)
    save_file(state, tmp_path / "dora.safetensors")
    with pytest.warns(UserWarning, match="a DoRA"):
        left = load(loras=[(tmp_path / "dora.safetensors", 1.0)]).state_dict()
    weight = "transformer_blocks.0.attn1.to_q.weight"
    assert numpy.array_equal(left[weight], STATE[f"{name}.{weight}"])
    with pytest.raises(kineograph.CheckpointError, match="a DoRA"):
        load(loras=[(tmp_path / "dora.safetensors", 1.0)], strict=True)


def test_what_is_printed_grows_with_the_file(tmp_path):
    """A long name, or one that is a key of many tensors, must not be printed once for each of them."""
    empty = torch.ones(0)
    save_file({str(i): empty.clone() for i in range(2000)} | {"w" * 200_000: empty}, tmp_path / "wide.safetensors")
    torch.save({"k" * 50_000: {i: {"x": 1} for i in range(2000)}, "w": torch.ones(1)}, tmp_path / "deep.pt")
    for file in (tmp_path / "wide.safetensors", tmp_path / "deep.pt"):
        for options in ((), ("--tensors",), ("--json",)):
            printed = run("inspect", file, *options).stdout
            assert len(printed) < 8 * file.stat().st_size + 10_000, (file, options)
    tree = {"k" * 50_000: {i: {"x": torch.ones(0)} for i in range(2000)}}
    torch.save(tree, tmp_path / "bomb.pt")
    assert "names that the pickle has bytes for" in run("inspect", tmp_path / "bomb.pt", fails=True).stderr
