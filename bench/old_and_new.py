"""Holds the speed of one kineograph program to another's: measurements in turn, medians, and the old program against
itself, which says what a difference is worth on this machine.

python3 bench/old_and_new.py old/build/release/bin/kineograph build/release/bin/kineograph --minutes 7
"""

import argparse
import statistics
import time

from vs_peers import bench


def seconds(program, shape, dtype, backward):
    # A backward of the large shapes takes seconds: one of them is told apart as well as three forwards.
    repeats = ["--backward", "--repeats", "1"] if backward else ["--repeats", "3"]
    return bench(program, "--shape", shape, "--dtype", dtype, *repeats)[0]["seconds_median"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--shapes", default="AD-0s,AD-2s,small", help="those of kineograph bench")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--minutes", type=float, default=7.0, help="no round begins later")
    arguments = parser.parse_args()
    programs = {"old": arguments.old, "new": arguments.new, "again": arguments.old}
    cases = [
        (shape, dtype, backward)
        for backward in (False, True)
        for shape in arguments.shapes.split(",")
        for dtype in arguments.dtypes.split(",")
    ]
    times = {case: {name: [] for name in programs} for case in cases}
    start, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() - start < 60 * arguments.minutes:
        for case in cases:
            for name in list(programs)[:: 1 if rounds % 2 == 0 else -1]:
                times[case][name].append(seconds(programs[name], *case))
        rounds += 1
    print(f"{rounds} rounds; seconds of the old program, and shares of them\n")
    print("| shape | dtype | pass | old | new | old again |\n|---|---|---|---|---|---|")
    for shape, dtype, backward in cases:
        median = {name: statistics.median(values) for name, values in times[shape, dtype, backward].items()}
        share = {name: median[name] / median["old"] for name in ("new", "again")}
        walk = "forward and backward" if backward else "forward"
        print(f"| {shape} | {dtype} | {walk} | {median['old']:.3f} | {share['new']:.3f} | {share['again']:.3f} |")


if __name__ == "__main__":
    main()
