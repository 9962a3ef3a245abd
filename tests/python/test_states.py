"""States that people put temporal modules into: diffusers' own forward and ours, of the same change."""

import copy
import os
import subprocess
import sys
import types
import warnings

import kineograph
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.utils.flop_counter")
diffusers = pytest.importorskip("diffusers")

from diffusers.models import attention, attention_processor  # noqa: E402
from diffusers.models.attention_processor import (  # noqa: E402
    AttnProcessor,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from diffusers.models.embeddings import SinusoidalPositionalEmbedding  # noqa: E402
from temporal_modules import (  # noqa: E402
    CROSS,
    animatediff,
    answer,
    clip,
    difference,
    lora,
    run_unet,
    temporal,
    text,
    twins,
    unet,
)

MOMENTS = ("before", "after", "after a forward")


def forward(model):
    return model(clip(), num_frames=4)


def compare(theirs, ours, call=forward):
    """Asserts that both answer alike; returns the reason of our fallback, None where we ran natively or both raised."""
    kineograph.stats(reset=True)
    with torch.no_grad():
        wanted, found = answer(call, theirs), answer(call, ours)
    off = difference(wanted, found)
    assert off is None, off
    stats = kineograph.stats(reset=True)
    assert isinstance(found, Exception) or stats.native + sum(stats.fallbacks.values()) > 0
    return next(iter(stats.fallbacks), None)


def changed(made, make, moment, call=forward):
    """`made` and its accelerated copy after a change at a moment."""
    theirs, ours = twins(made)

    def change(model):
        torch.manual_seed(3)  # some changes draw
        make(model)

    if moment == "before":
        change(ours)
    report = kineograph.accelerate(ours)
    if moment == "after a forward":
        compare(theirs, ours, call)
    if moment != "before":
        change(ours)
        report = kineograph.accelerate(ours)
    change(theirs)
    return theirs, ours, report


def each_block(change):
    return lambda model: [change(block) for block in model.transformer_blocks] and None


def each_attention(change):
    return lambda model: [change(one) for one in model.modules() if isinstance(one, attention_processor.Attention)]


def scaled(one):
    one.scale *= 2
    one.set_processor(AttnProcessor())


def fused(one):
    one.fuse_projections()
    one.set_processor(FusedAttnProcessor2_0())


# Change -> None where it runs natively, else words of the reason.
STATES = {
    "nothing": (lambda model: None, None),
    "no positions": (each_block(lambda block: setattr(block, "pos_embed", None)), None),
    "positions twice as long": (
        each_block(lambda block: setattr(block.pos_embed, "pe", torch.cat([block.pos_embed.pe] * 2, 1))),
        None,
    ),
    "positions of another module": (
        each_block(lambda block: setattr(block, "pos_embed", SinusoidalPositionalEmbedding(32, max_seq_length=64))),
        None,
    ),
    "fewer positions than frames": (
        each_block(lambda block: setattr(block.pos_embed, "pe", block.pos_embed.pe[:, :2].clone())),
        None,
    ),
    "positions scaled": (each_block(lambda block: block.pos_embed.pe.mul_(2)), None),
    "no second attention": (each_block(lambda block: setattr(block, "attn2", None)), None),
    "residual_connection": (each_attention(lambda one: setattr(one, "residual_connection", True)), "residual_conn"),
    "rescale_output_factor": (each_attention(lambda one: setattr(one, "rescale_output_factor", 0.5)), "rescale"),
    "scale, which is read": (each_attention(scaled), "scale of its own"),
    "scale, which is not read": (each_attention(lambda one: setattr(one, "scale", 3.0)), None),
    "heads": (each_attention(lambda one: setattr(one, "heads", 2)), None),
    "upcasts": (each_attention(lambda one: setattr(one, "upcast_attention", True)), None),
    "sliced": (each_attention(lambda one: one.set_attention_slice(3)), None),
    "slices of nothing": (each_attention(lambda one: one.set_processor(SlicedAttnProcessor(0))), "slices"),
    "fused": (each_attention(fused), None),
    "fused, then changed": (
        lambda model: (each_attention(fused)(model), model.transformer_blocks[0].attn1.to_q.weight.data.zero_())[:0],
        None,
    ),
    "fused, then changed what counts": (
        lambda model: (each_attention(fused)(model), model.transformer_blocks[0].attn1.to_qkv.weight.data.mul_(2))[:0],
        None,
    ),
    "an attribute of its own": (each_block(lambda block: setattr(block, "mine", 1)), "attribute of its own, mine"),
    "an epsilon": (lambda model: setattr(model.norm, "eps", 0.5), "epsilon"),
    "a final dropout": (each_block(lambda block: block.ff.net.append(torch.nn.Dropout(0.5).eval())), None),
    "one more layer": (each_block(lambda block: block.ff.net.append(torch.nn.SiLU())), "SiLU"),
    "chunks": (each_block(lambda block: block.set_chunk_feed_forward(2, 1)), None),
    "a weight seen the other way": (
        lambda model: setattr(model.proj_in.weight, "data", model.proj_in.weight.data.t().contiguous().t()),
        "not contiguous",
    ),
    "no bias": (lambda model: setattr(model.proj_in, "bias", None), "proj_in.bias is missing"),
    "quantised": (
        lambda model: torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, inplace=True),
        "torch.ao.nn.quantized.dynamic",
    ),
    "weight norm": (lambda model: torch.nn.utils.parametrizations.weight_norm(model.proj_out), "Parametrized"),
    "spectral norm of old": (lambda model: torch.nn.utils.spectral_norm(model.proj_out), "proj_out"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", STATES)
def test_states(name, moment):
    change, words = STATES[name]
    theirs, ours, report = changed(animatediff(), change, moment)
    if name == "quantised":
        theirs = copy.deepcopy(ours)
        kineograph.revert(theirs)
    said = compare(theirs, ours)
    # accelerate reports native only what the next forward runs natively.
    native = said is None or name == "fewer positions than frames"
    assert report.native == ([""] if native else []), report
    if words is None:
        assert native, said
    else:
        assert words in said and words in report.not_native[""]


def test_frames_beyond_the_table_raise_as_diffusers_does():
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    for model in (theirs, ours):
        with pytest.raises(RuntimeError, match="must match the size"):
            model(clip(64), num_frames=64)


def test_blocks_that_differ_fall_back():
    theirs, ours, _ = changed(
        animatediff(num_layers=2), lambda m: setattr(m.transformer_blocks[1], "pos_embed", None), "after"
    )
    assert "differs from the first block" in compare(theirs, ours)


# Attention processors, and arguments for them.


def test_cross_attention_projections_that_were_fused():
    call = lambda model: model(clip(), encoder_hidden_states=text(32), num_frames=4)  # noqa: E731
    theirs, ours, _ = changed(temporal(**CROSS), lambda m: fused(m.transformer_blocks[0].attn2), "after", call)
    assert compare(theirs, ours, call) is None


def test_xformers(monkeypatch):
    theirs, ours, _ = changed(
        animatediff(), each_attention(lambda one: one.set_processor(XFormersAttnProcessor())), "after"
    )
    monkeypatch.setattr(attention_processor, "xformers", None, raising=False)
    assert compare(theirs, ours) is not None or isinstance(answer(forward, ours), Exception)

    def memory_efficient_attention(query, key, value, attn_bias=None, op=None, scale=None):
        return ((query @ key.transpose(1, 2)) * scale).softmax(-1) @ value

    ops = types.SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setattr(attention_processor, "xformers", types.SimpleNamespace(ops=ops))
    assert compare(theirs, ours) is None


def test_a_scale_for_attention_is_ignored_with_diffusers_warnings(caplog):
    logger = diffusers.utils.logging.get_logger("diffusers")
    logger.propagate = True
    call = lambda model: model(clip(), num_frames=4, cross_attention_kwargs={"scale": 0.5, "odd": 1})  # noqa: E731
    said = []
    for model in twins(temporal(num_layers=2)):
        if said:
            kineograph.accelerate(model)
        caplog.clear()
        with torch.no_grad():
            call(model)
        said.append([(record.name, record.getMessage()) for record in caplog.records])
    logger.propagate = False
    assert said[0] == said[1] and len({text for _, text in said[0]}) == 2 and len(said[0]) % 6 == 0
    assert kineograph.stats() == kineograph.Stats(native=1)


def test_what_a_processor_or_block_reads_is_not_ignored():
    theirs, ours = twins(temporal())
    kineograph.accelerate(ours)
    mask = torch.zeros(1, 1, 4)
    for kwargs in ({"attention_mask": mask}, {"gligen": {"objs": 1}}, {"temb": 1}):
        call = lambda model, kwargs=kwargs: model(clip(), num_frames=4, cross_attention_kwargs=kwargs)  # noqa: E731
        compare(theirs, ours, call)
        assert kineograph.stats().native == 0


# LoRAs of PEFT.


def layers_of(model):
    from peft.tuners.lora.layer import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def each_layer(change):
    return lambda model: [change(layer) for layer in layers_of(model)] and None


def tensors_for_scaling(layer):
    for name, scaling in layer.scaling.items():
        layer.scaling[name] = torch.tensor(scaling)


LORAS = {
    "fuse, disable, enable": [
        each_layer(lambda layer: layer.merge()),
        each_layer(lambda layer: layer.enable_adapters(False)),
        each_layer(lambda layer: layer.enable_adapters(True)),
    ],
    "merge one of two": [
        each_layer(lambda layer: layer.set_adapter(["a", "b"])),
        each_layer(lambda layer: layer.merge(adapter_names=["a"])),
        each_layer(lambda layer: layer.unmerge()),
    ],
    "scalings that are tensors": [
        each_layer(tensors_for_scaling),
        each_layer(lambda layer: layer.scaling["a"].mul_(0.25)),
    ],
    "scale, set, delete": [
        each_layer(lambda layer: layer.scale_layer(0.25)),
        each_layer(lambda layer: layer.set_adapter("b")),
        each_layer(lambda layer: layer.delete_adapter("b")),
    ],
    "one adapter twice": [each_layer(lambda layer: setattr(layer, "_active_adapter", ["a", "a"]))],
    "merged in a part": [lambda model: layers_of(model)[1].merge(), lambda model: layers_of(model)[1].unmerge()],
}


@pytest.mark.parametrize("name", LORAS)
def test_loras(name):
    pytest.importorskip("peft")
    theirs, ours = twins(lora(animatediff(), ("a", "b")))
    kineograph.accelerate(ours)
    assert compare(theirs, ours) is None
    for step in LORAS[name]:
        for model in (theirs, ours):
            step(model)
        assert compare(theirs, ours) is None


LORAS_THAT_FALL_BACK = {
    "bias": ({"lora_bias": True}, lambda layer: None, "with a bias"),
    "two scalings": ({}, lambda layer: layer.scaling.__setitem__("a", torch.ones(32)), "not one number"),
    "trained scaling": ({}, lambda layer: layer.scaling.__setitem__("a", torch.ones((), requires_grad=True)), "number"),
    "hook": ({}, lambda layer: layer.lora_B["a"].register_forward_hook(lambda *_: _[2] * 2), "lora_B.a has hooks"),
    "attribute": ({}, lambda layer: setattr(layer, "mine", 1), "mine"),
}


@pytest.mark.parametrize("name", LORAS_THAT_FALL_BACK)
def test_loras_that_fall_back(name):
    pytest.importorskip("peft")
    changes, change, words = LORAS_THAT_FALL_BACK[name]
    targets = ["to_out.0"] if "bias" in name else ["to_q"]
    theirs, ours = twins(lora(animatediff(), targets=targets, **changes))
    kineograph.accelerate(ours)
    for model in (theirs, ours):
        each_layer(change)(model)
    assert words in compare(theirs, ours)


def test_a_lora_of_a_projection_that_is_called_by_keyword():
    pytest.importorskip("peft")
    theirs, ours = twins(lora(animatediff(), targets=["proj_in"]))
    report = kineograph.accelerate(ours)
    assert "argument" in report.not_native[""]
    for model in (theirs, ours):
        with pytest.raises(TypeError):
            forward(model)


def test_loras_in_a_compiled_graph():
    """Merged within the graph, which follows factors and scalings that change in place."""
    pytest.importorskip("peft")
    theirs, ours = twins(lora(animatediff(), ("a", "b")))
    kineograph.accelerate(ours)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    for step in (
        each_layer(lambda layer: None),
        each_layer(lambda layer: layer.lora_A["a"].weight.data.mul_(0.5)),
        *LORAS["scalings that are tensors"],
        each_layer(lambda layer: layer.set_adapter("b")),
    ):
        for model in (theirs, ours):
            step(model)
        assert compare(theirs, compiled) is None
    found = []
    for model, run in ((theirs, theirs), (ours, compiled)):
        model.zero_grad()
        forward(run).square().sum().backward()
        found.append([layers_of(model)[0].lora_A["b"].weight.grad, layers_of(model)[0].lora_B["b"].weight.grad])
    for wanted, gradient in zip(*found):
        assert difference(wanted, gradient) is None


def test_loras_hot_swapped_in_a_unet():
    peft = pytest.importorskip("peft")
    from diffusers.utils.peft_utils import scale_lora_layers
    from peft.utils.hotswap import prepare_model_for_compiled_hotswap

    made = unet()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=r".*motion_modules.*\.(to_q|to_k|to_v|to_out\.0)")
    made.add_adapter(config, adapter_name="a")
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    theirs, ours = twins(made)
    kineograph.accelerate(ours)
    assert compare(theirs, ours, run_unet) is None
    steps = [
        lambda model: prepare_model_for_compiled_hotswap(model, target_rank=8, config=config),
        lambda model: scale_lora_layers(model, 0.25),
        lambda model: model.fuse_lora(),
        lambda model: model.disable_lora(),
        lambda model: model.enable_lora(),
    ]
    for step in steps:
        for model in (theirs, ours):
            step(model)
        assert compare(theirs, ours, run_unet) is None


# Hooks, and undoing.


def accelerate_hook(model):
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(model, ModelHook())


def accelerate_hook_off(model):
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model)


