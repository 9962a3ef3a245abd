#!/usr/bin/env python3
"""One whole UNet call: PyTorch eager, kineograph.accelerate, torch.compile, both together, OpenVINO's conversion.

    pip install .[diffusers] openvino
    bench/unet_whole.py --output docs/unet_whole
    bench/unet_whole.py --models svd --sizes 256 --dtypes bf16 --programs eager,accelerate --repeats 3

Random weights at the published widths, classifier-free guidance (2 videos). The answer of each program is compared with
eager's before it is timed; then the programs take turns, and medians are kept. Where eager's time goes is told by kind
of module. OUTPUT.json and .md are written after every row.
"""

import argparse
import contextlib
import copy
import gc
import json
import resource
import statistics
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import diffusers
import kineograph
import torch
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

VIDEOS = 2
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
PROGRAMS = ("eager", "accelerate", "compile", "accelerate+compile", "openvino")
# How far answers may lie apart, of the largest one; a whole UNet in bf16 rounds hundreds of times.
ALLOWED = {"f32": 1e-3, "bf16": 0.3}
# Kinds of modules in the split, the outermost first: time within one is not counted again.
KINDS = {
    "temporal transformers": (AnimateDiffTransformer3D, diffusers.TransformerTemporalModel),
    "spatio-temporal transformers": (TransformerSpatioTemporalModel,),
    "spatial transformers": (diffusers.Transformer2DModel,),
    "resnets": (ResnetBlock2D, SpatioTemporalResBlock, TemporalConvLayer),
    "up- and downsampling": (diffusers.models.upsampling.Upsample2D, diffusers.models.downsampling.Downsample2D),
}


