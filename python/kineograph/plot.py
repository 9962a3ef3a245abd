"""Pictures. Needs matplotlib: ``pip install kineograph[plot]``."""

from typing import Any, Optional

import numpy

__all__ = ["attention"]


def attention(maps: Any, *, video: int = 0, heads: Optional[Any] = None, path: Optional[str] = None) -> Any:
    """Draws attention maps: a row an attention, a column a head; each square is the mean over pixels of how much a frame
    (down) looks at a frame or token (across).

    Args:
        maps: what ``record_attention`` gave, or one array (B, H*W, heads, F, S).
        video: index b of the video.
        heads: indices of the heads to draw; by default all.
        path: where to save the picture; its ending says in which format.

    Returns:
        The matplotlib figure.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("kineograph.plot needs matplotlib: pip install kineograph[plot]") from error
    named = {name: maps[name] for name in maps} if hasattr(maps, "keys") else {"": numpy.asarray(maps)}
    if not named:
        raise ValueError("maps: expected at least one attention, found none. Was the model called while recorded?")
    for name, array in named.items():
        if array.ndim != 5 or not -array.shape[0] <= video < array.shape[0]:
            raise ValueError(f"maps {name}: expected (B, H*W, heads, F, S) with video {video}, found {array.shape}")
    shown = {name: list(range(array.shape[2]) if heads is None else heads) for name, array in named.items()}
    columns = max(map(len, shown.values()))
    figure = Figure(figsize=(1.6 * columns + 1.2, 1.8 * len(named) + 0.3), layout="constrained")
    axes = figure.subplots(len(named), columns, squeeze=False)
    for row, (name, array) in zip(axes, named.items()):
        for axis in row[len(shown[name]) :]:
            axis.set_axis_off()
        for axis, head in zip(row, shown[name]):
            image = axis.imshow(array[video, :, head].mean(axis=0), vmin=0, cmap="magma", aspect="auto")
            axis.set_title(f"head {head}", fontsize=8)
            axis.tick_params(labelsize=6)
        row[0].set_ylabel(name, fontsize=6)
        figure.colorbar(image, ax=list(row), shrink=0.8).ax.tick_params(labelsize=6)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
