"""Video restored: noise and flicker taken out of arrays of frames, of files, and of films on many machines.

On arrays::

    restored = kineograph.restore_video(frames)                  # (F, H, W, 3) in, the same out

On files, which ffmpeg decodes and encodes; sound and metadata are copied::

    kineograph.film.restore("noisy.mp4", "clean.mp4")

On many machines, by whatever runs functions there: ``concurrent.futures``, Dask, mpi4py, submitit::

    kineograph.film.restore("noisy.mp4", "clean.mp4", executor=dask.distributed.Client("scheduler:8786"))
"""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ._native import VideoRestorer
from .errors import ArgumentError, IoError
from .model import TransformerTemporalModel
from .threads import num_threads as default_threads

__all__ = ["restore", "restore_video"]

_PACKAGE = pathlib.Path(__file__).resolve().parent


def _shipped_model() -> pathlib.Path:
    """The folder of the model that comes with the package."""
    folder = pathlib.Path(os.environ.get("KINEOGRAPH_MODELS") or _PACKAGE / "share/kineograph/models") / "restore"
    if not folder.is_dir():
        raise IoError(f"a shipped model: expected {folder}, found no folder")
    return folder


def _program() -> str:
    """The program ``kineograph`` that the package holds, else the one on the PATH."""
    program = _PACKAGE / "bin/kineograph"
    found = str(program) if os.access(program, os.X_OK) else shutil.which("kineograph")
    if found is None:
        raise IoError(f"the program kineograph: expected {program} or one on the PATH, found neither")
    return found


