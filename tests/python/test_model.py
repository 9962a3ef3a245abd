"""The NumPy API: needs nothing but NumPy."""

import array
import gc
import json
import os
import pathlib
import pickle
import subprocess
import sys
import sysconfig
import threading
import weakref

import kineograph
import numpy
import pytest

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
SMALL = dict(num_attention_heads=4, attention_head_dim=8, in_channels=32, norm_num_groups=8)


def small(**changes):
    return kineograph.TransformerTemporalModel(**(SMALL | changes))


def clip(frames=6, channels=32, height=5, width=3, seed=0):
    return numpy.random.default_rng(seed).standard_normal((frames, channels, height, width), dtype=numpy.float32)


def reference(model, x, **arguments):
    """The reference engine's answer for the same weights."""
    same = kineograph.TransformerTemporalModel.from_state_dict(model.config, model.state_dict(), engine="reference")
    return same(x, **arguments).sample


def close(a, b, tolerance=2e-6):
    return numpy.abs(a - b).max() <= tolerance * numpy.abs(b).max()


def test_forward_equals_the_reference_engine():
    model, x = small(), clip()
    output = model(x, num_frames=3)
    assert isinstance(output, kineograph.TransformerTemporalModelOutput)
    assert isinstance(output.sample, numpy.ndarray) and output.sample.dtype == numpy.float32
    assert close(output.sample, reference(model, x, num_frames=3))
    assert not close(output.sample, x, 1e-2)
    (sample,) = model(x, num_frames=3, return_dict=False)
    assert (sample == output.sample).all() and (output[0] == output["sample"]).all()
    assert kineograph.stats() == kineograph.Stats(native=3)  # the reference engine's is one of them


@pytest.mark.parametrize("kind", [kineograph.TransformerTemporalModel, kineograph.Transformer2DModel])
def test_copied_weights_outlive_their_file(kind, tmp_path):
    kind(**SMALL).save_pretrained(tmp_path)
    copied = kind.from_pretrained(tmp_path, copy_weights=True)
    mapped = kind.from_pretrained(tmp_path)
    weights = {name: numpy.array(value) for name, value in copied.state_dict().items()}
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    spoilt = bytearray(file.read_bytes())
    spoilt[-64:] = b"\xff" * 64
    with file.open("r+b") as same_file:
        same_file.write(spoilt)
    for name, value in copied.state_dict().items():
        assert numpy.array_equal(value, weights[name]), name
    copied.save_pretrained(tmp_path / "again")
    with pytest.raises(kineograph.IoError, match="copy_weights"):
        mapped.save_pretrained(tmp_path / "mapped")


@pytest.mark.parametrize("folder", ["f32", "f16", "bf16", "sharded", "variant"])
def test_from_pretrained(folder, tmp_path):
    model = kineograph.TransformerTemporalModel.from_pretrained(
        GOLDENS / "saved" / folder, variant="fp16" if folder == "variant" else ""
    )
    assert model.dtype in (folder, "f32", "f16")
    model.save_pretrained(tmp_path)
    again = kineograph.TransformerTemporalModel.from_pretrained(tmp_path, engine="reference", compute_dtype="f32")
    x = clip(4, model.config.in_channels)
    tolerance = 2e-6 if model.compute_dtype == "f32" else 3e-2
    arguments = {"num_frames": 2}
    if not model.config.double_self_attention:
        arguments["encoder_hidden_states"] = clip(2, 3, 1, model.config.cross_attention_dim).reshape(2, 3, -1)
    assert close(model(x, **arguments).sample, again(x, **arguments).sample, tolerance)
    assert again.config == model.config and again.num_parameters() == model.num_parameters()


def test_conditioning():
    x = clip(6, 32)
    zero = small(norm_type="ada_norm_zero", num_embeds_ada_norm=5)
    a = zero(x, timestep=[10, 900], class_labels=[0, 5], num_frames=3).sample
    assert close(a, reference(zero, x, timestep=[10, 900], class_labels=[0, 5], num_frames=3))
    assert not close(a, zero(x, timestep=10, class_labels=[0, 5], num_frames=3).sample, 1e-3)
    ada = small(norm_type="ada_norm", num_embeds_ada_norm=50)
    assert not close(ada(x, timestep=3, num_frames=3).sample, ada(x, timestep=4, num_frames=3).sample, 1e-3)
    cross = small(double_self_attention=False, cross_attention_dim=12)
    text = clip(2, 4, 1, 12).reshape(2, 4, 12)
    a = cross(x, encoder_hidden_states=text, num_frames=3).sample
    b = cross(x, encoder_hidden_states=text.repeat(15, axis=0), num_frames=3).sample
    assert close(a, b)
    frame = small(group_norm_scope="frame")
    assert not close(frame(x, num_frames=3).sample, small()(x, num_frames=3).sample, 1e-3)


