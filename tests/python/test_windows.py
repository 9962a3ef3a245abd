"""FreeNoise in the drop-in: blocks whose attentions run in windows of frames."""

import functools

import kineograph
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from temporal_modules import animatediff, answer, clip, difference, in_pieces, in_windows, twins  # noqa: E402


@pytest.mark.parametrize("pieces", [False, True])
def test_windows_of_frames(pieces):
    """FreeNoise's blocks, changed while they are native; what has no native forward is diffusers' own, counted."""
    theirs, ours = twins(in_windows(animatediff(num_layers=2)))
    if pieces:
        theirs, ours = in_pieces(theirs), in_pieces(ours)
    kineograph.accelerate(ours)
    call = functools.partial(_windowed, clip(9))
    for change, reason in (
        ((3, 2, "pyramid"), None),
        ((4, 3, "flat"), None),  # the last window is flush with the end
        ((6, 2, "delayed_reverse_sawtooth"), None),
        ((9, 4, "pyramid"), None),
        ((3, 2, "gauss"), "windows of 3"),
        ((2, 3, "flat"), "windows of 2"),  # leaves frames out
        ((5, 2, "delayed_reverse_sawtooth"), "windows of 5"),
        ((10, 2, "flat"), "fewer frames than a window"),
    ):
        for model in (theirs, ours):
            for block in model.transformer_blocks:
                (block.module if pieces else block).set_free_noise_properties(*change)
        kineograph.stats(reset=True)
        with torch.no_grad():
            assert difference(answer(call, theirs), answer(call, ours)) is None, change
        stats = kineograph.stats(reset=True)
        assert stats.native == (reason is None), (change, stats)
        assert (reason is None) == (not stats.fallbacks) and all(reason in found for found in stats.fallbacks)
    for block in ours.transformer_blocks:
        (block.module if pieces else block).set_free_noise_properties(3, 2)
    call(ours)  # parameters whose gradients are recorded
    assert list(kineograph.stats().fallbacks) == ["gradients in windows of frames"]


def _windowed(x, model):
    return model(x, num_frames=9)


def test_windows_differ_from_block_to_block():
    model = in_windows(animatediff(num_layers=2))
    kineograph.accelerate(model)
    model.transformer_blocks[1].set_free_noise_properties(2, 1)
    with torch.no_grad():
        model(clip(9), num_frames=9)
    assert any("differs from the first block in context" in found for found in kineograph.stats().fallbacks)
