"""Attention maps: the probabilities with which each attention of a model looked at frames and tokens."""

import contextlib
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Dict, List, Tuple

from . import _native

__all__ = ["AttentionMaps", "record", "recorder_of"]

# Model -> its recorder, while a recording runs. Keyed by identity: modules may define equality as they like.
_recorders: "Dict[int, Tuple[weakref.ref[Any], _native.AttentionRecorder]]" = {}
_lock = threading.Lock()


def recorder_of(model: Any) -> "_native.AttentionRecorder | None":
    """The recorder of a model while it is recorded."""
    if not _recorders:
        return None
    with _lock:
        entry = _recorders.get(id(model))
    return entry[1] if entry is not None and entry[0]() is model else None


class AttentionMaps(Mapping[str, Any]):
    """Name of an attention -> probabilities of its last call, f32 (B, H*W, heads, F, S): query frame, then key."""

    def __init__(self, recorders: "List[Tuple[str, _native.AttentionRecorder]]"):
        self._recorders = recorders

    def __getitem__(self, name: str) -> Any:
        for prefix, recorder in self._recorders:
            if name.startswith(prefix) and name[len(prefix) :] in recorder.names():
                return recorder.probabilities(name[len(prefix) :])
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (prefix + name for prefix, recorder in self._recorders for name in recorder.names())

    def __len__(self) -> int:
        return sum(len(recorder.names()) for _, recorder in self._recorders)


@contextlib.contextmanager
def record(models: "List[Tuple[str, Any]]") -> "Iterator[AttentionMaps]":
    """Records `models`, (prefix of the names, model) each, inside a ``with`` block."""
    recorders = [(prefix, _native.AttentionRecorder()) for prefix, _ in models]
    with _lock:
        if any(id(one) in _recorders for _, one in models):
            raise ValueError("record_attention: this model is being recorded already")
        for (_, one), (_, recorder) in zip(models, recorders):
            _recorders[id(one)] = (weakref.ref(one), recorder)
    try:
        yield AttentionMaps(recorders)
    finally:
        with _lock:
            for _, one in models:
                _recorders.pop(id(one), None)