def animatediff(size, small):
    """AnimateDiff v2 on Stable Diffusion 1.5, 16 frames."""
    frames, side = (4, 8) if small else (16, size // 8)
    widths = dict(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16) if small else {}
    if small:
        widths |= dict(
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        )
    unet = diffusers.UNetMotionModel(**(dict(cross_attention_dim=768) | widths))
    text = widths.get("cross_attention_dim", 768)
    return unet, (
        torch.randn(VIDEOS, 4, frames, side, side),
        torch.tensor(500),
        torch.randn(VIDEOS, 77, text).repeat_interleave(frames, dim=0),  # as the pipeline does
    )


def modelscope(size, small):
    """ModelScope's text-to-video, 16 frames."""
    frames, side = (4, 8) if small else (16, size // 8)
    widths = {}
    if small:
        widths = dict(
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        )
    unet = diffusers.UNet3DConditionModel(**widths)
    text = widths.get("cross_attention_dim", 1024)
    return unet, (torch.randn(VIDEOS, 4, frames, side, side), torch.tensor(500), torch.randn(VIDEOS, 77, text))


def svd(size, small):
    """Stable Video Diffusion, 14 frames."""
    frames, side = (3, 8) if small else (14, size // 8)
    widths = {}
    if small:
        widths = dict(
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=16,
            num_attention_heads=(2, 4),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        )
    unet = diffusers.UNetSpatioTemporalConditionModel(**widths)
    text = widths.get("cross_attention_dim", 1024)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * VIDEOS)
    return unet, (torch.randn(VIDEOS, frames, 8, side, side), torch.tensor(1.5), torch.randn(VIDEOS, 1, text), ids)


MODELS = {"animatediff": animatediff, "modelscope": modelscope, "svd": svd}


def prepared(model, size, dtype, small):
    torch.manual_seed(0)
    unet, call = MODELS[model](size, small)
    for parameter in unet.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    return unet.to(dtype).eval(), tuple(
        one.to(dtype) if one.ndim > 0 and one.is_floating_point() else one for one in call
    )


class Outer(torch.nn.Module):
    """A UNet whose forward takes and returns tensors alone, for OpenVINO."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, *call):
        return self.unet(*call, return_dict=False)[0]


def openvino_of(unet, call, dtype, threads):
    """OpenVINO's conversion of the whole UNet, at fixed shapes. It recurses deeper than the usual stack."""
    import openvino

    made = []

    def convert():
        sys.setrecursionlimit(100_000)
        with torch.no_grad():
            model = openvino.convert_model(Outer(unet), example_input=call)
        for parameter, value in zip(model.inputs, call):
            parameter.get_node().set_partial_shape(openvino.PartialShape(list(value.shape)))
        model.validate_nodes_and_infer_types()
        hint = {
            "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
            "INFERENCE_NUM_THREADS": threads,
        }
        made.append(openvino.compile_model(model, "CPU", hint))

    threading.stack_size(512 << 20)
    thread = threading.Thread(target=convert)
    thread.start()
    thread.join()
    if not made:
        raise RuntimeError("OpenVINO did not convert the UNet")
    inputs = [value.float().numpy() if value.is_floating_point() else value.numpy() for value in call]
    return lambda: torch.from_numpy(made[0](inputs)[0])


def program_of(name, unet, call, dtype):
    """A function without arguments that returns the sample."""
    if name == "openvino":
        return openvino_of(unet, call, dtype, torch.get_num_threads())
    mine = copy.deepcopy(unet) if "accelerate" in name else unet
    if "accelerate" in name:
        print(kineograph.accelerate(mine, spatial=True), file=sys.stderr)
    run = torch.compile(mine) if "compile" in name else mine
    return lambda: run(*call, return_dict=False)[0]


@contextlib.contextmanager
def timed_kinds(unet, seconds):
    """Adds the seconds of every outermost module of a kind to `seconds`."""
    inside, handles = [], []
    for module in unet.modules():
        kind = next((name for name, classes in KINDS.items() if isinstance(module, classes)), None)
        if kind is None:
            continue

        def before(*_):
            inside.append(time.perf_counter())

        def after(*_, kind=kind):
            spent = time.perf_counter() - inside.pop()
            if not inside:
                seconds[kind] += spent

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    yield
    for handle in handles:
        handle.remove()


def split_of(unet, call):
    """Seconds of one eager call by kind of module, and of the rest."""
    seconds = defaultdict(float)
    with timed_kinds(unet, seconds):
        start = time.perf_counter()
        unet(*call)
        total = time.perf_counter() - start
    return dict(seconds) | {"the rest": total - sum(seconds.values())}


def measure(model, size, dtype, programs, repeats, small):
    unet, call = prepared(model, size, DTYPES[dtype], small)
    wanted = unet(*call, return_dict=False)[0].float()
    split = split_of(unet, call)
    runs, off = {}, {}
    for program in programs:
        run = program_of(program, unet, call, DTYPES[dtype])
        answer = run().float()  # the warm-up, and the compilation
        off[program] = ((answer - wanted).abs().max() / wanted.abs().max()).item()
        if not off[program] <= ALLOWED[dtype]:
            raise RuntimeError(f"{program} is off by {off[program]:.1e} of the largest output")
        runs[program] = run
    times = {program: [] for program in programs}
    for _ in range(repeats):
        for program, run in runs.items():
            start = time.perf_counter()
            run()
            times[program].append(time.perf_counter() - start)
    return {
        "model": model,
        "size": size,
        "dtype": dtype,
        "seconds": {program: statistics.median(values) for program, values in times.items()},
        "off": off,
        "eager_split": split,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "fallbacks": dict(kineograph.stats().fallbacks),
    }


def table(rows):
    lines = [
        "| UNet | size | precision | "
        + " | ".join(f"{program}, s" for program in PROGRAMS)
        + " | eager over accelerate |",
        "|---|---:|---|" + "---:|" * (len(PROGRAMS) + 1),
    ]
    for row in rows:
        seconds = row["seconds"]
        cells = [f"{seconds[program]:.2f}" if program in seconds else "" for program in PROGRAMS]
        both = "eager" in seconds and "accelerate" in seconds
        cells.append(f"{seconds['eager'] / seconds['accelerate']:.2f} ×" if both else "")
        lines.append(f"| {row['model']} | {row['size']} | {row['dtype']} | " + " | ".join(cells) + " |")
    kinds = [*KINDS, "the rest"]
    lines += [
        "",
        "| eager's time | size | precision | " + " | ".join(kinds) + " |",
        "|---|---:|---|" + "---:|" * len(kinds),
    ]
    for row in rows:
        total = sum(row["eager_split"].values())
        cells = [f"{100 * row['eager_split'].get(kind, 0) / total:.0f} %" for kind in kinds]
        lines.append(f"| {row['model']} | {row['size']} | {row['dtype']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sizes", default="256,512", help="pixels of height and width")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small widths, to try the script itself")
    parser.add_argument("--output", default="unet_whole", help="OUTPUT.json and OUTPUT.md are written")
    arguments = parser.parse_args()
    rows = []
    with torch.no_grad():
        for model in arguments.models.split(","):
            for size in map(int, arguments.sizes.split(",")):
                for dtype in arguments.dtypes.split(","):
                    programs = arguments.programs.split(",")
                    rows.append(measure(model, size, dtype, programs, arguments.repeats, arguments.small))
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    torch._dynamo.reset()
                    gc.collect()
                    Path(arguments.output + ".json").write_text(json.dumps(rows, indent=1) + "\n")
                    Path(arguments.output + ".md").write_text(table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