def test_discrete_latents():
    model = kineograph.TransformerTemporalModel(
        num_attention_heads=2, attention_head_dim=8, num_vector_embeds=7, sample_size=3
    )
    classes = numpy.random.default_rng(0).integers(0, 7, (4, 9))
    sample = model(classes, num_frames=4).sample
    assert sample.shape == (4, 6, 9) and sample.dtype == numpy.float32
    assert numpy.allclose(numpy.exp(sample).sum(axis=1), 1, atol=1e-5)


def test_out_and_in_place():
    model, x = small(), clip()
    wanted = model(x, num_frames=6).sample
    out = numpy.empty_like(x)
    assert model(x, num_frames=6, out=out).sample is out
    assert (out == wanted).all()
    model(x, num_frames=6, out=x)
    assert (x == wanted).all()


def test_strided_and_foreign_memory():
    model, x = small(), clip()
    wanted = model(x, num_frames=6).sample
    channels_last = numpy.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert close(model(channels_last, num_frames=6).sample, wanted)
    plain = array.array("f", x.ravel())
    buffer = memoryview(plain).cast("B").cast("f", x.shape)
    assert (model(buffer, num_frames=6).sample == wanted).all()
    half = model(x.astype(numpy.float16), num_frames=6).sample
    assert half.dtype == numpy.float16 and close(half.astype(numpy.float32), wanted, 3e-3)


def test_state_dict():
    model = small()
    state = model.state_dict()
    assert list(state)[:2] == ["norm.weight", "norm.bias"] and len(state) == 26
    assert not state["proj_in.weight"].flags.writeable
    weight = state["proj_in.weight"]
    del model, state
    gc.collect()
    assert numpy.isfinite(weight).all()  # its memory lives as long as the view


def test_errors():
    model, x = small(), clip()
    with pytest.raises(kineograph.ArgumentError, match="hidden_states") as caught:
        model(x[:, :31], num_frames=6)
    assert "32" in caught.value.expected and "31" in caught.value.found
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, kineograph.Error)
    assert pickle.loads(pickle.dumps(caught.value)).where == "hidden_states"
    with pytest.raises(kineograph.ArgumentError, match="num_frames|rows"):
        model(x, num_frames=4)
    with pytest.raises(kineograph.ArgumentError, match="str"):
        model("no array", num_frames=4)
    with pytest.raises(kineograph.ArgumentError, match="hidden_states"):
        model(None)
    with pytest.raises(kineograph.ArgumentError, match="hidden_states"):
        model(x.astype(numpy.float64), num_frames=6)
    with pytest.raises(kineograph.ArgumentError, match="code"):
        model(x.astype(numpy.complex64), num_frames=6)
    read_only = numpy.empty_like(x)
    read_only.flags.writeable = False
    with pytest.raises(kineograph.ArgumentError, match="out"):
        model(x, num_frames=6, out=read_only)
    with pytest.raises(kineograph.ArgumentError, match="memory"):
        model(x[:3], num_frames=3, out=x[1:4])
    with pytest.raises(kineograph.ConfigError, match="num_atention_heads.*num_attention_heads"):
        kineograph.TransformerTemporalModel(num_atention_heads=3, in_channels=32)
    with pytest.raises(kineograph.IoError, match="config.json"):
        kineograph.TransformerTemporalModel.from_pretrained("/nowhere")
    with pytest.raises(kineograph.CheckpointError, match="proj_in.weight"):
        kineograph.TransformerTemporalModel.from_state_dict(model.config, {})
    with pytest.raises(kineograph.ArgumentError, match="engine"):
        small(engine="warp")
    with pytest.raises(ValueError, match="num_threads"):
        kineograph.set_num_threads(-1)


def test_warnings():
    with pytest.warns(UserWarning, match="nonsense"):
        small()(clip(), num_frames=6, cross_attention_kwargs={"nonsense": 1.5})


def test_engines_and_instruction_sets():
    assert set(kineograph.engines()) == {"cpu", "reference"}
    x = clip()
    wanted = small()(x, num_frames=6).sample
    for isa in kineograph.instruction_sets("cpu"):
        model = small(isa=isa)
        assert model.isa == isa and close(model(x, num_frames=6).sample, wanted)


def test_threads():
    """Any number of threads may call one model, and every answer is the same to the bit."""
    model, x = small(), clip(8, 32, 16, 16)
    wanted = model(x, num_frames=8).sample
    wrong = []

    def work(threads):
        for _ in range(20):
            if not (model(x, num_frames=8).sample == wanted).all():
                wrong.append(threads)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for n in (1, 3, 0):
        kineograph.set_num_threads(n)
        assert (model(x, num_frames=8).sample == wanted).all()
    assert not wrong