def test_undo_with_a_hook_in_between():
    pytest.importorskip("accelerate")
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    accelerate_hook(ours)
    assert kineograph.accelerate(ours).native == [""]
    assert compare(theirs, ours) is None
    assert kineograph.revert(ours) == 1 and type(ours) is type(theirs)
    assert difference(answer(forward, theirs), answer(forward, ours)) is None
    accelerate_hook_off(ours)
    assert difference(answer(forward, theirs), answer(forward, ours)) is None
    assert kineograph.stats().native == 0
    assert kineograph.accelerate(ours).native == [""] and "forward" not in ours.__dict__
    assert compare(theirs, ours) is None


def test_a_hook_from_before_is_said():
    pytest.importorskip("accelerate")
    theirs, ours = twins(animatediff())
    accelerate_hook(ours)
    report = kineograph.accelerate(ours)
    assert not report.native and "replaced" in report.not_native[""]
    accelerate_hook_off(ours)
    assert kineograph.accelerate(ours).native == [""]
    assert compare(theirs, ours) is None


def test_hooks_inside_that_were_taken_off():
    pytest.importorskip("accelerate")
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    accelerate_hook(ours.proj_in)
    assert "proj_in has" in compare(theirs, ours)
    accelerate_hook_off(ours.proj_in)
    assert compare(theirs, ours) is None


