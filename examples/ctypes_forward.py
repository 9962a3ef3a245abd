#!/usr/bin/env python3
"""Runs latents through a model by the C API alone, from any Python: no extension module, NumPy or torch.

examples/ctypes_forward.py build/release/lib/libkineograph_c.so
"""

import ctypes
import sys

MAX_RANK = 8
F32 = 0


class Tensor(ctypes.Structure):
    """kineograph_tensor."""

    _fields_ = [  # noqa: RUF012
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
        ("strides", ctypes.c_int64 * MAX_RANK),
    ]


class ForwardOptions(ctypes.Structure):
    """kineograph_forward_options."""

    _fields_ = [  # noqa: RUF012
        ("size", ctypes.c_size_t),
        ("num_frames", ctypes.c_int64),
        ("num_threads", ctypes.c_int),
        ("encoder_hidden_states", Tensor),
        ("timestep", Tensor),
        ("class_labels", Tensor),
        ("training", ctypes.c_int),
        ("training_seed", ctypes.c_uint64),
    ]


def tensor(values, *shape):
    return Tensor(ctypes.cast(values, ctypes.c_void_p), F32, len(shape), (ctypes.c_int64 * MAX_RANK)(*shape))


def main():
    library = ctypes.CDLL(sys.argv[1])
    library.kineograph_version.restype = ctypes.c_char_p
    library.kineograph_last_error.restype = ctypes.c_char_p
    library.kineograph_model_engine.restype = ctypes.c_char_p

    def check(status):
        if status != 0:
            sys.exit(library.kineograph_last_error().decode())

    config = b'{"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 32, "norm_num_groups": 8}'
    model = ctypes.c_void_p()
    check(library.kineograph_model_from_config(config, ctypes.c_uint64(1), F32, None, ctypes.byref(model)))

    frames, channels, height, width = 4, 32, 6, 5
    count = frames * channels * height * width
    values = (ctypes.c_float * count)(*((i * 7919) % 1000 / 500 - 1 for i in range(count)))
    sample = (ctypes.c_float * count)()
    options = ForwardOptions(size=ctypes.sizeof(ForwardOptions), num_frames=frames)
    check(
        library.kineograph_model_forward(
            model,
            ctypes.byref(tensor(values, frames, channels, height, width)),
            ctypes.byref(tensor(sample, frames, channels, height, width)),
            ctypes.byref(options),
        )
    )
    version, engine = library.kineograph_version().decode(), library.kineograph_model_engine(model).decode()
    print(f"kineograph {version}, engine {engine}: sample[0] {sample[0]:.6f}")
    library.kineograph_model_free(model)


main()
