"""diffusers' temporal modules with a native forward. Needs torch and diffusers: ``pip install kineograph[diffusers]``."""

try:
    import diffusers as _diffusers  # noqa: F401
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"{_error}. kineograph.diffusers needs torch and diffusers: pip install kineograph[diffusers]"
    ) from _error

from .acceleration import Acceleration, accelerate, revert
from .modules import AnimateDiffTransformer3D, TransformerTemporalModel

__all__ = ["Acceleration", "AnimateDiffTransformer3D", "TransformerTemporalModel", "accelerate", "revert"]