def _to_colours(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) of any supported dtype to float32 (3, H, W) in -1..1."""
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ArgumentError(f"frames: expected (F, H, W, 3), found frames of shape {frame.shape}")
    if frame.dtype == np.uint8:
        scale = 255.0
    elif frame.dtype == np.uint16:
        scale = 65535.0
    elif frame.dtype in (np.float32, np.float64):
        scale = 1.0
    else:
        raise ArgumentError(f"frames: expected uint8, uint16, float32 or float64, found {frame.dtype}")
    return np.ascontiguousarray(np.moveaxis(frame.astype(np.float32) * (2 / scale) - 1, 2, 0))


def _from_colours(colours: np.ndarray, dtype: np.dtype) -> np.ndarray:
    frame = (np.moveaxis(colours, 0, 2) + 1) / 2
    if np.issubdtype(dtype, np.integer):
        most = np.iinfo(dtype).max
        return np.clip(np.rint(frame * most), 0, most).astype(dtype)
    return np.clip(frame, 0, 1).astype(dtype)


def _restored(frames: Iterable[Any], report: "list[dict[str, Any]] | None", options: "dict[str, Any]") -> Iterator[Any]:
    model = options.pop("model")
    if not isinstance(model, TransformerTemporalModel):
        model = TransformerTemporalModel.from_pretrained(model if model is not None else _shipped_model())
    restorer, dtype = None, np.dtype(np.uint8)
    for frame in frames:
        frame = np.asarray(frame)
        colours = _to_colours(frame)
        if restorer is None:
            dtype = frame.dtype
            restorer = VideoRestorer(model._model, colours.shape[1], colours.shape[2], **options)
        restorer.push(colours)
        while (done := restorer.pop()) is not None:
            yield _from_colours(done, dtype)
    if restorer is None:
        return
    restorer.finish()
    while (done := restorer.pop()) is not None:
        yield _from_colours(done, dtype)
    if report is not None:
        report.extend(restorer.findings())


def restore_video(
    frames: Any,
    *,
    model: Any = None,
    strength: "float | None" = None,
    damage: str = "auto",
    window: "int | None" = None,
    shifts: int = 16,
    num_threads: int = 0,
    report: "list[dict[str, Any]] | None" = None,
) -> Any:
    """Takes noise and flicker out of a video. Frames in which nothing is wrong come back as they were.

    Args:
        frames: RGB of shape (F, H, W, 3), or any iterable of frames (H, W, 3) of one shape: uint8 of 0..255, uint16 of
            0..65535, float32 or float64 of 0..1.
        model: A folder or a ``TransformerTemporalModel`` trained by ``kineograph train``; the shipped one by default.
        strength: The noise's deviation in levels of 0..255; estimated by default.
        damage: "noise", "flicker" or "both"; "auto" finds out.
        window: Frames that the model sees at once; by default those it has positions for, at most 16.
        shifts: Grids of patches that are averaged: 1, 2, 4, 8 or 16. More is better and slower.
        num_threads: 0 for what ``set_num_threads`` said, else all cores.
        report: A list to which what was found is appended, a dict for every window: first, count, damage (None: nothing
            found), sigma (of 255 levels), coarseness (1 for white noise, more for grain).

    Returns:
        An array of the same shape and dtype; for an iterable that is no array, an iterator over restored frames, which
        holds some thirty of them at a time.

    Raises:
        ArgumentError, ConfigError, IoError.
    """
    options = {
        "model": model,
        "strength": strength,
        "damage": damage,
        "window": window,
        "shifts": shifts,
        "num_threads": num_threads or default_threads(),
    }
    if not hasattr(frames, "shape"):
        return _restored(frames, report, options)
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3:
        raise ArgumentError(f"frames: expected (F, H, W, 3), found shape {frames.shape}")
    restored = np.empty_like(frames)
    for number, frame in enumerate(_restored(frames, report, options)):
        restored[number] = frame
    return restored


def _run(*arguments: Any) -> str:
    """``kineograph restore``; what it prints."""
    done = subprocess.run(
        [_program(), "restore", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise IoError(done.stderr.strip() or f"kineograph restore ended with code {done.returncode}")
    return done.stdout


def restore_segment(path: str, plan: str, folder: str, number: int, options: "tuple[str, ...]" = ()) -> int:
    """One segment of a planned film into a file of ``folder``, where it is not there yet: what an executor's machines
    run. Returns its number."""
    _run(path, folder, "--plan", plan, "--segment", number, *options)
    return number


def _try_all(executor: Any, jobs: "list[tuple[Any, ...]]") -> "dict[int, BaseException]":
    """Runs the jobs, and says which failed and why."""
    failed: dict[int, BaseException] = {}
    futures = []
    for job in jobs:
        try:
            futures.append((job[3], executor.submit(restore_segment, *job)))
        except Exception as error:  # a pool that broke takes no more
            failed[job[3]] = error
    for number, future in futures:
        try:
            future.result()
        except Exception as error:
            failed[number] = error
    return failed


def restore(
    path: "str | os.PathLike[str]",
    output: "str | os.PathLike[str]",
    *,
    executor: Any = None,
    folder: "str | os.PathLike[str] | None" = None,
    retries: int = 2,
    segment_frames: int = 240,
    options: "Iterable[str]" = (),
) -> None:
    """Restores a video file into another one, with its sound and metadata.

    Args:
        path: A video that ffmpeg decodes, or .y4m.
        output: .mp4, .m4v, .mov, .mkv, .webm or .y4m.
        executor: Anything with ``submit(function, *arguments)`` that returns a future with ``result()``. The film's
            segments are its jobs. Its machines need kineograph, and see ``path`` and ``folder`` under the same names.
        folder: Where the plan and finished segments are kept until the film is joined: by default beside the output,
            its name with ``.segments``. What is there from a run before is not done again. It is removed at the end.
        retries: How often a segment that failed is tried again.
        segment_frames: About how many frames a segment has.
        options: More of ``kineograph restore``'s options, such as ("--shifts", "4").

    Raises:
        IoError: where the program fails, with its words; names the segments that are missing.
    """
    more = tuple(options)
    if executor is None:
        _run(path, output, *more)
        return
    kept = pathlib.Path(folder if folder is not None else f"{os.fspath(output)}.segments").absolute()
    kept.mkdir(parents=True, exist_ok=True)
    source, plan = os.path.abspath(path), kept / "plan.json"
    if not plan.exists():
        _run(source, "--plan", plan, "--segment-frames", segment_frames, *more)
    failed: dict[int, BaseException] = {}
    for _ in range(retries + 1):
        missing = [int(number) for number in _run("--plan", plan, "--join", kept, "--list").split()]
        if not missing:
            break
        failed = _try_all(executor, [(source, str(plan), str(kept), number) for number in missing])
    missing = [int(number) for number in _run("--plan", plan, "--join", kept, "--list").split()]
    if missing:
        why = next((str(failed[number]) for number in missing if number in failed), "no job said why")
        raise IoError(f"segments {' '.join(map(str, missing))} of {path}: failed {retries + 1} times; {why}")
    _run(source, output, "--plan", plan, "--join", kept)
    shutil.rmtree(kept)
