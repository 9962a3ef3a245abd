"""The drop-in classes, module by module, against diffusers' own."""

import contextlib
import copy
import gc
import io
import json
import logging
import pathlib
import pickle
import sys
import threading

import kineograph
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0  # noqa: E402
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D  # noqa: E402
from kineograph import diffusers as native  # noqa: E402

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
sys.path.append(str(GOLDENS))
import seeded_weights  # noqa: E402
from temporal_modules import in_windows  # noqa: E402

BASE = dict(num_attention_heads=4, attention_head_dim=8, in_channels=32, norm_num_groups=8)
CONFIGS = {
    "plain": {},
    "positions": dict(positional_embeddings="sinusoidal", num_positional_embeddings=16),
    "cross": dict(double_self_attention=False, cross_attention_dim=12),
    "single": dict(double_self_attention=False),
    "layers": dict(num_layers=2, attention_bias=True),
    "no_affine": dict(norm_elementwise_affine=False),
    **{
        name: dict(activation_fn=name)
        for name in ("gelu", "gelu-approximate", "geglu-approximate", "swiglu", "linear-silu")
    },
}


def pair(kind=diffusers.TransformerTemporalModel, dtype=torch.float32, **changes):
    """diffusers' own module with random weights, and ours with the same."""
    torch.manual_seed(0)
    theirs = kind(**(BASE | changes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5))
    ours_kind = (
        native.TransformerTemporalModel
        if kind is diffusers.TransformerTemporalModel
        else native.AnimateDiffTransformer3D
    )
    ours = ours_kind(**(BASE | changes)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def clip(frames=6, channels=32, height=5, width=3, dtype=torch.float32):
    return torch.randn(frames, channels, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def text(rows, dim=12):
    return torch.randn(rows, 4, dim, generator=torch.Generator().manual_seed(2))


def close(a, b, tolerance=4e-6):
    assert a.dtype == b.dtype and a.shape == b.shape
    return ((a - b).abs().max() <= tolerance * b.abs().max()).item()


def ran_natively(count=1):
    return kineograph.stats(reset=True) == kineograph.Stats(native=count)


def fell_back(words):
    stats = kineograph.stats(reset=True)
    return stats.native == 0 and len(stats.fallbacks) == 1 and words in next(iter(stats.fallbacks))


@contextlib.contextmanager
def as_diffusers(model):
    """Makes a module of ours run diffusers' own code: a hook inside wants to hear of it."""
    handle = model.transformer_blocks[0].ff.register_forward_hook(lambda *_: None)
    try:
        yield model
    finally:
        handle.remove()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers(name):
    theirs, ours = pair(**CONFIGS[name])
    arguments = {"num_frames": 3}
    if name == "cross":
        arguments["encoder_hidden_states"] = text(30)
    assert close(ours(clip(), **arguments).sample, theirs(clip(), **arguments).sample)
    assert ran_natively()
    assert isinstance(ours, diffusers.TransformerTemporalModel) and list(ours.state_dict()) == list(theirs.state_dict())


@torch.no_grad()
def test_output_types():
    theirs, ours = pair()
    wanted, found = theirs(clip(), num_frames=6), ours(clip(), num_frames=6)
    assert type(found) is type(wanted)
    (sample,) = ours(clip(), num_frames=6, return_dict=False)
    assert torch.equal(sample, found.sample) and sample.is_contiguous()


@torch.no_grad()
def test_animatediff_transformer():
    theirs, ours = pair(AnimateDiffTransformer3D, **CONFIGS["positions"])
    assert close(ours(clip(), num_frames=6), theirs(clip(), num_frames=6)) and ran_natively()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_as_exact_as_torch(dtype):
    theirs, ours = pair(dtype=dtype, **CONFIGS["positions"])
    x = clip(16, 32, 8, 8, dtype)
    truth = copy.deepcopy(theirs).double()(x.double(), num_frames=16).sample
    found, torchs = ours(x, num_frames=16).sample, theirs(x, num_frames=16).sample
    assert found.dtype == dtype and ran_natively()
    assert (found.double() - truth).square().mean() <= (torchs.double() - truth).square().mean()


@torch.no_grad()
def test_autocast():
    theirs, ours = pair()
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = ours(clip(), num_frames=6).sample, theirs(clip(), num_frames=6).sample
    assert ran_natively() and close(found, wanted, 3e-2) and not close(found, ours(clip(), num_frames=6).sample, 1e-5)
    kineograph.stats(reset=True)
    with torch.autocast("cpu", torch.float16):
        ours(clip(), num_frames=6)
    assert fell_back("autocast")


@torch.no_grad()
def test_strided_inputs_and_inference_mode():
    theirs, ours = pair()
    wanted = theirs(clip(), num_frames=6).sample
    assert close(ours(clip().to(memory_format=torch.channels_last), num_frames=6).sample, wanted)
    with torch.inference_mode():
        made_inside = pair()[1]
        assert close(ours(clip(), num_frames=6).sample, wanted)
        assert close(made_inside(clip(), num_frames=6).sample, wanted)
    assert ran_natively(3)


CHANGES = {
    "add_": lambda model, _: model.proj_in.weight.add_(0.25),
    "data": lambda model, _: model.proj_out.weight.data.mul_(0.5),
    "one element of data": lambda model, _: model.transformer_blocks[0].ff.net[2].weight.data[3, 5].add_(3.0),
    "numpy": lambda model, _: model.proj_in.weight.numpy().__setitem__((0, 0), 7.0),
    "load_state_dict": lambda model, other: model.load_state_dict(other.state_dict()),
    "load_state_dict assign": lambda model, other: model.load_state_dict(
        copy.deepcopy(other).state_dict(), assign=True
    ),
    "to": lambda model, _: model.to(torch.bfloat16).to(torch.float32),
    "new parameter": lambda model, other: setattr(model, "proj_in", copy.deepcopy(other.proj_in)),
    "buffer": lambda model, _: model.transformer_blocks[0].pos_embed.pe.mul_(2),
    "norm": lambda model, _: model.norm.bias.fill_(1.0),
}


@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_packed_weights_follow_the_parameters(name):
    theirs, ours = pair(**CONFIGS["positions"])
    before = ours(clip(), num_frames=6).sample
    other = diffusers.TransformerTemporalModel(**(BASE | CONFIGS["positions"]))
    for model in (theirs, ours):
        CHANGES[name](model, other)
    after = ours(clip(), num_frames=6).sample
    assert not torch.equal(before, after)
    assert close(after, theirs(clip(), num_frames=6).sample) and ran_natively(2)


@torch.no_grad()
def test_packing_happens_once():
    _, ours = pair()
    made = []
    original = native.modules.native._native.Model.from_state_dict
    native.modules.native._native = type(
        "Spy",
        (),
        {
            "Model": type("Model", (), {"from_state_dict": staticmethod(lambda *a: made.append(1) or original(*a))}),
            "fingerprint": staticmethod(native.modules.native._native.fingerprint),
        },
    )
    try:
        compiled = torch.compile(ours, fullgraph=True)
        for _ in range(3):
            ours(clip(), num_frames=6)
            compiled(clip(), num_frames=6)
    finally:
        native.modules.native._native = kineograph._native
    assert len(made) == 1


def test_fallbacks_say_why_and_are_right():
    theirs, ours = pair(**CONFIGS["positions"])
    x = clip()
    assert close(ours(x, num_frames=6).sample, theirs(x, num_frames=6).sample) and ran_natively()
    ours.transformer_blocks[0].pos_embed.pe.requires_grad_()
    assert ours(x, num_frames=6).sample.requires_grad and fell_back("gradients of positions")
    ours.transformer_blocks[0].pos_embed.pe.requires_grad_(False)
    with torch.no_grad():
        wanted = theirs(x, num_frames=6).sample
        handle = ours.proj_in.register_forward_hook(lambda module, args, output: output * 2)
        assert not close(ours(x, num_frames=6).sample, wanted, 1e-3) and fell_back("proj_in has hooks")
        handle.remove()
        processor = AttnProcessor2_0.__new__(type("Mine", (AttnProcessor2_0,), {}))
        ours.transformer_blocks[0].attn2.set_processor(processor)
        assert close(ours(x, num_frames=6).sample, wanted) and fell_back("attn2 has a processor of its own, Mine")
        ours.transformer_blocks[0].attn2.set_processor(AttnProcessor())
        assert close(ours(x, num_frames=6).sample, wanted) and ran_natively()
        ours(x, num_frames=6, cross_attention_kwargs={"scale": 1.0})
        assert ran_natively()
        for name, module in (("proj_out", torch.nn.Sequential(ours.proj_out)), ("proj_out", ours.proj_out)):
            setattr(ours, name, module)
            assert close(ours(x, num_frames=6).sample, wanted)
        assert kineograph.stats(reset=True) == kineograph.Stats(1, {"proj_out is a Sequential": 1})
        assert close(ours.double()(x.double(), num_frames=6).sample.float(), wanted) and fell_back("float64")
        meta = copy.deepcopy(ours).to("meta")
        assert meta(x.to("meta").double(), num_frames=6).sample.device.type == "meta" and fell_back("meta")


@torch.no_grad()
def test_hooks_on_the_module_itself_run():
    _, ours = pair()
    seen = []
    ours.register_forward_pre_hook(lambda module, args: seen.append("before"))
    ours.register_forward_hook(lambda module, args, output: seen.append("after"))
    ours(clip(), num_frames=6)
    assert seen == ["before", "after"] and ran_natively()


BAD_CALLS = {
    "channels": lambda model: model(clip(channels=31), num_frames=6),
    "frames": lambda model: model(clip(), num_frames=4),
    "no frames": lambda model: model(clip(), num_frames=0),
    "positions": lambda model: model(clip(18), num_frames=18),
    "dtype": lambda model: model(clip(dtype=torch.bfloat16), num_frames=6),
    "rank": lambda model: model(clip()[0], num_frames=6),
    "encoder": lambda model: model(clip(), encoder_hidden_states=text(7, 9), num_frames=6),
    "argument": lambda model: model(clip(), frames=6),
}


@pytest.mark.parametrize("name", BAD_CALLS)
@torch.no_grad()
def test_same_errors(name):
    caught = []
    for model in pair(**CONFIGS["positions"]):
        with pytest.raises(Exception) as error:
            BAD_CALLS[name](model)
        caught.append((error.type, str(error.value).replace("kineograph", "diffusers")))
    assert caught[0] == caught[1]


@torch.no_grad()
def test_same_warnings():
    handler, texts = logging.StreamHandler(io.StringIO()), []
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    try:
        for model in pair():
            handler.stream = io.StringIO()
            model(clip(), num_frames=6, cross_attention_kwargs={"scale": 0.5, "nonsense": 1})
            texts.append(handler.stream.getvalue())
    finally:
        logger.removeHandler(handler)
    assert texts[0] == texts[1] and "scale" in texts[0]


@torch.no_grad()
def test_feed_forward_chunking():
    theirs, ours = pair()
    for model in (theirs, ours):
        model.transformer_blocks[0].set_chunk_feed_forward(5, 0)
    assert close(ours(clip(), num_frames=6).sample, theirs(clip(), num_frames=6).sample) and ran_natively()
    for model in (theirs, ours):
        model.transformer_blocks[0].set_chunk_feed_forward(4, 0)
        with pytest.raises(ValueError, match="chunk"):
            model(clip(), num_frames=6)


@torch.no_grad()
def test_save_and_load(tmp_path):
    theirs, ours = pair(**CONFIGS["positions"])
    wanted = theirs(clip(), num_frames=6).sample
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs")]
    for config in configs:
        config.pop("_name_or_path", None)
    assert configs[0] == configs[1]
    for kind, name in ((diffusers.TransformerTemporalModel, "ours"), (native.TransformerTemporalModel, "theirs")):
        loaded = kind.from_pretrained(tmp_path / name)
        assert type(loaded) is kind and close(loaded(clip(), num_frames=6).sample, wanted)
    array_model = kineograph.TransformerTemporalModel.from_pretrained(tmp_path / "ours")
    assert close(array_model(clip(), num_frames=6).sample, wanted)


@torch.no_grad()
def test_pickle_and_deepcopy():
    _, ours = pair()
    wanted = ours(clip(), num_frames=6).sample
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(clip(), num_frames=6).sample, wanted)
        other.proj_in.weight.data.zero_()
        assert not torch.equal(other(clip(), num_frames=6).sample, wanted)
    assert torch.equal(ours(clip(), num_frames=6).sample, wanted)


@torch.no_grad()
def test_several_threads():
    _, ours = pair()
    wanted, wrong = ours(clip(), num_frames=6).sample, []

    def work():
        with torch.no_grad():
            wrong.extend(i for i in range(20) if not torch.equal(ours(clip(), num_frames=6).sample, wanted))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and ran_natively(81)


@torch.no_grad()
def test_packed_weights_go_with_the_module():
    _, ours = pair()
    ours(clip(), num_frames=6)
    gc.collect()
    held = len(native.modules.native._packed)
    del ours
    gc.collect()
    assert len(native.modules.native._packed) == held - 1


@torch.no_grad()
def test_compile_and_export_without_a_graph_break():
    theirs, ours = pair(**CONFIGS["cross"])
    arguments = {"num_frames": 3, "encoder_hidden_states": text(30)}
    wanted = theirs(clip(), **arguments).sample
    compiled = torch.compile(ours, fullgraph=True)
    assert close(compiled(clip(), **arguments).sample, wanted)
    compiled(clip(), **arguments)
    assert ran_natively(2)
    ours.proj_in.weight.data.mul_(2)  # a compiled graph follows the parameters too
    theirs.proj_in.weight.data.mul_(2)
    assert close(compiled(clip(), **arguments).sample, theirs(clip(), **arguments).sample)
    exported = torch.export.export(ours, (clip(),), arguments)
    assert any("kineograph" in str(node.target) for node in exported.graph.nodes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    again = torch.export.load(file).module()
    assert close(again(clip(), **arguments).sample, theirs(clip(), **arguments).sample)


@torch.no_grad()
def test_record_attention():
    _, ours = pair(**CONFIGS["positions"])
    holder = torch.nn.ModuleDict({"temporal": ours})
    with kineograph.record_attention(holder) as maps:
        holder["temporal"](clip(), num_frames=6)
    assert list(maps) == [f"temporal.transformer_blocks.0.attn{n}" for n in (1, 2)]
    assert maps["temporal.transformer_blocks.0.attn2"].shape == (1, 15, 4, 6, 6)


def lora(model, scale=1.0):
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(3)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in"]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2 * scale)


@torch.no_grad()
def test_lora():
    pytest.importorskip("peft")
    theirs, ours = pair()
    plain = ours(clip(), num_frames=6).sample
    lora(theirs), lora(ours)
    wanted = theirs(clip(), num_frames=6).sample
    assert close(ours(clip(), num_frames=6).sample, wanted) and not close(plain, wanted, 1e-2)
    layers = [[m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "merge")] for model in (theirs, ours)]
    assert layers[1]

    def both(change):
        for each in layers:
            for layer in each:
                change(layer)
        return close(ours(clip(), num_frames=6).sample, theirs(clip(), num_frames=6).sample)

    assert both(lambda layer: layer.set_scale("default", 0.3))
    assert both(lambda layer: layer.lora_B["default"].weight.data.mul_(-1))
    assert both(lambda layer: layer.merge())
    assert both(lambda layer: layer.unmerge())
    assert both(lambda layer: layer.enable_adapters(False)) and close(ours(clip(), num_frames=6).sample, plain)
    assert not kineograph.stats().fallbacks
    torch.compile(ours, backend="eager")(clip(), num_frames=6)


EXTRAS = {
    "ada_norm": dict(norm_type="ada_norm", num_embeds_ada_norm=50),
    "ada_norm_zero": dict(norm_type="ada_norm_zero", num_embeds_ada_norm=5, num_layers=2),
    "frame": dict(group_norm_scope="frame"),
    "frame_cross": dict(
        group_norm_scope="frame",
        norm_type="ada_norm",
        num_embeds_ada_norm=50,
        double_self_attention=False,
        cross_attention_dim=12,
    ),
    "discrete": dict(num_vector_embeds=7, sample_size=3, in_channels=None),
    "discrete_ada": dict(
        num_vector_embeds=7, sample_size=3, in_channels=None, norm_type="ada_norm_zero", num_embeds_ada_norm=5
    ),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_extras(name, tmp_path):
    torch.manual_seed(0)
    ours = native.TransformerTemporalModel(**(BASE | EXTRAS[name])).eval()
    x = torch.randint(0, 7, (6, 9)) if "discrete" in name else clip()
    arguments = {"num_frames": 3}
    if "ada" in name or "cross" in name:
        arguments |= {"timestep": torch.tensor([3, 41]), "class_labels": torch.tensor([1, 5])}
    if "cross" in name:
        arguments["encoder_hidden_states"] = text(2)  # a row a video
    with as_diffusers(ours):
        fallback = ours(x, **arguments).sample
    assert fell_back("has hooks") and fallback.requires_grad
    with torch.no_grad():
        sample = ours(x, **arguments).sample
        assert ran_natively() and close(sample, fallback)
        compiled = torch.compile(ours, fullgraph=True)(x, **arguments).sample
        assert ran_natively() and torch.equal(compiled, sample)
        ours.save_pretrained(tmp_path)
        again = native.TransformerTemporalModel.from_pretrained(tmp_path)
        assert torch.equal(again(x, **arguments).sample, sample)
        numpys = kineograph.TransformerTemporalModel.from_pretrained(tmp_path)(x, **arguments).sample
        assert close(numpys, sample)


def test_extras_refuse_what_does_not_fit():
    for changes, words in (
        (dict(norm_type="batch_norm"), "norm_type"),
        (dict(norm_type="ada_norm"), "num_embeds_ada_norm"),
        (dict(group_norm_scope="video"), "group_norm_scope"),
        (dict(num_vector_embeds=7), "sample_size"),
    ):
        with pytest.raises(ValueError, match=words):
            native.TransformerTemporalModel(**(BASE | changes))


def golden_names():
    return sorted(path.stem for path in GOLDENS.glob("*.safetensors") if path.stem != "gradients")


@pytest.mark.parametrize("name", golden_names())
@torch.no_grad()
def test_goldens(name):
    """Every configuration that the engines are held to, through torch, natively and not."""
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        about = file.metadata()
    model = native.TransformerTemporalModel(**json.loads(about["config"])).eval()
    if "context" in about:
        in_windows(model, *json.loads(about["context"]))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[about["weights_dtype"]]
    for key, value in model.state_dict().items():
        drawn = torch.from_numpy(seeded_weights.draw(int(about["seed"]), key, shapes))
        value.copy_((value if key.endswith(".pe") and about.get("pe") != "seeded" else drawn).to(dtype))
    wanted = tensors.pop("sample")
    hidden = tensors.pop("hidden_states")
    hidden = hidden if hidden.dtype == torch.int64 else hidden.float()
    tensors = {key: value.float() if key == "encoder_hidden_states" else value for key, value in tensors.items()}
    allowed = max(2e-6, 8 * float(about["diffusers_f32_error"])) * wanted.abs().max()
    for how in (contextlib.nullcontext, as_diffusers):
        with how(model):
            sample = model(hidden, num_frames=int(about["num_frames"]), **tensors).sample
        assert (sample - wanted).abs().max() <= allowed
    stats = kineograph.stats()
    assert stats.native == 1 and sum(stats.fallbacks.values()) == 1
