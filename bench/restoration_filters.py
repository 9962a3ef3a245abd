"""ffmpeg's restoring filters for restoration.py, and the search for their best settings on a clip."""

import shlex
import subprocess
import sys

import numpy as np
from restoration_clips import SCALE
from restoration_scores import boil, psnr, ssim

FORMATS = ("gbrp", "yuv444p", "yuv420p")
# In a search a filter that looks at one frame at a time sees every 40th; SSIM is then of these, else of every 8th.
STILL_STRIDE, SSIM_STRIDE = 40, 8


class Filter:
    """One of ffmpeg's filters: `graph` makes its filter graph of the options; `options` are the values to try."""

    def __init__(self, name, damages, graph, options, starts, temporal=True):
        self.name, self.damages, self.graph, self.options = name, damages, graph, options
        self.starts, self.temporal = starts, temporal


def bm3d(passes):
    def one(planes, sigma, estimate, o):
        return (
            f"bm3d=sigma={sigma:g}:block=4:bstep={o['bstep']}:group={o['group']}:range={o['range']}"
            f":thmse={o['thmse']}:planes={planes}{estimate}"
        )

    def graph(pixels, o):
        # Chroma of RGB noise has another deviation than luma, and bm3d takes one: so it runs once for each.
        parts = [(7, o["sigma"])] if pixels == "gbrp" else [(1, o["sigma"]), (6, o["sigma"] * o["chroma"])]
        basic = ",".join(one(planes, sigma, "", o) for planes, sigma in parts)
        if passes == 1:
            return basic
        final = [one(planes, sigma * o["final"], ":estim=final:ref=1", o) for planes, sigma in parts]
        if len(parts) == 1:
            return f"split[noisy][again];[again]{basic}[basic];[noisy][basic]{final[0]}"
        return (
            f"split[noisy][again];[again]{basic},split[basic][basic2];"
            f"[noisy][basic]{final[0]}[luma];[luma][basic2]{final[1]}"
        )

    return graph


def hqdn3d(pixels, o):
    return f"hqdn3d={o['spatial']}:{o['spatial'] * o['chroma']}:{o['temporal']}:{o['temporal'] * o['chroma']}"


def atadenoise(pixels, o):
    a = {"0": o["a"], "1": o["a"] * o["chroma"], "2": o["a"] * o["chroma"]}
    planes = ":".join(f"{p}a={min(0.3, a[p]):.4f}:{p}b={min(5, a[p] * o['b']):.4f}" for p in a)
    return f"atadenoise={planes}:s={o['s']}:a={o['mode']}"


def nlmeans(pixels, o):
    return f"nlmeans=s={o['s']}:p={o['p']}:r={o['r']}"


def deflicker(pixels, o):
    return f"deflicker=size={o['size']}:mode={o['mode']}"


# bm3d's sigma and thmse count in units of its own, which grow with the group and the range.
BM3D = {
    "sigma": [30, 35, 40, 45, 50, 56, 64, 72, 80, 90, 105, 120, 140, 165, 190, 220, 260, 300, 350, 400],
    "chroma": [0.4, 0.5, 0.6, 0.75, 1.0, 1.3],
    "thmse": [3000, 10000, 20000, 40000, 80000, 160000, 320000],
    "group": [1, 2, 4, 8, 16],
    "range": [9, 15],
    "bstep": [4, 2, 1],
}
BM3D_STARTS = [
    {"sigma": 56, "chroma": 1.0, "thmse": 160000, "group": 1, "range": 9, "bstep": 4},
    {"sigma": 140, "chroma": 1.0, "thmse": 160000, "group": 4, "range": 9, "bstep": 4},
]
BM3D_FINAL = BM3D | {"final": [0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6]}
FILTERS = [
    Filter(
        "hqdn3d",
        ("noise", "both"),
        hqdn3d,
        {
            "spatial": [2, 4, 6, 8, 10, 12, 15, 18, 22, 27, 33],
            "temporal": [4, 8, 12, 16, 20, 25, 30, 36, 44, 55, 70],
            "chroma": [0.5, 0.75, 1.0, 1.5, 2.0, 3.0],
        },
        [{"spatial": 12, "temporal": 25, "chroma": 1.0}],
    ),
    Filter(
        "atadenoise",
        ("noise", "both"),
        atadenoise,
        {
            "a": [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3],
            "b": [1, 2, 4, 8, 16],
            "s": [5, 7, 9, 13, 17, 25, 33],
            "mode": ["p", "s"],
            "chroma": [0.25, 0.35, 0.5, 0.7, 1.0, 1.4],
        },
        [{"a": 0.2, "b": 4, "s": 9, "mode": "p", "chroma": 1.0}],
    ),
    Filter(
        "nlmeans",
        ("noise", "both"),
        nlmeans,
        {
            "s": [4, 6, 8, 10, 12, 14, 16, 19, 22, 26, 30],
            "p": [3, 5, 7, 9],
            "r": [5, 7, 11, 15, 21],
        },
        [{"s": 12, "p": 5, "r": 11}],
        temporal=False,
    ),
    Filter("bm3d", ("noise", "both"), bm3d(1), BM3D, BM3D_STARTS, temporal=False),
    Filter(
        "bm3d, final estimate",
        ("noise", "both"),
        bm3d(2),
        BM3D_FINAL,
        [start | {"final": 2.0} for start in BM3D_STARTS],
        temporal=False,
    ),
    Filter(
        "deflicker",
        ("flicker", "both"),
        deflicker,
        {
            "size": [2, 3, 5, 8, 12, 20, 40, 80, 129],
            "mode": ["am", "gm", "hm", "qm", "cm", "pm", "median"],
        },
        [{"size": 5, "mode": "am"}],
    ),
]


