#!/usr/bin/env python3
"""Prints the table of GeluTail in src/engine/cpu/kernels/vector_math-inl.h, and the error that it makes in f32.

a Phi(-a) for 0 <= a <= 5.5, in 16 pieces around a = n / 2.8125: on each the polynomial of degree 4 in r = 2.8125 a - n
that meets it at the Chebyshev points. The first piece begins and the last one ends in 0.
"""

import math

import numpy as np
from numpy.polynomial import Polynomial
from numpy.polynomial.chebyshev import Chebyshev

SCALE, END, PIECES, DEGREE = 2.8125, 5.5, 16, 4
LAST = SCALE * END - (PIECES - 1)  # r where the last piece ends


def tail(a: float) -> float:
    return 0.5 * a * math.erfc(a / math.sqrt(2.0))


def piece(n: int) -> np.ndarray:
    low, high = (0.0 if n == 0 else -0.5), (LAST if n == PIECES - 1 else 0.5)

    def value(r: float) -> float:
        tilt = tail(END) * (r - low) / (high - low) if n == PIECES - 1 else 0.0
        return tail((n + r) / SCALE) - tilt

    fit = Chebyshev.interpolate(np.vectorize(value), DEGREE, domain=[low, high])
    coefficients = fit.convert(kind=Polynomial).coef.astype(np.float32)
    if n == 0:
        coefficients[0] = 0.0
    return coefficients


def evaluate(table: np.ndarray, a: np.ndarray) -> np.ndarray:
    t = np.minimum(a, np.float32(END)) * np.float32(SCALE)
    n = np.rint(t).astype(int)
    r = (t - n).astype(np.float32)
    y = table[n, DEGREE]
    for power in range(DEGREE - 1, -1, -1):
        y = y * r + table[n, power]
    return y


if __name__ == "__main__":
    table = np.array([piece(n) for n in range(PIECES)])
    for power in range(DEGREE, -1, -1):
        print("    {" + ", ".join(f"{c:.8e}f" for c in table[:, power]) + "},")
    a = np.linspace(0.0, 8.0, 1 << 20, dtype=np.float32)
    error = np.abs(evaluate(table, a) - np.vectorize(tail)(a.astype(np.float64)))
    print(f"// worst error {error.max():.2e} at {a[error.argmax()]:.3f}")
