"""How many threads native forwards use."""

import os

_num_threads = 0


def set_num_threads(n: int) -> None:
    """Threads that every native forward uses from now on; 0 goes back to the default.

    The default is the environment variable KINEOGRAPH_NUM_THREADS; without it the NumPy API takes all cores, and modules
    in torch take as many as torch does (``torch.get_num_threads()``).
    """
    global _num_threads
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"num_threads: expected an integer, 0 or more, found {n!r}")
    _num_threads = n


def num_threads(default: int = 0) -> int:
    """The number that was set, or `default` where neither ``set_num_threads`` nor the environment says anything."""
    return _num_threads or (0 if os.environ.get("KINEOGRAPH_NUM_THREADS") else default)
