#!/usr/bin/env python3
"""Clips longer than a module was trained for: FreeNoise's windows beside diffusers' own, and many frames without.

    pip install .[diffusers,plot]
    bench/long_clips.py build/release/bin/kineograph --output docs/long_clips  # .json, .md and .png

One temporal module of AnimateDiff, with windows of 16 frames every 4, pyramid weights, random numbers. Both programs
compute the same module on the same input in one process, their answers are compared, and then they take turns: the
figure is the median. Memory is a process's growth in its first call of a module, less the answer and packed weights; a
call of a narrow module comes before, so that code loaded late is not counted. Frames without windows are measured by
`kineograph bench`: the share of the peak counts all of the arithmetic, attention's too, which grows with the square of
the frames.
"""

import argparse
import ctypes
import functools
import gc
import json
import subprocess
import sys
from pathlib import Path

import figures
import kineograph
import torch
from diffusers import TransformerTemporalModel
from diffusers.models.attention import FreeNoiseTransformerBlock
from kineograph.diffusers.acceleration import NATIVE
from unet_temporal import ALLOWED, DTYPES, take_turns
from vs_peers import bench, cpu_name, memory_kib, reset_peak

PROGRAMS = {"kineograph": "kineograph", "eager": "diffusers"}
# Channels and the side of the latent: of the shallowest and the deepest modules at 256 x 256.
WIDTHS = {320: 32, 1280: 8}
FRAMES = (16, 32, 64, 128, 256)
LENGTH, STRIDE, WEIGHTING = 16, 4, "pyramid"


def freenoise_module(channels, dtype):
    torch.manual_seed(0)
    positions = {"positional_embeddings": "sinusoidal", "num_positional_embeddings": 32}
    module = TransformerTemporalModel(8, channels // 8, channels, **positions).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    (block,) = module.transformer_blocks
    windowed = FreeNoiseTransformerBlock(
        dim=channels,
        num_attention_heads=8,
        attention_head_dim=channels // 8,
        context_length=LENGTH,
        context_stride=STRIDE,
        weighting_scheme=WEIGHTING,
        double_self_attention=block.double_self_attention,
        **positions,
    )
    windowed.load_state_dict(block.state_dict())
    module.transformer_blocks[0] = windowed.eval()
    return torch.nn.Module.to(module, dtype)  # diffusers' own prints a warning


def make_call(program, module, original):
    """A function from input and number of frames to the answer. The class of `module` changes with the program."""

    def call(x, frames):
        module.__class__ = NATIVE[original] if program == "kineograph" else original
        return module(x, num_frames=frames)[0]

    return call


def drawn(frames, channels, side, dtype):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(frames, channels, side, side, generator=generator).to(dtype)


# --- Memory: a process of its own -----------------------------------------------------------------------------------


def worker(program, dtype, channels, side, frames):
    dtype = DTYPES[dtype]
    narrow, module = (freenoise_module(width, dtype) for width in (64, channels))
    call = make_call(program, module, type(module))
    packed = sum(p.nbytes for p in module.parameters()) if program == "kineograph" else 0
    with torch.inference_mode():
        make_call(program, narrow, type(narrow))(drawn(LENGTH, 64, 1, dtype), LENGTH)
        x = drawn(frames, channels, side, dtype)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        reset_peak()
        before = memory_kib("VmRSS")
        y = call(x, frames)
        grown = (memory_kib("VmHWM") - before) * 1024
    print(json.dumps({"memory_bytes": max(0, grown - y.nbytes - packed)}))


def memory_of(program, dtype, channels, side, frames):
    arguments = [program, dtype, channels, side, frames]
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])["memory_bytes"]


def memory_rows(frame_counts):
    for program in PROGRAMS:
        for side in (16, 32):
            for frames in frame_counts:
                row = {"program": program, "dtype": "f32", "channels": 320, "side": side, "frames": frames}
                yield {**row, "memory_bytes": memory_of(program, "f32", 320, side, frames)}


# --- Time -----------------------------------------------------------------------------------------------------------


def time_rows(dtype, channels, frame_counts, repeats):
    side = WIDTHS[channels]
    module = freenoise_module(channels, DTYPES[dtype])
    calls = {program: make_call(program, module, type(module)) for program in PROGRAMS}
    for frames in frame_counts:
        x = drawn(frames, channels, side, DTYPES[dtype])
        kineograph.stats(reset=True)
        with torch.inference_mode():
            turns = {program: functools.partial(call, x, frames) for program, call in calls.items()}
            seconds = take_turns(turns, ALLOWED[dtype], repeats)
        if kineograph.stats().fallbacks:
            raise RuntimeError(f"{frames} frames, {dtype}: {kineograph.stats()}")
        for program, median in seconds.items():
            row = {"program": program, "dtype": dtype, "channels": channels, "side": side, "frames": frames}
            yield {**row, "seconds": median}


def share_rows(program, frame_counts, repeats):
    shapes = ",".join(f"1x{frames}x320x8x16:8x40" for frames in frame_counts)
    for dtype in ALLOWED:
        for row in bench(program, "--shape", shapes, "--repeats", str(repeats), "--dtype", dtype):
            frames = int(row["shape"].split("x")[1])
            yield {
                "dtype": dtype,
                "frames": frames,
                **{k: row[k] for k in ("peak_share", "workspace_bytes", "threads")},
            }


