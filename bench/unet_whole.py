#!/usr/bin/env python3
"""One whole UNet call: PyTorch eager, kineograph.accelerate, torch.compile, both together, OpenVINO's conversion.

    pip install .[diffusers] openvino
    bench/unet_whole.py --prepare      # what takes minutes and is kept on disk: conversions and compiled kernels
    bench/unet_whole.py --output docs/unet
    bench/unet_whole.py --models svd --sizes 256 --dtypes bf16 --programs eager,accelerate --repeats 3

Random weights at the published widths, classifier-free guidance (2 videos). Every answer is compared with eager's
before it is timed; then the programs take turns, and medians are kept. Where the time of eager and of accelerate goes
is told by kind of module. "freezing" is inductor's: weights are constants, and convolutions prepacked. OpenVINO is
given the f32 model, and told to compute in f32 or bf16. OUTPUT.json and .md are written after every row; a row that
is there already, of the same model, size and precision, is replaced.

All torch programs share one set of weights: a whole AnimateDiff UNet is 5 GB in f32, and kineograph's packed weights of
its transformers and OpenVINO's of everything come on top.

"the arithmetic at the peak" is no program: the call's multiply-adds, as torch counts those of convolutions, products
and attentions, at the peak that `kineograph bench` measures beside them. Only an algorithm with fewer is faster.
"""

import argparse
import contextlib
import copy
import gc
import json
import resource
import statistics
import sys
import tempfile
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
from torch.utils.flop_counter import FlopCounterMode
from vs_peers import bench, cpu_name

VIDEOS = 2
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
PROGRAMS = ("eager", "accelerate", "compile", "accelerate+compile", "accelerate+compile+freezing", "openvino")
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


@contextlib.contextmanager
def unfilled():
    """Modules made inside keep the memory of their weights as it is: other values come after, and drawing twice takes
    a minute."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    kept = [kind.__dict__.get("reset_parameters") for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda self: None
    try:
        yield
    finally:
        for kind, own in zip(kinds, kept):
            if own is None:
                del kind.reset_parameters
            else:
                kind.reset_parameters = own


def prepared(model, size, dtype, small):
    """A UNet and the arguments of its call, the same in every process."""
    torch.manual_seed(0)
    with unfilled():
        unet, call = MODELS[model](size, small)
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
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


def conversion(model, size, small, folder):
    """The file of OpenVINO's conversion of the f32 UNet at fixed shapes; made where it is not there."""
    import openvino

    path = Path(folder) / f"{model}-{'small' if small else size}.xml"
    if path.exists():
        return path
    unet, call = prepared(model, size, torch.float32, small)

    def convert():  # recurses deeper than the usual stack
        sys.setrecursionlimit(100_000)
        with torch.no_grad():
            converted = openvino.convert_model(Outer(unet), example_input=call)
        converted.reshape({port: openvino.PartialShape(list(v.shape)) for port, v in zip(converted.inputs, call)})
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(converted, path, compress_to_fp16=False)

    threading.stack_size(512 << 20)
    thread = threading.Thread(target=convert)
    thread.start()
    thread.join()
    if not path.exists():
        raise RuntimeError("OpenVINO did not convert the UNet")
    return path


def openvino_of(path, call, dtype):
    import openvino

    hint = {
        "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(str(path), "CPU", hint).create_infer_request()
    inputs = [value.float().numpy() if value.is_floating_point() else value.numpy() for value in call]
    return lambda: torch.from_numpy(request.infer(inputs)[0])


def program_of(name, unet, call):
    """A function without arguments that returns the sample, and its UNet. The weights are `unet`'s own."""
    mine = copy.deepcopy(unet, {id(weight): weight for weight in unet.parameters()})
    if "accelerate" in name:
        print(kineograph.accelerate(mine), file=sys.stderr)
    if "compile" not in name:
        return lambda: mine(*call, return_dict=False)[0], mine
    options = {"freezing": True} if "freezing" in name else None
    run = torch.compile(mine, options=options)
    return lambda: run(*call, return_dict=False)[0], mine


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


def split_of(unet, run):
    """The seconds of one call by kind of module, and of the rest."""
    seconds = defaultdict(float)
    with timed_kinds(unet, seconds):
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    return dict(seconds) | {"the rest": total - sum(seconds.values())}


def checked(program, answer, wanted, dtype):
    """How far an answer is off, of the largest value; an error where that is more than the precision explains."""
    off = ((answer.float() - wanted).abs().max() / wanted.abs().max()).item()
    if not off <= ALLOWED[dtype]:
        raise RuntimeError(f"{program} is off by {off:.1e} of the largest output")
    return off


def operations(model, size, small):
    """Floating-point operations of a call's convolutions, products and attentions, counted without computing them."""
    with torch.device("meta"), unfilled():
        unet, call = MODELS[model](size, small)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet.to("meta").eval()(*(value.to("meta") for value in call))
    return counter.get_total_flops()


def measure(model, size, dtype, programs, repeats, small, folder):
    peak = bench("kineograph", "--shape", "small", "--dtype", dtype, "--threads", str(torch.get_num_threads()))[0]
    unet, call = prepared(model, size, DTYPES[dtype], small)
    wanted = unet(*call, return_dict=False)[0].float()
    runs, off, splits = {}, {}, {}
    for program in programs:
        if program == "openvino":
            runs[program] = openvino_of(conversion(model, size, small, folder), call, DTYPES[dtype])
        else:
            runs[program], mine = program_of(program, unet, call)
        start = time.perf_counter()
        if program != "eager":  # the first call: compilation, packing, and whether the answer is right
            off[program] = checked(program, runs[program](), wanted, dtype)
            print(f"{program}: first call {time.perf_counter() - start:.1f} s, off {off[program]:.1e}", file=sys.stderr)
        if program in ("eager", "accelerate"):
            splits[program] = split_of(mine, runs[program])
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
        "all_seconds": times,
        "off": off,
        "splits": splits,
        "operations": operations(model, size, small),
        "peak_gflops": peak["peak_gflops"],
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "fallbacks": dict(kineograph.stats().fallbacks),
    }


