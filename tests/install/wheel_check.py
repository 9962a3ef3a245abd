"""What a wheel is to do on a machine with Python alone. usage: wheel_check.py PROGRAM"""

import pathlib
import subprocess
import sys
import tempfile

import kineograph
import numpy as np

program = sys.argv[1]
version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
assert version.startswith(f"kineograph {kineograph.__version__}\n"), version
assert "engine cpu:" in version, version

# Noise on an edge that moves: the shipped model takes most of it away, in Python and in the program.
random = np.random.default_rng(1)
original = np.full((8, 48, 64), 90.0)
for frame in range(8):
    original[frame, :, 20 + frame :] = 160.0
noisy = np.clip(original + random.normal(0, 25, original.shape), 0, 255).astype(np.uint8)
frames = np.repeat(noisy[..., None], 3, axis=3)


def error(luma):
    return float(np.mean((luma.astype(float) - original) ** 2))


restored = kineograph.restore_video(frames)
assert error(restored[..., 1]) < error(noisy) / 4, (error(restored[..., 1]), error(noisy))

with tempfile.TemporaryDirectory() as folder:
    source, result = pathlib.Path(folder, "noisy.y4m"), pathlib.Path(folder, "restored.y4m")
    header = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 Cmono XCOLORRANGE=FULL\n"
    source.write_bytes(header + b"".join(b"FRAME\n" + frame.tobytes() for frame in noisy))
    subprocess.run([program, "restore", source, result], check=True, capture_output=True)
    parts = result.read_bytes().split(b"\n", 1)[1].split(b"FRAME\n")[1:]
    luma = np.stack([np.frombuffer(part[: 48 * 64], np.uint8).reshape(48, 64) for part in parts])
    assert error(luma) < error(noisy) / 4, (error(luma), error(noisy))
print("the wheel restores")
