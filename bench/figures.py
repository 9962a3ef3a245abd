"""The one style of the pictures of docs/: bars of programs by shape, labelled so that no text is needed beside them."""

import datetime

# kineograph first, the others in greys.
COLOURS = ["#d1495b", "#9aa5b1", "#7b8794", "#cbd2d9", "#52606d"]
SHAPES = {
    "AD-0": "AD-0\n320 channels, 64 × 64\n2 clips of 16 frames",
    "AD-0s": "AD-0s\n320 channels, 64 × 64\n16 frames",
    "AD-1s": "AD-1s\n640 channels, 32 × 32\n16 frames",
    "AD-2": "AD-2\n1280 channels, 16 × 16\n2 clips of 16 frames",
    "AD-2s": "AD-2s\n1280 channels, 16 × 16\n16 frames",
    "small": "small\n320 channels, 32 × 32\n16 frames",
}


def today():
    return datetime.date.today().isoformat()


def new(columns, rows=1, size=None, **more):
    """A figure on white, so that it reads on dark pages too, and its axes. `size` in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = size or (1 + 5.5 * columns, 1.2 + 3.2 * rows)
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False, facecolor="white", **more)


def bars(axis, rows, value, unit, log=False):
    """A bar a program and shape. `value` gives a row's number, or a word that stands where there is none."""
    programs = list(dict.fromkeys(r["program"] for r in rows))
    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    width = 0.8 / len(programs)
    found = {(r["shape"], r["program"]): value(r) for r in rows}
    numbers = [v for v in found.values() if not isinstance(v, str)]
    if log:
        axis.set_yscale("log")
        axis.set_ylim(min(numbers) / 3, 3 * max(numbers))
    bottom = axis.get_ylim()[0] if log else 0
    for p, program in enumerate(programs):
        labelled = False
        for s, shape in enumerate(shapes):
            v = found.get((shape, program), "not run")
            place = s + width * (p - (len(programs) - 1) / 2)
            if isinstance(v, str):
                axis.text(place, bottom, " " + v, rotation=90, ha="center", va="bottom", fontsize=7, color="#52606d")
                continue
            label = None if labelled else program
            labelled = True
            axis.bar(place, v, 0.92 * width, color=COLOURS[p], label=label)
            axis.text(place, v, f"{v:.0f}", ha="center", va="bottom", fontsize=7)
    axis.set_xticks(range(len(shapes)), [SHAPES.get(shape, shape) for shape in shapes], fontsize=8)
    axis.set_ylabel(unit + (" (logarithmic)" if log else ""), fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def peak(axis, rows):
    """A line at what multiply-adds on registers reached in the same run."""
    most = max(r["peak_gflops"] for r in rows)
    axis.axhline(most, color="black", linewidth=0.8, linestyle="--")
    axis.text(axis.get_xlim()[1], most, "peak of multiply-adds", ha="right", va="bottom", fontsize=8)
    axis.set_ylim(0, 1.15 * most)


def sign(figure, made_on):
    """The machine and the day, in the lower right corner."""
    figure.text(0.99, 0.005, made_on, ha="right", va="bottom", fontsize=7, color="#52606d")


def save(figure, axes, title, made_on, path):
    handles = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    labels = list(handles)
    figure.suptitle(title, fontsize=11)
    place = dict(loc="lower center", bbox_to_anchor=(0.5, 0.025), ncols=len(labels))
    figure.legend(handles.values(), labels, frameon=False, fontsize=8, **place)
    sign(figure, made_on)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)
