"""The number by which packed weights are known to be what they were."""

import numpy as np
import pytest
from kineograph import _native

MEGABYTE = 1 << 20


def fingerprint(arrays, num_threads=1):
    return _native.fingerprint([array.ctypes.data for array in arrays], [array.nbytes for array in arrays], num_threads)


@pytest.fixture(scope="module")
def weights():
    """Enough for several threads, of sizes that pieces of a megabyte do not divide."""
    draw = np.random.default_rng(3)
    return [draw.integers(0, 256, size, np.uint8) for size in (9 * MEGABYTE + 5, 0, 3, MEGABYTE, 7 * MEGABYTE - 1)]


def test_threads_change_nothing(weights):
    assert len({fingerprint(weights, threads) for threads in (0, 1, 2, 3, 16)}) == 1


def test_every_byte_counts(weights):
    seen = {fingerprint(weights)}
    places = [(i, at) for i in (0, 2, 3, 4) for at in (0, 1, MEGABYTE - 1, MEGABYTE, -1)]
    places = {(i, at % weights[i].size) for i, at in places if at < weights[i].size}
    for i, at in places:
        weights[i][at] ^= 1
        seen.add(fingerprint(weights, 2))
        weights[i][at] ^= 1
    assert len(seen) == 1 + len(places)


def test_cuts_and_order_count(weights):
    whole = weights[0]
    assert len({fingerprint(cut) for cut in ([whole], [whole[:5], whole[5:]], [whole[5:], whole[:5]])}) == 3


def test_addresses_without_sizes_are_refused():
    with pytest.raises(ValueError, match="sizes"):
        _native.fingerprint([1, 2], [3], 1)