def test_gil_is_free_during_a_forward():
    model, x = small(num_layers=2), clip(16, 32, 64, 64)
    ticks, done = 0, threading.Event()

    def work():
        model(x, num_frames=16)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks > 3


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_no_memory_leaks_in_ten_thousand_calls():
    model, x = small(), clip(4, 32, 3, 3)
    for _ in range(500):
        model(x, num_frames=4)
    before = resident_bytes()
    for _ in range(10000):
        model(x, num_frames=4)
    assert resident_bytes() - before < 1 << 20


def test_dlpack_exchange_keeps_no_references():
    model, x = small(), clip()
    model(x, num_frames=6)
    before = sys.getrefcount(x)
    samples = [model(x, num_frames=6).sample for _ in range(50)]
    assert sys.getrefcount(x) == before
    assert len({sys.getrefcount(sample) for sample in samples}) == 1
    # A sample is the only owner of its memory: what it was made from goes when it goes.
    owner = weakref.ref(samples[0].base) if samples[0].base is not None else lambda: None
    del samples
    gc.collect()
    assert owner() is None


def test_models_go_with_their_last_reference():
    weights = {name: value.copy() for name, value in small().state_dict().items()}
    weight = weights["proj_in.weight"]
    counts = [sys.getrefcount(weight)]
    model = kineograph.TransformerTemporalModel.from_state_dict(small().config, weights)
    counts.append(sys.getrefcount(weight))
    del model
    gc.collect()
    counts.append(sys.getrefcount(weight))
    assert counts[1] > counts[0] == counts[2]


