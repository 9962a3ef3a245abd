"""Video restored: arrays in and out, and files by executors, one of which breaks."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import subprocess

import kineograph
import numpy as np
import pytest
from kineograph import film


def picture(frames, height=40, width=48):
    y, x, f = np.mgrid[:height, :width, :frames].astype(np.float64)
    waves = 120 + 50 * np.sin(0.2 * x + 0.13 * y + 0.05 * f)
    return np.stack([waves, waves * 0.8 + 20, 230 - waves], -1).transpose(2, 0, 1, 3)


def noisy(frames, sigma=20, **more):
    clean = picture(frames, **more)
    return np.clip(np.rint(clean + np.random.default_rng(1).normal(0, sigma, clean.shape)), 0, 255).astype(np.uint8)


def error(found, wanted):
    return float(np.sqrt(np.mean((found.astype(np.float64) - wanted) ** 2)))


@pytest.fixture(autouse=True)
def models(monkeypatch):
    monkeypatch.setenv("KINEOGRAPH_MODELS", str(pathlib.Path(__file__).parents[2] / "models"))


def test_noise_is_taken_out_of_arrays():
    report = []
    frames = noisy(20)
    restored = kineograph.restore_video(frames, shifts=2, report=report)
    assert restored.shape == frames.shape and restored.dtype == np.uint8
    assert error(restored, picture(20)) < 0.35 * error(frames, picture(20))
    assert sum(window["count"] for window in report) == 20
    assert all(window["damage"] == "noise" and 17 < window["sigma"] < 23 for window in report)


def test_clean_frames_come_back_as_they_were():
    frames = np.rint(picture(20)).astype(np.uint8)
    report = []
    assert np.array_equal(kineograph.restore_video(frames, report=report), frames)
    assert [window["damage"] for window in report] == [None] * len(report)
    colours = (frames / 255).astype(np.float32)
    assert np.abs(kineograph.restore_video(colours) - colours).max() < 1e-4


def test_frames_may_come_one_by_one_and_in_other_dtypes():
    frames = noisy(20)
    whole = kineograph.restore_video(frames, shifts=2)
    one_by_one = kineograph.restore_video(iter(frames), shifts=2)
    assert iter(one_by_one) is one_by_one
    assert np.array_equal(np.stack(list(one_by_one)), whole)
    deep = kineograph.restore_video(frames.astype(np.uint16) * 257, shifts=2)
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - whole).max() < 0.6
    assert list(kineograph.restore_video(iter([]))) == []
    assert kineograph.restore_video(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 8, 8, 3)


def test_what_does_not_fit_is_said():
    frames = noisy(2)
    for arguments, what in [
        ((frames[..., 0],), "F, H, W, 3"),
        ((frames.astype(np.int32),), "int32"),
        ((frames[..., :2],), "F, H, W, 3"),
    ]:
        with pytest.raises(kineograph.ArgumentError, match=what):
            kineograph.restore_video(*arguments)
    for options in [{"damage": "scratches"}, {"strength": -1}, {"shifts": 3}, {"window": 99}]:
        with pytest.raises(kineograph.ArgumentError, match=next(iter(options))):
            kineograph.restore_video(frames, **options)
    with pytest.raises(kineograph.ArgumentError, match="frames"):
        list(kineograph.restore_video(iter([frames[0], frames[1][:8]])))
    with pytest.raises(kineograph.IoError):
        kineograph.restore_video(frames, model="nowhere")


@pytest.fixture
def clip(tmp_path):
    frames = noisy(60, sigma=15)
    path = tmp_path / "film.y4m"
    with open(path, "wb") as out:
        out.write(b"YUV4MPEG2 W48 H40 F25:1 Ip A1:1 C444 XCOLORRANGE=FULL\n")
        for frame in frames:
            out.write(b"FRAME\n" + frame.transpose(2, 0, 1).tobytes())
    film.restore(path, tmp_path / "whole.y4m", options=["--shifts", "2"])
    return path


def whole(clip):
    return (clip.parent / "whole.y4m").read_bytes()


OPTIONS = {"segment_frames": 10, "options": ["--shifts", "2"]}


def test_a_film_by_processes_is_the_film_of_one(clip):
    output = clip.parent / "out.y4m"
    # Not by fork: this process has threads of other tests by now.
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        film.restore(clip, output, executor=pool, **OPTIONS)
    assert output.read_bytes() == whole(clip)
    assert sorted(path.name for path in clip.parent.iterdir()) == ["film.y4m", "out.y4m", "whole.y4m"]


class Flaky:
    """An executor whose every third job fails, the first time; or always."""

    def __init__(self, always=False):
        self.pool, self.jobs, self.always = concurrent.futures.ThreadPoolExecutor(1), 0, always

    def submit(self, function, *arguments):
        self.jobs += 1
        if self.always or self.jobs % 3 == 0:
            return self.pool.submit(subprocess.run, ["false"], check=True)
        return self.pool.submit(function, *arguments)


def test_jobs_that_fail_are_tried_again(clip):
    output = clip.parent / "out.y4m"
    flaky = Flaky()
    film.restore(clip, output, executor=flaky, retries=5, **OPTIONS)
    assert flaky.jobs > 6
    assert output.read_bytes() == whole(clip)


def test_the_next_call_makes_only_what_is_missing(clip):
    output = clip.parent / "out.y4m"
    with pytest.raises(kineograph.IoError, match="segments 0 1 2 3 4 5 of .*failed 1 times"):
        film.restore(clip, output, executor=Flaky(always=True), retries=0, **OPTIONS)
    assert not output.exists()
    kept = clip.parent / "out.y4m.segments"
    film.restore_segment(str(clip), str(kept / "plan.json"), str(kept), 2)
    again = Flaky()
    film.restore(clip, output, executor=again, retries=5, **OPTIONS)
    assert output.read_bytes() == whole(clip)


def test_dask_runs_segments(clip):
    distributed = pytest.importorskip("dask.distributed")
    output = clip.parent / "out.y4m"
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        film.restore(clip, output, executor=client, **OPTIONS)
    assert output.read_bytes() == whole(clip)


def test_a_missing_program_is_said(clip, monkeypatch):
    monkeypatch.setattr(film, "_program", lambda: os.devnull)
    with pytest.raises((kineograph.IoError, OSError)):
        film.restore(clip, clip.parent / "out.y4m")