def prepare(model, size, dtype, programs, small, folder):
    """Makes OpenVINO's conversion and calls compiled programs once, whose kernels inductor keeps on disk."""
    if "openvino" in programs:
        print(conversion(model, size, small, folder), file=sys.stderr)
    if not any("compile" in program for program in programs):
        return
    unet, call = prepared(model, size, DTYPES[dtype], small)
    for program in programs:
        if "compile" in program:
            start = time.perf_counter()
            program_of(program, unet, call)[0]()
            print(f"{program}: first call {time.perf_counter() - start:.1f} s", file=sys.stderr)


def key_of(row):
    return row["model"], row["size"], row["dtype"]


def times_table(rows):
    """Programs are rows, the fastest first, so that whoever is faster stands first."""
    lines = []
    programs = [program for program in PROGRAMS if any(program in row["seconds"] for row in rows)]
    known = [row["seconds"] for row in rows]

    def slowness(program):
        return statistics.mean(each[program] / min(each.values()) for each in known if program in each)

    lines.append("| one call, s | " + " | ".join(f"{r['model']} {r['size']}, {r['dtype']}" for r in rows) + " |")
    lines.append("|---|" + "---:|" * len(rows))
    for program in sorted(programs, key=slowness):
        cells = [
            f"{each[program]:.1f} ({each['eager'] / each[program]:.2f} × eager's speed)"
            if program in each and "eager" in each
            else f"{each[program]:.1f}"
            if program in each
            else ""
            for each in known
        ]
        lines.append(f"| {program} | " + " | ".join(cells) + " |")
    if all("operations" in row for row in rows):
        floors = [row["operations"] / row["peak_gflops"] / 1e9 for row in rows]
        lines.append("| the arithmetic at the peak | " + " | ".join(f"{floor:.1f}" for floor in floors) + " |")
    return lines


def splits_table(rows):
    kinds = [kind for kind in [*KINDS, "the rest"] if any(kind in s for row in rows for s in row["splits"].values())]
    lines = ["| where it goes, s | " + " | ".join(kinds) + " |", "|---|" + "---:|" * len(kinds)]
    for row in rows:
        for program, split in row["splits"].items():
            total = sum(split.values())
            cells = [f"{split.get(kind, 0):.1f} ({100 * split.get(kind, 0) / total:.0f} %)" for kind in kinds]
            name = f"{row['model']} {row['size']}, {row['dtype']}, {program}"
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def write(rows, output):
    Path(output + ".json").write_text(json.dumps(rows, indent=1) + "\n")
    made_on = f"Made on: {cpu_name()}, {torch.get_num_threads()} threads."
    Path(output + ".md").write_text("\n".join([made_on, "", *times_table(rows), "", *splits_table(rows)]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sizes", default="256,512", help="pixels of height and width")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small widths, to try the script itself")
    parser.add_argument("--output", default="unet_whole", help="OUTPUT.json and OUTPUT.md are written")
    parser.add_argument("--prepare", action="store_true", help="time nothing, fill the caches")
    parser.add_argument(
        "--conversions",
        default=str(Path(tempfile.gettempdir()) / "kineograph-unets"),
        help="folder of OpenVINO's conversions; delete it when diffusers or OpenVINO is another version",
    )
    arguments = parser.parse_args()
    known = Path(arguments.output + ".json")
    rows = json.loads(known.read_text()) if known.exists() else []
    programs = arguments.programs.split(",")
    with torch.no_grad():
        for model in arguments.models.split(","):
            for size in map(int, arguments.sizes.split(",")):
                for dtype in arguments.dtypes.split(","):
                    if arguments.prepare:
                        prepare(model, size, dtype, programs, arguments.small, arguments.conversions)
                        continue
                    row = measure(
                        model, size, dtype, programs, arguments.repeats, arguments.small, arguments.conversions
                    )
                    rows = [other for other in rows if key_of(other) != key_of(row)] + [row]
                    print(json.dumps(row), file=sys.stderr, flush=True)
                    torch._dynamo.reset()
                    gc.collect()
                    write(rows, arguments.output)


if __name__ == "__main__":
    main()
