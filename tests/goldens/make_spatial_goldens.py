#!/usr/bin/env python3
"""Makes the goldens of Transformer2DModel and TransformerSpatioTemporalModel: what diffusers computes in float64.

    python3 -m pip install -r requirements.txt
    python3 make_spatial_goldens.py                     # writes every case of spatial_cases.py
    python3 make_spatial_goldens.py --only spatial/NAME # one case
    python3 make_spatial_goldens.py --check             # computes all again and compares with the files

The files lie in spatial/ and spatio_temporal/ beside this script; they hold the call and its result, and no weights,
which seeded_weights.py draws.
"""

import argparse
import inspect
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import seeded_weights
import torch
from diffusers import Transformer2DModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers_models import DTYPES
from make_goldens import compare, write_golden
from spatial_cases import CASES, VIDEO_CASES

HERE = Path(__file__).resolve().parent


class Drawn:
    """Tensors of a call, drawn by name."""

    def __init__(self, case, seed):
        self.seed, self.dtype = seed, DTYPES[case.inputs_dtype]

    def normal(self, name, shape, mean=0.0, std=1.0):
        value = np.float32(mean) + np.float32(std) * seeded_weights.normal(self.seed, name, shape)
        return torch.from_numpy(value).to(self.dtype)

    def mask(self, name, shape):
        """Two axes: keys that are kept, the first of every row among them; three: a bias, some of it prohibitive."""
        uniform = torch.from_numpy(seeded_weights.uniform(self.seed, name, shape))
        if len(shape) == 3:
            return torch.where(uniform < -0.6, -10000.0, 3 * uniform)
        kept = (uniform > -0.2).float()
        kept[:, 0] = 1
        return kept


def build(case):
    config = {key: value for key, value in case.config.items() if key != "num_ip_adapters"}
    model = Transformer2DModel(**config)
    if case.images:
        for layer, block in enumerate(model.transformer_blocks):
            block.attn2.set_processor(
                IPAdapterAttnProcessor2_0(
                    hidden_size=model.inner_dim,
                    cross_attention_dim=config["cross_attention_dim"],
                    num_tokens=tuple(tokens for tokens, _ in case.images),
                    scale=[scales[layer] for _, scales in case.images],
                )
            )
    return model.eval()


def set_weights(model, seed, weights_dtype):
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, value in model.state_dict().items():
        drawn = torch.from_numpy(seeded_weights.draw(seed, name, shapes))
        value.copy_(drawn.to(DTYPES[weights_dtype]))


def inputs_of(case, seed):
    drawn = Drawn(case, seed)
    rows, height, width = case.shape
    inputs = {
        "hidden_states": drawn.normal(
            "hidden_states", (rows, case.config["in_channels"], height, width), case.mean, case.std
        )
    }
    if case.encoder:
        inputs["encoder_hidden_states"] = drawn.normal("encoder_hidden_states", case.encoder, 0.0, case.encoder_std)
    for name in ("attention_mask", "encoder_attention_mask"):
        if shape := getattr(case, name):
            inputs[name] = drawn.mask(name, shape)
    for i, (tokens, scales) in enumerate(case.images):
        inputs[f"images.{i}"] = drawn.normal(f"images.{i}", (rows, tokens, case.config["cross_attention_dim"]))
        inputs[f"scale.{i}"] = torch.tensor(scales, dtype=torch.float64)
    if case.timestep:
        inputs["timestep"] = torch.tensor(case.timestep)
    if case.class_labels:
        inputs["class_labels"] = torch.tensor(case.class_labels)
    return inputs


