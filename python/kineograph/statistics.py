"""Counts of what ran natively and what did not."""

import threading
from collections import Counter
from dataclasses import dataclass, field

_lock = threading.Lock()
_native = 0
_backward = 0
_fallbacks: "Counter[str]" = Counter()


@dataclass(frozen=True)
class Stats:
    """Forwards since the start or the last ``stats(reset=True)``.

    Attributes:
        native: forwards that kineograph computed.
        fallbacks: forwards that diffusers computed, by the reason why. torch's autograd has their gradients.
        backward: backwards that kineograph computed.
    """

    native: int = 0
    fallbacks: "dict[str, int]" = field(default_factory=dict)
    backward: int = 0


def stats(reset: bool = False) -> Stats:
    """How many forwards and backwards ran natively, and how many fell back to diffusers and why.

    In a compiled graph what is native is counted each time it runs; a fallback once, when it is traced.
    """
    global _native, _backward
    with _lock:
        counted = Stats(_native, dict(_fallbacks), _backward)
        if reset:
            _native = _backward = 0
            _fallbacks.clear()
    return counted


def count_native() -> None:
    global _native
    with _lock:
        _native += 1


def count_backward() -> None:
    global _backward
    with _lock:
        _backward += 1


def count_fallback(reason: str) -> None:
    with _lock:
        _fallbacks[reason] += 1
