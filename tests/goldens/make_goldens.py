#!/usr/bin/env python3
"""Makes the goldens: outputs of diffusers in float64 that every engine is held against.

    python3 -m pip install -r requirements.txt
    python3 make_goldens.py                  # writes every case of cases.py and removes what is no longer there
    python3 make_goldens.py --only NAME      # one case, or saved/NAME
    python3 make_goldens.py --check          # computes all again and compares with the files

Runs from any directory; the files lie beside this script. README.md says what is in them.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import diffusers
import diffusers_models as models
import numpy as np
import seeded_weights
import torch
from cases import CASES, SAVED
from diffusers import TransformerTemporalModel
from safetensors import safe_open
from safetensors.torch import save

HERE = Path(__file__).resolve().parent
BYTES_AT_MOST = 3_300_000
GRADIENTS = "gradients.safetensors"
SAMPLE_TOLERANCE = 1e-6  # of the largest output: float64 results differ by far less, and are stored as float32


def make_inputs(case, seed):
    """Every tensor of the call, by name."""
    c = models.complete(case.config)
    discrete = c["num_vector_embeds"] is not None
    videos, frames = case.clip[:2]
    dtype = models.DTYPES[case.inputs_dtype]

    def draw(name, shape, mean, std):
        value = np.float32(mean) + np.float32(std) * seeded_weights.normal(seed, name, shape)
        return torch.from_numpy(value).to(dtype)

    if discrete:
        pixels = c["sample_size"] ** 2
        indices = seeded_weights.integers(seed, "hidden_states", (videos * frames, pixels), c["num_vector_embeds"])
        inputs = {"hidden_states": torch.from_numpy(indices)}
    else:
        height, width = case.clip[2:]
        pixels = height * width
        shape = (videos * frames, c["in_channels"], height, width)
        inputs = {"hidden_states": draw("hidden_states", shape, case.mean, case.std)}
    if case.encoder is not None:
        per, tokens, dim = case.encoder
        rows = videos * pixels if per == "pixel" else videos
        inputs["encoder_hidden_states"] = draw("encoder_hidden_states", (rows, tokens, dim), 0.0, case.encoder_std)
    if case.timestep is not None:
        inputs["timestep"] = torch.tensor(case.timestep)  # int64, or float32 for fractions
    if case.class_labels is not None:
        inputs["class_labels"] = torch.tensor(case.class_labels)
    return inputs


def residual_branches(config):
    """How many residual additions stand between input and output; rounding errors grow with it."""
    c = models.complete(config)
    attentions = 2 if c["double_self_attention"] or c["cross_attention_dim"] is not None else 1
    outer = 0 if c["num_vector_embeds"] is not None else 1
    return c["num_layers"] * (attentions + 1) + outer


def golden_of(case):
    """(tensors, metadata, model in float32): inputs, and what diffusers makes of them in float64."""
    seed = seeded_weights.fnv1a64(case.name) % 1_000_000
    frames = case.clip[1]
    inputs = make_inputs(case, seed)
    model = models.build(case.config)
    if case.context is not None:
        model = models.in_windows(model, case.config, case.context, case.weights_dtype)
    models.set_weights(model, seed, case.weights_dtype, case.pe)
    in_f32 = models.run(model, case.config, inputs, frames)
    in_f64 = models.run(model.double(), case.config, inputs, frames)
    assert torch.isfinite(in_f64).all(), case.name
    error = ((in_f32.double() - in_f64).abs().max() / in_f64.double().abs().max()).item()

    metadata = {
        "config": json.dumps(case.config),
        "num_frames": str(frames),
        "seed": str(seed),
        "weights_dtype": case.weights_dtype,
        "torch": torch.__version__.split("+")[0],
        "diffusers": diffusers.__version__,
        "depth": str(residual_branches(case.config)),
        "diffusers_f32_error": f"{error:.1e}",
    }
    if "positional_embeddings" in case.config:
        metadata["pe"] = case.pe
    if case.context is not None:
        metadata["context"] = json.dumps(case.context)
    return inputs | {"sample": in_f64.float().contiguous()}, metadata, model.float()


def gradients_of(case):
    """(rows, 4) f64: a row for each parameter in the state dict's order, then hidden_states and encoder_hidden_states
    where they have gradients; its products with four vectors that seeded_weights draws from "NAME/0" to "NAME/3"."""
    seed = seeded_weights.fnv1a64(case.name) % 1_000_000
    frames = case.clip[1]
    inputs = make_inputs(case, seed)
    model = models.build(case.config)
    models.set_weights(model, seed, case.weights_dtype, case.pe)
    shape = models.run(model.double(), case.config, inputs, frames).shape
    by_sample = torch.from_numpy(seeded_weights.uniform(seed, "sample_gradient", tuple(shape))).double()
    rows = [
        [
            (value * torch.from_numpy(seeded_weights.uniform(seed, f"{name}/{i}", tuple(value.shape)))).sum()
            for i in range(4)
        ]
        for name, value in models.gradients(model, case.config, inputs, frames, by_sample).items()
    ]
    return torch.tensor(rows, dtype=torch.float64)


def compare_gradients(found, path):
    stored, _ = read_golden(path)
    complaints = [] if set(stored) == set(found) else [f"{path.name}: other cases"]
    for name in sorted(set(stored) & set(found)):
        error = ((stored[name] - found[name]).abs().max() / stored[name].abs().max()).item()
        if not error <= SAMPLE_TOLERANCE:
            complaints.append(f"{path.name}: {name} differs by {error:.1e} of its largest value")
    return complaints


def write_golden(path, tensors, metadata):
    """A safetensors file; its metadata are sorted, so that the same golden is the same bytes every time."""
    data = save(tensors, metadata=metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def read_golden(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def compare(what, tensors, metadata, path):
    """Complaints about the file at `path`, which should hold `tensors` and `metadata`."""
    if not path.exists():
        return [f"{what}: missing"]
    stored, stored_metadata = read_golden(path)
    machine = ("torch", "diffusers", "diffusers_f32_error")
    complaints = [
        f"{what}: metadata {key}: {stored_metadata.get(key)!r} in the file, {metadata.get(key)!r} now"
        for key in sorted(set(metadata) | set(stored_metadata))
        if key not in machine and metadata.get(key) != stored_metadata.get(key)
    ]
    if set(stored) != set(tensors):
        return complaints + [f"{what}: tensors {sorted(stored)} in the file, {sorted(tensors)} now"]
    for name, value in tensors.items():
        was = stored[name]
        if was.dtype != value.dtype or was.shape != value.shape:
            complaints.append(f"{what}: {name}: {was.dtype} {tuple(was.shape)} in the file")
        elif name == "sample":
            error = ((was - value).abs().max() / value.abs().max()).item()
            if not error <= SAMPLE_TOLERANCE:
                complaints.append(f"{what}: sample differs by {error:.1e} of the largest output")
        elif not torch.equal(was, value):
            complaints.append(f"{what}: {name} differs")
    return complaints


def save_model(model, saved, folder):
    """Writes `folder` with diffusers' save_pretrained, in the dtype that the case's weights have."""
    shutil.rmtree(folder, ignore_errors=True)
    model.to(models.DTYPES[saved.case.weights_dtype]).save_pretrained(folder, **saved.save)


def check_saved_model(model, saved, folder):
    """Loads `folder` with diffusers' from_pretrained and compares with `model`."""
    dtype = models.DTYPES[saved.case.weights_dtype]
    loaded = TransformerTemporalModel.from_pretrained(folder, variant=saved.save.get("variant"), torch_dtype=dtype)
    complaints = []
    for name, value in model.to(dtype).state_dict().items():
        if not torch.equal(loaded.state_dict()[name], value):
            complaints.append(f"{folder.name}: parameter {name} differs")
    for key, value in model.config.items():
        if not key.startswith("_") and loaded.config[key] != value:
            complaints.append(f"{folder.name}: config key {key} differs")
    return complaints


