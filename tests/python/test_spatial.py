"""Transformer2DModel and TransformerSpatioTemporalModel of the NumPy API: needs nothing but NumPy."""

import json
import pathlib
import struct

import kineograph
import numpy
import pytest

TESTS = pathlib.Path(__file__).parents[1]
SMALL = dict(num_attention_heads=2, attention_head_dim=4, in_channels=8, norm_num_groups=2, cross_attention_dim=6)
VIDEO = dict(num_attention_heads=4, attention_head_dim=8, in_channels=32, cross_attention_dim=6)


def draw(*shape, seed=0):
    return numpy.random.default_rng(seed).standard_normal(shape, dtype=numpy.float32)


def close(a, b, tolerance=2e-6):
    return numpy.abs(a - b).max() <= tolerance * numpy.abs(b).max()


def tensors(path):
    """The f32 and f16 tensors of a safetensors file, without the library that reads them."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    kinds = {"F32": numpy.float32, "F16": numpy.float16}
    return {
        name: numpy.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], dtype=kinds[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


def test_a_forward_is_diffusers():
    """A module of a UNet that diffusers saved, and what diffusers computed for it."""
    for name, kind in (
        ("unet_2d", kineograph.Transformer2DModel),
        ("svd_original", kineograph.TransformerSpatioTemporalModel),
    ):
        expected = tensors(TESTS / "checkpoints" / "spatial" / f"{name}.safetensors")
        for module in {key.rpartition(".")[0] for key in expected}:
            model = kind.from_pretrained(TESTS / "checkpoints" / name, module=module)
            more = {} if name == "unet_2d" else dict(num_frames=2)
            sample = model(
                expected[f"{module}.hidden_states"], expected[f"{module}.encoder_hidden_states"], **more
            ).sample
            assert close(sample, expected[f"{module}.sample"])


def test_outputs_are_diffusers():
    model = kineograph.Transformer2DModel(**SMALL)
    x, text = draw(2, 8, 3, 4), draw(2, 5, 6)
    output = model(x, text)
    assert isinstance(output, kineograph.Transformer2DModelOutput) and output.sample.dtype == numpy.float32
    (sample,) = model(x, text, return_dict=False)
    assert (sample == output["sample"]).all() and sample.shape == x.shape
    out = numpy.empty_like(x)
    assert model(x, text, out=out).sample is out and (out == sample).all()


def test_masks_and_shared_texts():
    model = kineograph.Transformer2DModel(**SMALL)
    x, text = draw(4, 8, 3, 4), draw(2, 5, 6)
    repeated = model(x, text.repeat(2, axis=0)).sample
    assert (model(x, text).sample == repeated).all()
    mask = [[1, 1, 0, 1, 0]] * 4
    masked = model(x, text, encoder_attention_mask=mask).sample
    assert close(masked, model(x, text[:, [0, 1, 3]]).sample) and not close(masked, repeated, 1e-3)
    bias = ((1 - numpy.array(mask, numpy.float32)) * -10000)[:, None]
    assert close(model(x, text, encoder_attention_mask=bias).sample, masked)
    with pytest.raises(kineograph.ArgumentError, match="encoder_attention_mask"):
        model(x, text, encoder_attention_mask=[[1, 0]])


def test_ip_adapters():
    model = kineograph.Transformer2DModel(**SMALL, num_layers=2, num_ip_adapters=2)
    x, text, images = draw(2, 8, 3, 4), draw(2, 5, 6), [draw(2, 4, 6, seed=1), draw(2, 3, 6, seed=2)]
    assert "transformer_blocks.1.attn2.processor.to_v_ip.1.weight" in model.state_dict()
    plain = model(x, text).sample
    assert close(model(x, (text, images), ip_adapter_scale=0.0).sample, plain, 1e-7)
    both = model(x, (text, images)).sample
    assert not close(both, plain, 1e-4)
    assert (model(x, (text, images), ip_adapter_scale=[1.0, [1.0, 1.0]]).sample == both).all()
    with pytest.raises(kineograph.ArgumentError, match="ip_adapter_scale"):
        model(x, (text, images), ip_adapter_scale=[1.0])


def test_images_among_frames():
    model = kineograph.TransformerSpatioTemporalModel(**VIDEO)
    x, text = draw(6, 32, 2, 3), draw(2, 5, 6)
    video = model(x, text, num_frames=3).sample
    zeros = numpy.zeros((2, 3), numpy.int64)
    assert (model(x, text, zeros).sample == video).all()
    mixed = model(x, text, [[1, 0, 0], [0, 0, 0]]).sample
    assert not close(mixed[0], video[0], 1e-3) and (mixed[1:] == video[1:]).all()
    with pytest.raises(kineograph.ArgumentError, match="num_frames"):
        model(x, text, num_frames=4)


@pytest.mark.parametrize("kind,config", [("Transformer2DModel", SMALL), ("TransformerSpatioTemporalModel", VIDEO)])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_saving_and_loading(kind, config, dtype, tmp_path):
    kind = getattr(kineograph, kind)
    model = kind(**config, dtype=dtype, seed=3)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.config == model.config and again.dtype == dtype and again.num_parameters() == model.num_parameters()
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == kind.__name__
    same = kind.from_state_dict(model.config, model.state_dict())
    x, text = draw(2, config["in_channels"], 3, 4), draw(2, 5, 6)
    assert (again(x, text).sample == model(x, text).sample).all() and (
        same(x, text).sample == model(x, text).sample
    ).all()
    assert repr(model).startswith(kind.__name__)


def test_the_wrong_class_is_said():
    with pytest.raises(kineograph.ArgumentError, match="a Transformer2DModel"):
        kineograph.TransformerSpatioTemporalModel.from_pretrained(
            TESTS / "checkpoints" / "unet_2d", module="down_blocks.0.attentions.0"
        )
    with pytest.raises(kineograph.ConfigError, match="patch_size"):
        kineograph.Transformer2DModel(**SMALL, patch_size=2)
