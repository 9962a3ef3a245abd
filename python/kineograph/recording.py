"""Attention maps: what each attention of a model looked at."""

import contextlib
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Dict, List, Tuple

from . import _native

__all__ = ["record_attention", "AttentionMaps"]

# Model -> its recorder, while a recording runs. Keyed by identity: modules may define equality as they like.
_recorders: "Dict[int, Tuple[weakref.ref, _native.AttentionRecorder]]" = {}
_lock = threading.Lock()


def recorder_of(model: Any) -> "_native.AttentionRecorder | None":
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


def _recordable(model: Any) -> "List[Tuple[str, Any]]":
    """The native models in `model`, by the prefix of their names: itself, or the modules of something of torch's."""
    from .model import TransformerTemporalModel

    if isinstance(model, TransformerTemporalModel):
        return [("", model)]
    from .diffusers.acceleration import native_modules

    return [(f"{path}." if path else "", module) for path, module in native_modules(model)]


@contextlib.contextmanager
def record_attention(model: Any) -> "Iterator[AttentionMaps]":
    """Keeps the attention probabilities of native forwards inside a ``with`` block.

        with kineograph.record_attention(model) as maps:
            model(hidden_states, num_frames=16)
        maps["transformer_blocks.0.attn1"]  # (B, H*W, heads, F, F)

    `model` is a ``TransformerTemporalModel``, or a pipeline, UNet or module whose temporal modules run natively; names
    then begin with the module's path. The maps stay after the block. Forwards are slower while they are kept.

    Raises:
        ValueError: for a model in which nothing runs natively, or one that is being recorded already.
    """
    models = _recordable(model)
    if not models:
        raise ValueError(
            "record_attention: expected a native model, or one in which modules run natively, found none "
            f"in {type(model).__name__}. kineograph.accelerate makes modules of diffusers native."
        )
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
