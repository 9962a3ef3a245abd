"""The functions of the package that take NumPy models and torch modules alike. torch is imported by those that need it."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import recording
from .model import TransformerTemporalModel

if TYPE_CHECKING:
    from .diffusers.acceleration import Acceleration
    from .diffusers.parallel import Parallelization

__all__ = ["accelerate", "parallelize", "record_attention", "restore", "revert"]


def accelerate(model: Any, *, spatial: bool = True) -> "Acceleration":
    """Makes the transformers inside a diffusers pipeline, UNet or any other module run natively from then on: every
    ``TransformerTemporalModel``, ``AnimateDiffTransformer3D``, ``Transformer2DModel`` and
    ``TransformerSpatioTemporalModel``. Parameters, names, hooks and the classes that ``isinstance`` sees stay.

    Args:
        spatial: False leaves ``Transformer2DModel`` and ``TransformerSpatioTemporalModel`` as they are. True turns them
            where an engine faster than the reference runs them; their gradients stay diffusers'.

    Returns:
        A ``kineograph.diffusers.Acceleration``: how many modules of each kind, and which not and why.

    Raises:
        TypeError: for something that is neither a pipeline nor a torch module.
        UpstreamError: where the installed diffusers has no classes of the names that are known.
    """
    from .diffusers import acceleration

    return acceleration.accelerate(model, spatial)


def parallelize(unet: Any, mesh: Any, *, timeout: float = 300.0) -> "Parallelization":
    """Spreads every call of a UNetMotionModel, UNet3DConditionModel or I2VGenXLUNet over the processes of
    torch.distributed, with the numbers of one process.

        dist.init_process_group("gloo")  # under torchrun
        mesh = init_device_mesh("cpu", (2, 4), mesh_dim_names=("cfg", "frames"))
        print(kineograph.parallelize(pipe.unet, mesh))

    Along ``cfg`` each process computes some videos of the batch, of classifier-free guidance one half each. Along
    ``frames`` each has F/N frames of everything spatial; inside temporal modules and convolutions over frames the processes
    exchange frames for rows of pixels, whose statistics they share, and back. Every process calls the UNet with the same
    arguments and gets the whole sample. The temporal modules become native, as by ``accelerate(unet, spatial=False)``;
    ``revert`` undoes both. Backward works where the temporal modules' does; parameters' gradients are by this process'
    share: add them over the mesh. A temporal module that falls back to diffusers is computed whole by every process, with
    the same numbers.

    Args:
        mesh: a DeviceMesh with the dimensions "cfg", "frames" or both, the same on every process; or diffusers'
            ContextParallelConfig with a ulysses_degree, which becomes "frames". Of CPUs, by gloo; of GPUs, by nccl, temporal
            modules are diffusers' and whole on every process, which follows from the same code and has not been run.
        timeout: seconds after which an exchange with a dead or hung process raises CommunicationError.

    Raises:
        TypeError: for another model.
        ValueError: for a mesh of other dimensions, and modules that may mix frames or videos in a way that is not known;
            when called, for frames or videos that the mesh does not divide, and arguments that are not known.
    """
    from .diffusers import parallel

    return parallel.parallelize(unet, mesh, timeout)


def revert(model: Any) -> int:
    """Undoes ``accelerate`` and ``parallelize``: the modules are diffusers' own again, whatever hooks came in between.
    Returns how many."""
    from .diffusers import acceleration

    return acceleration.revert(model)


def restore(model: Any) -> int:
    """The name that ``revert`` had; gives a DeprecationWarning."""
    warnings.warn("kineograph.restore is now kineograph.revert", DeprecationWarning, stacklevel=2)
    return revert(model)


def _recordable(model: Any) -> "list[tuple[str, Any]]":
    """The native models in `model`, by the prefix of their names: itself, or the modules of something of torch's."""
    if isinstance(model, TransformerTemporalModel):
        return [("", model)]
    from .diffusers.acceleration import native_modules

    return [(f"{path}." if path else "", module) for path, module in native_modules(model)]


@contextlib.contextmanager
def record_attention(model: Any) -> "Iterator[recording.AttentionMaps]":
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
    with recording.record(models) as maps:
        yield maps
