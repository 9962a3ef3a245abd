"""Progress, cancellation and Ctrl-C of native calls over arrays."""

import os
import signal
import threading
import time

import kineograph
import numpy
import pytest


def waves(*shape):
    return numpy.sin(0.37 * numpy.arange(numpy.prod(shape)), dtype=numpy.float32).reshape(shape)


def temporal(engine="auto", **config):
    return kineograph.TransformerTemporalModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, norm_num_groups=8, engine=engine, **config
    )


def calls():
    x, y = waves(8, 32, 20, 20), waves(4, 32, 10, 10)
    model = temporal()
    image = kineograph.Transformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, norm_num_groups=8
    )
    video = kineograph.TransformerSpatioTemporalModel(num_attention_heads=2, attention_head_dim=16, in_channels=32)
    return {
        "forward": lambda **options: model(x, num_frames=4, **options).sample,
        "backward": lambda **options: model.backward(x, x, num_frames=4, wanted=["hidden_states"], **options)[
            "hidden_states"
        ],
        "Transformer2DModel": lambda **options: image(y, **options).sample,
        "TransformerSpatioTemporalModel": lambda **options: video(y, num_frames=2, **options).sample,
    }


@pytest.mark.parametrize("name", list(calls()))
def test_progress_goes_from_0_to_1_and_ends_a_call(name):
    call = calls()[name]
    want = call()
    told = []
    assert numpy.array_equal(call(on_progress=told.append), want)
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told) and len(told) > 3
    for k in range(len(told)):
        seen = []
        with pytest.raises(kineograph.Cancelled, match="on_progress"):
            call(on_progress=lambda done, seen=seen, k=k: seen.append(done) or (len(seen) <= k and done < 1))
        assert len(seen) <= k + 1
    assert numpy.array_equal(call(), want)


def test_what_a_handler_raises_arrives():
    class Mine(Exception):
        pass

    def fail(done):
        if done > 0:
            raise Mine(done)

    model, x = temporal(), waves(8, 32, 20, 20)
    want = model(x, num_frames=4).sample
    for _ in range(5):
        with pytest.raises(Mine):
            model(x, num_frames=4, on_progress=fail)
    with pytest.raises(ValueError, match="ambiguous"):  # an array is neither true nor false
        model(x, num_frames=4, on_progress=lambda done: numpy.zeros(2))
    with pytest.raises(kineograph.Cancelled):
        model(x, num_frames=4, on_progress=lambda done: numpy.bool_(False))
    assert numpy.array_equal(model(x, num_frames=4).sample, want)


@pytest.fixture
def one_thread():
    kineograph.set_num_threads(1)
    yield
    kineograph.set_num_threads(0)


@pytest.fixture
def interruptible():
    """SIGINT as Python has it in the foreground: a job in the background begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("engine", kineograph.engines())
def test_ctrl_c_ends_a_long_forward(engine, one_thread, interruptible):
    model = temporal(engine)
    x = waves(64, 32, 64, 64)  # hundreds of tiles, of which each takes the one thread 20 ms or more
    small = waves(4, 32, 4, 4)
    want = model(small, num_frames=4).sample
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    reached = []
    with pytest.raises(KeyboardInterrupt):
        model(x, num_frames=16, on_progress=lambda done: time.sleep(0.02) or reached.append(done))
        pytest.fail("the whole forward was done")
    timer.join()
    assert len(reached) > 0 and reached[-1] < 1
    assert numpy.array_equal(model(small, num_frames=4).sample, want)