def strays(names):
    """Paths beside this script that no case accounts for."""
    expected = (
        {HERE / f"{case.name}.safetensors" for case in CASES}
        | {HERE / GRADIENTS}
        | {HERE / "saved" / s.case.name for s in SAVED}
    )
    found = set(HERE.glob("*.safetensors")) | set((HERE / "saved").glob("*"))
    return [] if names else sorted(found - expected)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compute again and compare; write nothing")
    parser.add_argument("--only", metavar="NAME", help="one case, or saved/NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the float32 run's rounding should not depend on the machine's cores
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()

    jobs = [(case.name, case, None) for case in CASES] + [(f"saved/{s.case.name}", s.case, s) for s in SAVED]
    assert len({name for name, _, _ in jobs}) == len(jobs), "two cases share a name"
    if arguments.only:
        jobs = [job for job in jobs if job[0] == arguments.only]
        if not jobs:
            parser.error(f"no case is called {arguments.only}")

    complaints = []
    for path in strays(arguments.only):
        if arguments.check:
            complaints.append(f"{path.relative_to(HERE)}: belongs to no case")
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, case, saved in jobs:
        tensors, metadata, model = golden_of(case)
        path = HERE / name / "expected.safetensors" if saved else HERE / f"{name}.safetensors"
        if arguments.check:
            complaints += compare(name, tensors, metadata, path)
            if saved and path.exists():
                complaints += check_saved_model(model, saved, HERE / name)
            continue
        if saved:
            save_model(model, saved, HERE / name)
        write_golden(path, tensors, metadata)
        print(f"{name}: {path.stat().st_size} bytes, float32 error {metadata['diffusers_f32_error']}")

    if not arguments.only:
        found = {case.name: gradients_of(case) for case in CASES if case.context is None}  # windows have no backward
        if arguments.check:
            complaints += compare_gradients(found, HERE / GRADIENTS)
        else:
            write_golden(HERE / GRADIENTS, found, {"torch": torch.__version__.split("+")[0]})

    total = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    if total > BYTES_AT_MOST:
        complaints.append(f"the folder holds {total} bytes, more than {BYTES_AT_MOST}")
    print("\n".join(complaints) or f"{len(jobs)} cases, {total} bytes in the folder")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
