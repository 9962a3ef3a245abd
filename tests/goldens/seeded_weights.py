"""Weights from a seed and a parameter's name, the same bits in Python and in C++.

The goldens hold no weights: tests/ draws them again with the rule below. Every step is one IEEE float32 operation, in
the order written, so that two implementations that follow it agree bit for bit.
"""

import math
import re

import numpy as np

MASK = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def uniform(seed, name, shape):
    """float32 in (-1, 1), never 0; element i (row-major) is output i of splitmix64 keyed by seed and name."""
    key = fnv1a64(name) ^ (seed * GOLDEN_GAMMA & MASK)
    count = math.prod(shape)
    z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    # An odd integer below 2^23 in magnitude: exact in float32, and so is the power of two.
    odd = 2 * (z >> np.uint64(41)).astype(np.int64) + 1 - (1 << 23)
    return (odd.astype(np.float32) * np.float32(2.0**-23)).reshape(shape)


def normal(seed, name, shape):
    """Bell-shaped float32 with mean 0 and variance 1 (three uniforms summed in float64); for inputs only."""
    parts = [uniform(seed, f"{name}/{i}", shape).astype(np.float64) for i in range(3)]
    return (parts[0] + parts[1] + parts[2]).astype(np.float32)


def integers(seed, name, shape, bound):
    """int64 in [0, bound); for inputs only."""
    unit = (uniform(seed, name, shape).astype(np.float64) + 1.0) / 2.0
    return np.floor(unit * bound).astype(np.int64)


NORM = re.compile(r"(norm|norm_out|(temporal_)?transformer_blocks\.\d+\.norm(_in|[123]))\.(weight|bias)")
EMBEDDING = re.compile(r"(latent_image_embedding\.\w+|.*\.norm[12]\.emb|.*\.class_embedder\.embedding_table)\.weight")
QUERY_OR_KEY = re.compile(r".*\.attn[12]\.to_[qk]\.weight")
AS_IT_IS = re.compile(r"transformer_blocks\.\d+\.pos_embed\.pe|time_mixer\.mix_factor")


def draw(seed, name, shapes):
    """The float32 value of parameter `name`; `shapes` maps every name of the state dict to its shape."""
    u = uniform(seed, name, shapes[name])
    if AS_IT_IS.fullmatch(name):
        return u
    if norm := NORM.fullmatch(name):
        quarter = np.float32(0.25) * u
        return np.float32(1) + quarter if norm[4] == "weight" else quarter
    if EMBEDDING.fullmatch(name):
        return np.float32(math.sqrt(3.0)) * u
    # Everything else is a Linear, and its bias is as wide as its weight's rows say.
    fan_in = shapes[name.removesuffix(".bias") + ".weight"][1] if name.endswith(".bias") else shapes[name][1]
    value = np.float32(1.0 / math.sqrt(fan_in)) * u
    # Three times larger queries and keys: a softmax far from flat, or attention would hardly matter.
    return np.float32(3) * value if QUERY_OR_KEY.fullmatch(name) else value