def test_group_offload_then_undo():
    from diffusers.hooks import apply_group_offloading

    theirs, ours = twins(unet())
    kineograph.accelerate(ours)
    for model in (theirs, ours):
        for block in model.down_blocks:
            apply_group_offloading(
                block, onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
            )
    assert difference(answer(run_unet, theirs), answer(run_unet, ours)) is None
    kineograph.revert(ours)
    assert difference(answer(run_unet, theirs), answer(run_unet, ours)) is None


def test_functions_that_were_replaced(monkeypatch):
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    own = torch.nn.functional.scaled_dot_product_attention
    for owner, name, other in (
        (torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, **more: own(q, k, v, **more) * 2),
        (attention.FeedForward, "forward", lambda self, x: x),
        (attention_processor.AttnProcessor2_0, "__call__", lambda self, attn, x, **more: x),
        (torch.nn.Linear, "forward", lambda self, x=None, input=None: (x if input is None else input) * 2),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, other)
            assert f"{name} was replaced" in compare(theirs, ours)
        assert compare(theirs, ours) is None


def test_hooks_on_all_modules():
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    double = lambda module, given, output: output * 2 if isinstance(module, torch.nn.Linear) else None  # noqa: E731
    handle = torch.nn.modules.module.register_module_forward_hook(double)
    try:
        assert "hooks on all modules" in compare(theirs, ours)
    finally:
        handle.remove()