def spread(tensor, rows):
    return tensor.repeat_interleave(rows // tensor.shape[0], dim=0)


def run(model, case, inputs):
    dtype = next(model.parameters()).dtype
    hidden = inputs["hidden_states"].to(dtype)
    rows = hidden.shape[0]
    call = {
        name: spread(inputs[name].to(dtype), rows)
        for name in ("encoder_hidden_states", "attention_mask", "encoder_attention_mask")
        if name in inputs
    }
    for name in ("attention_mask", "encoder_attention_mask"):  # a row of a bias may be a head's
        if name in call:
            call[name] = inputs[name].to(dtype)
    if case.images:
        images = [inputs[f"images.{i}"].to(dtype) for i in range(len(case.images))]
        call["encoder_hidden_states"] = (call["encoder_hidden_states"], images)
    if "class_labels" in inputs:
        call |= {"timestep": inputs["timestep"], "class_labels": inputs["class_labels"]}
    elif "timestep" in inputs:
        # AdaLayerNorm splits scale and shift along axis 0: right for a timestep without axes only, so row by row.
        steps = inputs["timestep"].expand(rows)
        return torch.cat(
            [
                model(hidden[n : n + 1], timestep=steps[n], **{k: v[n : n + 1] for k, v in call.items()}).sample
                for n in range(rows)
            ]
        )
    return model(hidden, **call).sample


def video_inputs_of(case, seed):
    drawn = Drawn(case, seed)
    videos, frames, height, width = case.shape
    shape = (videos * frames, case.config["in_channels"], height, width)
    inputs = {"hidden_states": drawn.normal("hidden_states", shape, case.mean, case.std)}
    if case.encoder:
        inputs["encoder_hidden_states"] = drawn.normal("encoder_hidden_states", case.encoder, 0.0, case.encoder_std)
    if case.image_only:
        inputs["image_only_indicator"] = torch.tensor(case.image_only)
    return inputs


def run_video(model, case, inputs):
    dtype = next(model.parameters()).dtype
    hidden = inputs["hidden_states"].to(dtype)
    videos, frames = case.shape[:2]
    # Without cross-attention diffusers looks at the states' shape and no further.
    encoder = inputs.get("encoder_hidden_states", torch.zeros(hidden.shape[0], 1, 1)).to(dtype)
    images = inputs.get("image_only_indicator", torch.zeros(1, frames)).expand(videos, frames)
    return model(hidden, encoder_hidden_states=spread(encoder, hidden.shape[0]), image_only_indicator=images).sample


@torch.no_grad()
def golden_of(kind, case):
    """(tensors, metadata): inputs, and what diffusers makes of them in float64."""
    seed = seeded_weights.fnv1a64(f"{kind}/{case.name}") % 1_000_000
    if kind == "spatial":
        model, inputs, forward = build(case), inputs_of(case, seed), run
    else:
        model, inputs, forward = (
            TransformerSpatioTemporalModel(**case.config).eval(),
            video_inputs_of(case, seed),
            run_video,
        )
    set_weights(model, seed, case.weights_dtype)
    in_f32 = forward(model, case, inputs)
    in_f64 = forward(model.double(), case, inputs)
    assert torch.isfinite(in_f64).all(), case.name
    error = ((in_f32.double() - in_f64).abs().max() / in_f64.abs().max()).item()
    metadata = {
        "config": json.dumps(case.config),
        "seed": str(seed),
        "weights_dtype": case.weights_dtype,
        "torch": torch.__version__.split("+")[0],
        "diffusers": diffusers.__version__,
        "diffusers_f32_error": f"{error:.1e}",
    }
    if kind != "spatial":
        metadata["num_frames"] = str(case.shape[1])
    return inputs | {"sample": in_f64.float().contiguous()}, metadata


def unused_keys():
    """Keys of Transformer2DModel that no case sets, besides those that continuous input rules out."""
    ruled_out = {"num_vector_embeds", "patch_size", "attention_type"}
    known = set(inspect.signature(Transformer2DModel.__init__).parameters) - {"self"} - ruled_out
    return sorted(known - {key for case in CASES for key in case.config})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compute again and compare; write nothing")
    parser.add_argument("--only", metavar="NAME", help="one case, such as spatial/mask")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()

    jobs = {f"spatial/{case.name}": ("spatial", case) for case in CASES}
    jobs |= {f"spatio_temporal/{case.name}": ("spatio_temporal", case) for case in VIDEO_CASES}
    assert len(jobs) == len(CASES) + len(VIDEO_CASES), "two cases share a name"
    complaints = [f"no case sets {key}" for key in unused_keys()]
    if arguments.only:
        jobs = {arguments.only: jobs[arguments.only]}
    else:
        for path in [*HERE.glob("spatial/*"), *HERE.glob("spatio_temporal/*")]:
            if str(path.relative_to(HERE).with_suffix("")) in jobs:
                continue
            if arguments.check:
                complaints.append(f"{path.relative_to(HERE)}: belongs to no case")
            else:
                path.unlink()
    for name, (kind, case) in jobs.items():
        tensors, metadata = golden_of(kind, case)
        path = HERE / f"{name}.safetensors"
        if arguments.check:
            complaints += compare(name, tensors, metadata, path)
            continue
        path.parent.mkdir(exist_ok=True)
        write_golden(path, tensors, metadata)
        print(f"{name}: {path.stat().st_size} bytes, float32 error {metadata['diffusers_f32_error']}")
    print("\n".join(complaints) or f"{len(jobs)} cases")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