# --- Tables and the picture -----------------------------------------------------------------------------------------


def found(rows, **wanted):
    return {r["program"]: r for r in rows if all(r[key] == value for key, value in wanted.items())}


def time_table(rows):
    lines = [
        "| channels | latent | frames | precision | diffusers, s | kineograph, s | faster |",
        "|---:|---|---:|---|" + "---:|" * 3,
    ]
    for dtype, channels, frames in dict.fromkeys((r["dtype"], r["channels"], r["frames"]) for r in rows):
        pair = found(rows, dtype=dtype, channels=channels, frames=frames)
        ours, theirs = pair["kineograph"]["seconds"], pair["eager"]["seconds"]
        side = pair["eager"]["side"]
        lines.append(
            f"| {channels} | {side} x {side} | {frames} | {dtype} | {theirs:.3f} | {ours:.3f} | {theirs / ours:.2f} × |"
        )
    return lines


def memory_table(rows):
    lines = ["| latent | frames | diffusers, MB | kineograph, MB |", "|---|---:|---:|---:|"]
    for side, frames in dict.fromkeys((r["side"], r["frames"]) for r in rows):
        pair = found(rows, side=side, frames=frames)
        ours, theirs = (pair[p]["memory_bytes"] / 1e6 for p in ("kineograph", "eager"))
        lines.append(f"| {side} x {side} | {frames} | {theirs:.0f} | {ours:.0f} |")
    return lines


def share_table(rows):
    lines = ["| frames | precision | share of the peak | memory of a thread, MB |", "|---:|---|---:|---:|"]
    for r in rows:
        per_thread = r["workspace_bytes"] / r["threads"] / 1e6
        lines.append(f"| {r['frames']} | {r['dtype']} | {100 * r['peak_share']:.0f} % | {per_thread:.0f} |")
    return lines


def text(results):
    parts = [
        f"Measured on {results['made_on']}. `bench/long_clips.py` makes this page.",
        "",
        f"## FreeNoise: windows of {LENGTH} frames every {STRIDE}",
        "",
        *time_table(results["time"]),
        "",
        "![Seconds and memory of one module over the number of frames](long_clips.png)",
        "",
        "Memory of one call in f32 at 320 channels, beside weights, input and answer:",
        "",
        *memory_table(results["memory"]),
        "",
        "## Many frames without windows",
        "",
        "320 channels, 8 heads, 8 x 16 latent pixels:",
        "",
        *share_table(results["shares"]),
    ]
    return "# Long clips\n\n" + "\n".join(parts) + "\n"


def picture(results, path):
    figure, axes = figures.new(2)
    plots = ((axes[0][0], "time", "seconds", 1.0, lambda r: r["dtype"] == "f32" and r["channels"] == 320),)
    plots += ((axes[0][1], "memory", "memory_bytes", 1e6, lambda r: True),)
    for axis, kind, key, unit, wanted in plots:
        rows = [r for r in results[kind] if wanted(r)]
        for p, (program, title) in enumerate(PROGRAMS.items()):
            for side, style in zip(sorted({r["side"] for r in rows}), ("--", "-")[-len({r["side"] for r in rows}) :]):
                line = [(r["frames"], r[key] / unit) for r in rows if (r["program"], r["side"]) == (program, side)]
                label = f"{title}, {side} × {side} latent" if kind == "memory" else None
                axis.plot(*zip(*line), style, color=figures.COLOURS[p], marker="o", markersize=3, label=label)
        axis.set_xlabel("frames", fontsize=9)
        axis.set_ylabel("seconds a call, 32 × 32 latent" if kind == "time" else "MB a call", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    title = f"FreeNoise in one temporal module of 320 channels, f32: windows of {LENGTH} frames every {STRIDE}"
    figures.save(figure, axes, title, results["made_on"], path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="build/release/bin/kineograph", help="the command line")
    parser.add_argument("--frames", default=",".join(map(str, FRAMES)))
    parser.add_argument("--many-frames", default="64,128,256,512,1024", help="without windows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="long_clips", help="OUTPUT.json, .md and .png are written")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        program, dtype, *numbers = arguments.worker
        return worker(program, dtype, *map(int, numbers))
    frames = [int(n) for n in arguments.frames.split(",")]
    many = [int(n) for n in arguments.many_frames.split(",")]
    results = {"made_on": f"{cpu_name()}, {figures.today()}"}
    results["shares"] = list(share_rows(arguments.program, many, arguments.repeats))
    results["memory"] = list(memory_rows(frames))
    results["time"] = []
    for dtype in ALLOWED:
        for channels in WIDTHS:
            # The whole range at 320 channels in f32; elsewhere 64 frames.
            counts = frames if (dtype, channels) == ("f32", 320) else [n for n in frames if n == 64] or frames[-1:]
            results["time"] += time_rows(dtype, channels, counts, arguments.repeats)
            print(dtype, channels, file=sys.stderr, flush=True)
    Path(arguments.output + ".json").write_text(json.dumps(results, indent=1) + "\n")
    Path(arguments.output + ".md").write_text(text(results))
    picture(results, arguments.output + ".png")
    print(text(results), end="")


if __name__ == "__main__":
    main()