def test_modes_of_the_dispatcher():
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        assert "mode" in compare(theirs, ours)
    assert counter.get_total_flops() > 0
    torch.set_default_device("cpu")
    try:
        assert compare(theirs, ours) is None
    finally:
        torch.set_default_device(None)


# Gradient checkpointing.


def test_gradient_checkpointing_finds_no_switch_that_diffusers_lacks():
    theirs, ours = twins(unet())
    kineograph.accelerate(ours)
    found = []
    for model in (theirs, ours):
        model.enable_gradient_checkpointing()
        found.append({type(m).__name__ for m in model.modules() if getattr(m, "gradient_checkpointing", False)})
    assert found[0] == found[1]


# Other arguments than tensors and integers.


@pytest.mark.parametrize("frames", [True, 4.0, "4", torch.tensor(4), None])
def test_numbers_of_frames_of_other_kinds(frames):
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    compare(theirs, ours, lambda model: model(clip(), num_frames=frames))


def test_an_encoder_of_another_dtype_is_refused_as_by_diffusers():
    theirs, ours = twins(temporal(**CROSS))
    kineograph.accelerate(ours)
    compare(theirs, ours, lambda model: model(clip(), encoder_hidden_states=text(32).bfloat16(), num_frames=4))


def test_memory_that_is_not_there():
    _, ours = twins(animatediff())
    kineograph.accelerate(ours)
    ours.proj_in.weight.untyped_storage().resize_(0)
    found = kineograph.diffusers.arguments.why_not_these_weights([ours.proj_in.weight])
    assert found is not None and "memory" in found


