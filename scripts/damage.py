"""Reads raw frames of 8-bit RGB on stdin and writes them with Gaussian noise, rounded and clipped. Needs only Python.

usage: damage.py SIGMA SEED
"""

import itertools
import random
import statistics
import sys

CHUNK = 1 << 18

sigma, seed = float(sys.argv[1]), int(sys.argv[2])
# Levels are integers, so rounding the sum is rounding the noise: a draw is one of few integers, of known probability.
reach = int(6 * sigma) + 1
normal = statistics.NormalDist(0, sigma)
levels = range(-reach, reach + 1)
cumulated = list(itertools.accumulate(normal.cdf(n + 0.5) - normal.cdf(n - 0.5) for n in levels))
clipped = [min(max(level, 0), 255) for level in range(-reach, 256 + reach)]
draw = random.Random(seed)
while chunk := sys.stdin.buffer.read(CHUNK):
    noise = draw.choices(range(len(levels)), cum_weights=cumulated, k=len(chunk))
    sys.stdout.buffer.write(bytes([clipped[level + n] for level, n in zip(chunk, noise)]))