def ffmpeg(frames, graph):
    """`frames` through a filter graph, as 8-bit RGB both ways."""
    count, height, width, _ = frames.shape
    raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 25 -i /dev/stdin"
    command = ["ffmpeg", *shlex.split("-v error -nostdin"), *shlex.split(raw), "-filter_complex", graph]
    command += shlex.split("-f rawvideo -pix_fmt rgb24 -")
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if done.returncode:
        sys.exit(f"ffmpeg failed with the graph {graph}:\n{done.stderr.decode()}")
    made = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    if len(made) != count:
        sys.exit(f"the graph {graph} made {len(made)} frames of {count}")
    return made


def graph_of(filter_, pixels, options):
    return f"{SCALE},format={pixels},{filter_.graph(pixels, options)},{SCALE},format=rgb24"


def search(filter_, damaged, pristine):
    """The best graphs for PSNR and for SSIM: from each start the options move in turn while it helps."""
    stride = 1 if filter_.temporal else STILL_STRIDE
    damaged, pristine = damaged[::stride], pristine[::stride]
    best = {}
    for pixels in FORMATS:
        seen = {}

        def score(options, measure, pixels=pixels, seen=seen):
            graph = graph_of(filter_, pixels, options)
            if graph not in seen:
                made = ffmpeg(damaged, graph)
                seen[graph] = {
                    "psnr": psnr(made, pristine),
                    "ssim": ssim(made, pristine, SSIM_STRIDE if filter_.temporal else 1),
                }
            return seen[graph][measure]

        for start in filter_.starts:
            for measure in ("psnr", "ssim"):
                options, moved = start, True
                while moved:
                    moved = False
                    for name, values in filter_.options.items():
                        for step in (1, -1):
                            at = values.index(options[name]) + step
                            while 0 <= at < len(values) and (
                                score(options | {name: values[at]}, measure) > score(options, measure)
                            ):
                                options, moved, at = options | {name: values[at]}, True, at + step
                if score(options, measure) > best.get(measure, (-1,))[0]:
                    best[measure] = (score(options, measure), graph_of(filter_, pixels, options))
        print(
            f"  {filter_.name} in {pixels}: {len(seen)} settings, best {max(s['psnr'] for s in seen.values()):.2f} dB,"
            f" {max(s['ssim'] for s in seen.values()):.4f}",
            file=sys.stderr,
            flush=True,
        )
    return {measure: graph for measure, (_, graph) in best.items()}


def measure_filters(kind, damaged, pristine, settings):
    """Name -> {psnr, ssim, graphs}: each measure at the setting that is best for it."""
    # Of a clip with both damages, flicker goes first, and the denoisers get what the best deflicker made of it.
    source, found, before = damaged, {}, ""
    for filter_ in sorted((f for f in FILTERS if kind in f.damages), key=lambda f: f.name != "deflicker"):
        name = f"{before}{filter_.name}"
        graphs = settings.get(name, {}).get("graphs") or search(filter_, source, pristine)
        made = {measure: ffmpeg(source, graph) for measure, graph in graphs.items()}
        found[name] = {"psnr": psnr(made["psnr"], pristine), "ssim": ssim(made["ssim"], pristine), "graphs": graphs}
        found[name]["boil"] = boil(made["psnr"], pristine)
        print(f"{kind}: {name}: {found[name]['psnr']:.2f} dB, {found[name]['ssim']:.4f}", file=sys.stderr, flush=True)
        if kind == "both" and filter_.name == "deflicker":
            source, before = made["psnr"], "deflicker, "
    return found