def test_halves_that_overflow_in_diffusers():
    """float16 values of a block beyond 65504: diffusers gives infinities, the engine computes in f32."""
    made = animatediff()
    with torch.no_grad():
        made.proj_in.weight.mul_(6e4)
        made.proj_out.weight.mul_(1e-5)
    theirs, ours = twins(made.half())
    kineograph.accelerate(ours)
    with torch.no_grad():
        exact = copy.deepcopy(theirs).double()(clip().half().double(), num_frames=4)
        found, wanted = ours(clip().half(), num_frames=4), theirs(clip().half(), num_frames=4)
    assert kineograph.stats() == kineograph.Stats(native=1)
    assert wanted.isfinite().double().mean() < 0.2 and found.isfinite().all()
    assert (found.double() - exact).abs().max() <= 1e-3 * exact.abs().max()


# Compilation.


# (frames, videos, height, width). Sizes that are equal in the first call are one to torch, but where it is told not to.
SHAPES = ((8, 2, 4, 6), (4, 4, 4, 4), (16, 3, 6, 2), (7, 2, 3, 5))


@pytest.mark.parametrize(("shapes", "duck"), [(SHAPES, True), (SHAPES[1:] + SHAPES[:1], False)])
def test_dynamic_shapes_compile_once(shapes, duck):
    from torch._dynamo.testing import CompileCounter

    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    counter = CompileCounter()
    compiled = torch.compile(ours, backend=counter, fullgraph=True, dynamic=True)
    for frames, videos, height, width in shapes:
        given = clip(frames * videos, height, width)
        call = lambda model, given=given, frames=frames: model(given, num_frames=frames)  # noqa: E731
        kineograph.stats(reset=True)
        with torch.no_grad(), torch.fx.experimental._config.patch(use_duck_shape=duck):
            assert difference(answer(call, theirs), answer(call, compiled)) is None
        assert kineograph.stats() == kineograph.Stats(native=1)
    assert counter.frame_count == 1


COMPILED = ("nothing", "no positions", "no second attention", "residual_connection", "rescale_output_factor", "heads")


@pytest.mark.parametrize("name", COMPILED)
def test_changes_after_compilation(name):
    change, words = STATES[name]
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    assert compare(theirs, compiled) is None
    for model in (theirs, ours):
        change(model)
    said = compare(theirs, compiled)
    assert said is None if words is None else words in said


