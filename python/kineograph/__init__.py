"""kineograph: diffusers' TransformerTemporalModel at the speed of the CPU.

In a diffusers pipeline, one line::

    kineograph.accelerate(pipe)

Without torch::

    model = kineograph.TransformerTemporalModel.from_pretrained("motion_module")
    sample = model(hidden_states, num_frames=16).sample
"""

from . import film
from ._native import engines, instruction_sets
from ._native import version as _version
from .api import accelerate, parallelize, record_attention, restore, revert
from .context import ContextOptions
from .errors import (
    ArgumentError,
    Cancelled,
    CheckpointError,
    CommunicationError,
    ConfigError,
    Error,
    FormatError,
    IoError,
    UpstreamError,
)
from .film import restore_video
from .model import TransformerTemporalModel, TransformerTemporalModelOutput
from .spatial import Transformer2DModel, Transformer2DModelOutput, TransformerSpatioTemporalModel
from .statistics import Stats, stats
from .threads import set_num_threads

__all__ = [
    "ArgumentError",
    "Cancelled",
    "CheckpointError",
    "CommunicationError",
    "ConfigError",
    "ContextOptions",
    "Error",
    "FormatError",
    "IoError",
    "Stats",
    "Transformer2DModel",
    "Transformer2DModelOutput",
    "TransformerSpatioTemporalModel",
    "TransformerTemporalModel",
    "TransformerTemporalModelOutput",
    "UpstreamError",
    "accelerate",
    "engines",
    "film",
    "instruction_sets",
    "parallelize",
    "record_attention",
    "restore",
    "restore_video",
    "revert",
    "set_num_threads",
    "stats",
]
__version__ = _version()