def test_record_attention(tmp_path):
    model, x = small(positional_embeddings="sinusoidal", num_positional_embeddings=8), clip(6)
    wanted = model(x, num_frames=6).sample
    with kineograph.record_attention(model) as maps:
        assert close(model(x, num_frames=6).sample, wanted)
        with pytest.raises(ValueError, match="already"), kineograph.record_attention(model):
            pass
    assert list(maps) == ["transformer_blocks.0.attn1", "transformer_blocks.0.attn2"] and len(maps) == 2
    probabilities = maps["transformer_blocks.0.attn1"]
    assert probabilities.shape == (1, 15, 4, 6, 6)
    assert numpy.allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    with pytest.raises(KeyError):
        maps["transformer_blocks.1.attn1"]
    pytest.importorskip("matplotlib")
    from kineograph import plot

    plot.attention(maps, path=str(tmp_path / "maps.png"))
    assert (tmp_path / "maps.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="video"):
        plot.attention(probabilities, video=3)


def test_the_program_comes_with_the_package():
    program = pathlib.Path(sysconfig.get_path("scripts")) / "kineograph"
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert kineograph.__version__ in text


def test_the_package_is_typed():
    folder = pathlib.Path(kineograph.__file__).parent
    assert (folder / "py.typed").exists()
    assert "class Model" in (folder / "_native.pyi").read_text()


def test_config_reads_as_diffusers():
    model = small(norm_type="ada_norm", num_embeds_ada_norm=9)
    assert model.config.norm_type == model.config["norm_type"] == "ada_norm"
    assert json.loads(json.dumps(model.config))["in_channels"] == 32
    with pytest.raises(AttributeError):
        model.config.nothing  # noqa: B018


def test_gradients_equal_finite_differences():
    rng = numpy.random.default_rng(0)
    config = dict(
        num_attention_heads=2,
        attention_head_dim=3,
        in_channels=4,
        norm_num_groups=2,
        dropout=0.25,
        num_layers=2,
        double_self_attention=False,
        cross_attention_dim=5,
    )
    drawn = kineograph.TransformerTemporalModel(**config)
    weights = {name: numpy.array(value) for name, value in drawn.state_dict().items()}
    x, text, by_sample = (
        rng.standard_normal(shape, dtype=numpy.float32) for shape in ((6, 4, 2, 2), (2, 3, 5), (6, 4, 2, 2))
    )
    arguments = dict(num_frames=3, training_seed=11)

    def loss(weights, x, text):
        model = kineograph.TransformerTemporalModel.from_state_dict(config, weights)
        return float((model(x, text, **arguments).sample.astype(float) * by_sample).sum())

    found = drawn.backward(x, by_sample, text, **arguments)
    assert list(found) == ["hidden_states", "encoder_hidden_states", *weights]
    for name, gradient in found.items():
        assert gradient.dtype == numpy.float32
        direction = rng.standard_normal(gradient.shape, dtype=numpy.float32)
        values = []
        for step in (5e-3, -5e-3):
            moved = {key: value + step * direction if key == name else value for key, value in weights.items()}
            inputs = [
                value + step * direction if key == name else value
                for key, value in (("hidden_states", x), ("encoder_hidden_states", text))
            ]
            values.append(loss(moved, *inputs))
        # f32 losses of about 10 are good to 1e-5: 1e-3 of a slope over 1e-2, and the third derivative comes on top.
        assert (gradient * direction).sum() == pytest.approx((values[0] - values[1]) / 1e-2, rel=2e-2, abs=2e-2), name
    assert kineograph.stats().backward == 1


def test_wanted_gradients():
    model, x = small(positional_embeddings="sinusoidal", num_positional_embeddings=8), clip()
    everything = model.backward(x, x, num_frames=6)
    assert list(everything) == ["hidden_states"] + [name for name in model.state_dict() if not name.endswith(".pe")]
    some = model.backward(x, x, num_frames=6, wanted=["proj_out.bias", "hidden_states"])
    assert list(some) == ["proj_out.bias", "hidden_states"]
    assert all(numpy.allclose(some[name], everything[name], rtol=1e-4, atol=1e-5) for name in some)
    given = numpy.full((32, 32), 7, numpy.float32)
    found = model.backward(x, x, num_frames=6, wanted=("proj_in.weight",), out={"proj_in.weight": given})
    assert found["proj_in.weight"] is given  # nothing is added to what was there
    assert numpy.allclose(given, everything["proj_in.weight"], rtol=1e-4, atol=1e-5)
    half = model.backward(x.astype(numpy.float16), x, num_frames=6, wanted=["hidden_states"])["hidden_states"]
    assert half.dtype == numpy.float16 and close(half.astype(numpy.float32), everything["hidden_states"], 1e-2)
    assert model.backward(x, x, num_frames=6, wanted=[]) == {}
    conditioned = small(norm_type="ada_norm_zero", num_embeds_ada_norm=5)
    assert "transformer_blocks.0.norm1.linear.weight" in conditioned.backward(
        x, x, timestep=3, class_labels=1, num_frames=6
    )


def test_errors_of_backward():
    model, x = small(positional_embeddings="sinusoidal", num_positional_embeddings=8), clip()
    weight = numpy.empty((32, 32), numpy.float32)
    for where, arguments in (
        ("sample_gradient", dict(sample_gradient=x[:3])),
        ("sample_gradient", dict(sample_gradient=x.astype(numpy.float64))),
        ("sample_gradient", dict(sample_gradient=None)),
        ("hidden_states", dict(hidden_states=x[:, :31])),
        ("wanted", dict(wanted=["proj_in"])),
        ("wanted", dict(wanted=["encoder_hidden_states"])),
        ("positions", dict(wanted=["transformer_blocks.0.pos_embed.pe"])),
        ("training_seed", dict(training_seed=-1)),
        ("training_seed", dict(training_seed="seven")),
        ("wanted", dict(wanted=["proj_in.bias"], out={"proj_in.weight": weight})),
        ("proj_in.weight", dict(wanted=["proj_in.weight"], out={"proj_in.weight": weight.T[:31]})),
        ("proj_in.weight", dict(wanted=["proj_in.weight"], out={"proj_in.weight": weight.T})),
        ("proj_in.weight", dict(wanted=["proj_in.weight"], out={"proj_in.weight": "text"})),
        ("gradients.hidden_states", dict(wanted=["hidden_states"], out={"hidden_states": x})),
        ("proj_in.weight", dict(wanted=["proj_in.weight"], out={"proj_in.weight": x.ravel()[:1024].reshape(32, 32)})),
    ):
        with pytest.raises(kineograph.ArgumentError, match=where):
            model.backward(**(dict(hidden_states=x, sample_gradient=x, num_frames=6) | arguments))
    assert kineograph.stats().backward == 0


def test_windows_of_frames():
    model, x = small(positional_embeddings="sinusoidal", num_positional_embeddings=4), clip()
    options = kineograph.ContextOptions(length=4, stride=2, weighting="flat")
    windowed = model(x, num_frames=6, context=options).sample
    assert windowed.shape == x.shape
    exact = type(model).from_state_dict(model.config, model.state_dict(), engine="reference")
    assert close(windowed, exact(x, num_frames=6, context=options).sample)
    assert not close(windowed, model(x, num_frames=6, context=kineograph.ContextOptions(4, 3)).sample, 1e-3)
    for where, given in (
        ("context.length", kineograph.ContextOptions(7)),
        ("context.stride", kineograph.ContextOptions(4, 5)),
        ("context.weighting", kineograph.ContextOptions(4, 2, "gauss")),
    ):
        with pytest.raises(kineograph.ArgumentError, match=where):
            model(x, num_frames=6, context=given)


def test_training_seed():
    model, x = small(dropout=0.5), clip()
    a, b, c = (model(x, num_frames=6, training_seed=seed).sample for seed in (1, 1, 2**64 - 1))
    assert (a == b).all() and not close(a, c, 1e-2) and not close(a, model(x, num_frames=6).sample, 1e-2)