@pytest.mark.parametrize(("path", "method"), [("ff.net.0", "gelu"), ("attn1.to_out.1", "forward")])
def test_methods_replaced_after_compilation(path, method):
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    assert compare(theirs, compiled) is None
    for model in (theirs, ours):
        part = model.transformer_blocks[0].get_submodule(path)
        function = getattr(part, method)
        setattr(part, method, lambda x, function=function: function(x) * 1.5)
    assert "method of its own" in compare(theirs, compiled)


FRESH = """
import sys, torch
{first}
program = torch.export.load(sys.argv[1])
torch.save(program.module()(torch.load(sys.argv[2])), sys.argv[3])
"""


PACKAGE = """
import sys, torch
{first}
package = torch._inductor.aoti_load_package(sys.argv[1])
torch.save(package(torch.load(sys.argv[2]), num_frames=4), sys.argv[3])
"""


def in_a_fresh_process(first, *paths, program=FRESH, autoload=True):
    command = [sys.executable, "-c", program.format(first=first), *map(str, paths)]
    environment = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": str(int(autoload))}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def opens_by_itself_or_by_import(wanted, *paths, program, without):
    """A program opens where kineograph is installed; where torch does not ask for operators, after an import."""
    missing = in_a_fresh_process("", *paths, program=program, autoload=False)
    assert missing.returncode != 0 and without in missing.stderr, missing.stderr
    for first, autoload in (("", True), ("import kineograph.operators", False)):
        done = in_a_fresh_process(first, *paths, program=program, autoload=autoload)
        assert done.returncode == 0, done.stderr
        assert difference(wanted, torch.load(paths[2])) is None
        paths[2].unlink()


@torch.no_grad()
def test_exported_programs_say_what_loads_them(tmp_path):
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = ours

        def forward(self, x):
            return self.inner(x, num_frames=4)

    with pytest.warns(UserWarning, match="installed.*torch.export.load.*import kineograph.operators"):
        program = torch.export.export(Fixed(), (clip(),))
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save(clip(), tmp_path / "x.pt")
    paths = [tmp_path / name for name in ("program.pt2", "x.pt", "y.pt")]
    opens_by_itself_or_by_import(forward(theirs), *paths, program=FRESH, without="kineograph")


@torch.no_grad()
def test_a_package_of_aotinductor_runs_or_says_what_is_missing(tmp_path):
    theirs, ours = twins(animatediff())
    kineograph.accelerate(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(ours, (clip(),), {"num_frames": 4})
        torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
    torch.save(clip(), tmp_path / "x.pt")
    paths = [tmp_path / name for name in ("package.pt2", "x.pt", "y.pt")]
    opens_by_itself_or_by_import(forward(theirs), *paths, program=PACKAGE, without="kineograph::transformer_temporal")


# Versions of diffusers.

MOVED = """
import importlib.util, sys
import diffusers.models.attention as old
import diffusers.models.transformers.transformer_temporal as temporal
import diffusers.models.unets.unet_motion_model as motion
spec = importlib.util.spec_from_file_location("diffusers.models.moved", old.__file__)
sys.modules[spec.name] = moved = importlib.util.module_from_spec(spec)
spec.loader.exec_module(moved)
for name in ("BasicTransformerBlock", "FeedForward"):
    delattr(old, name)
for module in (temporal, motion):
    {use}
import kineograph.diffusers
from diffusers import TransformerTemporalModel
model = TransformerTemporalModel(num_attention_heads=2, attention_head_dim=8, in_channels=16, norm_num_groups=4)
print(kineograph.accelerate(model))
"""


def test_classes_that_move_inside_diffusers():
    use = "module.BasicTransformerBlock = moved.BasicTransformerBlock"
    done = subprocess.run([sys.executable, "-c", MOVED.format(use=use)], capture_output=True, text=True)
    assert "1 temporal module runs natively" in done.stdout, done.stderr


def test_classes_that_are_gone():
    use = "hasattr(module, 'BasicTransformerBlock') and delattr(module, 'BasicTransformerBlock')"
    done = subprocess.run([sys.executable, "-c", MOVED.format(use=use)], capture_output=True, text=True)
    assert "UpstreamError" in done.stderr and "known to work with diffusers 0.3" in done.stderr, done.stderr
