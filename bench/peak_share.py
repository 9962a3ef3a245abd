#!/usr/bin/env python3
"""Tables what `kineograph bench` measures: every published shape beside the machine's peak of multiply-adds.

python3 bench/peak_share.py build/release/bin/kineograph --output docs/peak      # docs/peak.json, docs/peak.md
python3 bench/peak_share.py build/release/bin/kineograph --shapes AD-0s --isa avx2 --output peak
"""

import argparse
import json
from pathlib import Path

from vs_peers import bench, cpu_name

SHAPES = "AD-0,AD-1,AD-2,AD-3,MS-in,MS-0,ZS-in,ZS-0,ZS-1,ZS-2,ZS-mid"


def measure(arguments, dtype):
    forced = ["--isa", arguments.isa] if arguments.isa else []
    return bench(
        arguments.program, "--shape", arguments.shapes, "--dtype", dtype, "--threads", str(arguments.threads), *forced
    )


def table(rows):
    lines = [
        "| shape | precision | seconds | GFLOP/s | of peak | error | workspace |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['shape']} | {r['dtype']} | {r['seconds_median']:.3f} | {r['gflops']:.0f} "
        f"| {100 * r['peak_share']:.1f} % | {r['max_error']:.1e} | {r['workspace_bytes'] / 1e6:.1f} MB |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the kineograph program")
    parser.add_argument("--shapes", default=SHAPES, help="those of kineograph bench")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--isa", help="instruction set to force")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--output", default="peak", help="OUTPUT.json and .md are written (default: peak)")
    arguments = parser.parse_args()
    rows = [row for dtype in arguments.dtypes.split(",") for row in measure(arguments, dtype)]
    made_on = f"Made on: {cpu_name()}, {rows[0]['threads']} threads, {rows[0]['isa']}.\n\n"
    Path(arguments.output + ".json").write_text(json.dumps(rows, indent=1) + "\n")
    Path(arguments.output + ".md").write_text(made_on + table(rows))
    print(made_on + table(rows), end="")


if __name__ == "__main__":
    main()
