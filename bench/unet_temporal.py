#!/usr/bin/env python3
"""The temporal modules' share of one AnimateDiff UNet call at 512 x 512: PyTorch eager, torch.compile, kineograph.

    pip install .[diffusers]
    bench/unet_temporal.py --output docs/unet_temporal

One UNet call with classifier-free guidance, 2 x 16 frames, at real widths with random weights: the 21 motion modules of
AnimateDiff v2 (20 without the one in the middle). Every module runs by itself on the input that it has there, in each
program in turn; its answer is compared first. OUTPUT.json and .md are written after every module.
"""

import argparse
import functools
import gc
import json
import statistics
import sys
import time
from pathlib import Path

import kineograph
import torch
from diffusers import MotionAdapter
from kineograph.diffusers.acceleration import NATIVE

FRAMES, VIDEOS = 16, 2
PROGRAMS = ("kineograph", "eager", "compile")
TITLES = {"kineograph": "kineograph", "eager": "PyTorch eager", "compile": "torch.compile"}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# How far answers may lie apart, of the largest one; bf16's own rounding is 2^-8 a product.
ALLOWED = {"f32": 1e-5, "bf16": 5e-2}


def sites(size):
    """(path, level of the resolution) of every motion module, shallowest first; the latents are size / 8 wide."""
    adapter = MotionAdapter()
    for path, module in adapter.named_modules():
        if type(module) in NATIVE:
            # down_blocks.N works at level N, up_blocks.N at 3 - N, the middle at 3.
            part, number = path.split(".")[:2]
            level = 3 if part == "mid_block" else int(number) if part == "down_blocks" else 3 - int(number)
            yield path, module, size // 8 >> level


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(calls, allowed, repeats):
    """Median seconds of each program's call, interleaved. Answers are held to eager's first, if it is among them."""
    wanted = calls["eager"]() if "eager" in calls else None
    for program, call in calls.items():
        answer = call()  # also the warm-up, and the compilation
        if wanted is not None:
            off = ((answer.float() - wanted.float()).abs().max() / wanted.float().abs().max()).item()
            if not off <= allowed:
                raise RuntimeError(f"{program} is off by {off:.1e} of the largest output")
    times = {program: [] for program in calls}
    for _ in range(repeats):
        for program, call in calls.items():
            times[program].append(seconds_of(call))
    return {program: statistics.median(values) for program, values in times.items()}


def measure(module, side, dtype, programs, repeats):
    """Median seconds of each program at one site, with their turns interleaved."""
    module = module.to(dtype).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(VIDEOS * FRAMES, module.in_channels, side, side).to(dtype)
    original, native = type(module), NATIVE[type(module)]
    compiled = torch.compile(module) if "compile" in programs else None

    def call(program):
        module.__class__ = native if program == "kineograph" else original
        return (compiled if program == "compile" else module)(x, num_frames=FRAMES)

    name = "bf16" if dtype == torch.bfloat16 else "f32"
    return take_turns({program: functools.partial(call, program) for program in programs}, ALLOWED[name], repeats)


def table(rows):
    lines = [
        "| precision | modules | " + " | ".join(f"{TITLES[p]}, s" for p in PROGRAMS) + " | over eager | over compile |",
        "|---|---:|" + "---:|" * (len(PROGRAMS) + 2),
    ]
    for dtype in DTYPES:
        mine = [row for row in rows if row["dtype"] == dtype]
        if not mine:
            continue
        for title, chosen in (
            ("without the middle", [r for r in mine if "mid_block" not in r["module"]]),
            ("all", mine),
        ):
            totals = {p: sum(r["seconds"][p] for r in chosen) for p in PROGRAMS if p in chosen[0]["seconds"]}
            cells = [f"{totals[p]:.2f}" if p in totals else "" for p in PROGRAMS]
            cells += [f"{totals[p] / totals['kineograph']:.2f} ×" if p in totals else "" for p in PROGRAMS[1:]]
            lines.append(f"| {dtype} | {len(chosen)} ({title}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels of height and width")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="unet", help="OUTPUT.json and OUTPUT.md are written (default: unet)")
    arguments = parser.parse_args()

    rows, measured = [], {}
    torch.manual_seed(0)
    with torch.no_grad():
        for dtype in arguments.dtypes.split(","):
            for path, module, side in sites(arguments.size):
                # Modules alike but for their random weights take the same time: each kind is measured once.
                key = (dtype, module.in_channels, side)
                if key not in measured:
                    measured[key] = measure(
                        module, side, DTYPES[dtype], arguments.programs.split(","), arguments.repeats
                    )
                    print(*key, measured[key], file=sys.stderr, flush=True)
                    torch._dynamo.reset()
                    gc.collect()
                rows.append(
                    {
                        "dtype": dtype,
                        "module": path,
                        "channels": module.in_channels,
                        "side": side,
                        "seconds": measured[key],
                    }
                )
            Path(arguments.output + ".json").write_text(json.dumps(rows, indent=1) + "\n")
            Path(arguments.output + ".md").write_text(table(rows))
    print(table(rows), end="")
    assert not kineograph.stats().fallbacks, kineograph.stats()


if __name__ == "__main__":
    main()
