"""kineograph: diffusers' TransformerTemporalModel at the speed of the CPU.

In a diffusers pipeline, one line::

    kineograph.accelerate(pipe)

Without torch::

    model = kineograph.TransformerTemporalModel.from_pretrained("motion_module")
    sample = model(hidden_states, num_frames=16).sample
"""

from typing import Any

from . import film
from ._native import engines, instruction_sets
from ._native import version as _version
from .errors import ArgumentError, CheckpointError, ConfigError, Error, FormatError, IoError
from .film import restore_video
from .model import TransformerTemporalModel, TransformerTemporalModelOutput
from .recording import record_attention
from .spatial import Transformer2DModel, Transformer2DModelOutput, TransformerSpatioTemporalModel
from .statistics import Stats, stats
from .threads import set_num_threads

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "ConfigError",
    "Error",
    "FormatError",
    "IoError",
    "Stats",
    "Transformer2DModel",
    "Transformer2DModelOutput",
    "TransformerSpatioTemporalModel",
    "TransformerTemporalModel",
    "TransformerTemporalModelOutput",
    "accelerate",
    "engines",
    "film",
    "instruction_sets",
    "record_attention",
    "restore",
    "restore_video",
    "set_num_threads",
    "stats",
]
__version__ = _version()


def accelerate(model: Any) -> Any:
    """Makes every ``TransformerTemporalModel`` and ``AnimateDiffTransformer3D`` inside a diffusers pipeline, UNet or any
    other module run natively from then on. Parameters, names, hooks and the classes that ``isinstance`` sees stay.

    Returns:
        A ``kineograph.diffusers.Acceleration``: how many modules, and which not and why.
    """
    from .diffusers import acceleration

    return acceleration.accelerate(model)


def restore(model: Any) -> int:
    """Undoes ``accelerate``: the modules are diffusers' own again. Returns how many."""
    from .diffusers import acceleration

    return acceleration.restore(model)
