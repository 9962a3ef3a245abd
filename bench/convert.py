#!/usr/bin/env python3
"""Time and memory of `kineograph convert` at full size, beside a plain copy of the same bytes.

    pip install torch diffusers
    bench/convert.py build/release/bin/kineograph

An AnimateDiff v2 file (453 million f32 values in a torch archive, random) becomes diffusers' MotionAdapter; in turn
with it the same number of bytes is copied and flushed. Prints a Markdown table of medians.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from diffusers import MotionAdapter

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests/checkpoints"))
from layouts import original_names  # noqa: E402

COPY_BYTES = 1 << 22


def copy(source, target):
    with open(source, "rb") as read, open(target, "wb") as write:
        while piece := read.read(COPY_BYTES):
            write.write(piece)
        write.flush()
        os.fsync(write.fileno())


def largest_memory(command):
    """Runs it; the most memory of its own that it held: mapped files count only while the system leaves them there."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        most = max([most] + [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")])
        time.sleep(0.01)
    if process.wait():
        sys.exit(f"{' '.join(map(str, command))} failed")
    return most / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", type=pathlib.Path, help="folder with 6 GB to spare; the system's by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        scratch = pathlib.Path(scratch)
        source = scratch / "mm.ckpt"
        torch.save({"state_dict": original_names(MotionAdapter().state_dict())}, source)
        times, memory = {"convert": [], "copy": []}, 0
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            memory = max(memory, largest_memory([arguments.program, "convert", source, scratch / "adapter"]))
            os.sync()
            times["convert"].append(time.perf_counter() - start)
            start = time.perf_counter()
            copy(source, scratch / "copy")
            times["copy"].append(time.perf_counter() - start)
        gigabytes = source.stat().st_size / 1e9
    print("| | seconds | GB/s | memory |\n|---|---:|---:|---:|")
    for name, values in times.items():
        seconds = statistics.median(values)
        held = f"{memory:.0f} MB" if name == "convert" else "-"
        print(f"| {name} | {seconds:.1f} | {gigabytes / seconds:.2f} | {held} |")


if __name__ == "__main__":
    main()
