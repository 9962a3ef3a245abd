"""TransformerTemporalModel without torch: arrays in, arrays out."""

import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Dict, List, Literal, Optional, Sequence, Tuple, Union, overload

import numpy

from . import _native, errors, recording, statistics, threads
from .context import ContextOptions
from .native_model import Config, NativeModel, OnProgress, Output, numbers

__all__ = ["TransformerTemporalModel", "TransformerTemporalModelOutput", "Config"]


@dataclass
class TransformerTemporalModelOutput(Output):
    """The output of a forward.

    Attributes:
        sample: (B*F, C, H, W) in the dtype of hidden_states; for discrete latents (B*F, V-1, sample_size^2) in f32.
    """

    sample: Any


def _seed(value: Any) -> Optional[int]:
    if value is None:
        return None
    try:
        seed = operator.index(value)
    except TypeError:
        seed = -1
    if not 0 <= seed < 2**64:
        raise errors.ArgumentError(
            f"training_seed: expected an integer from 0 to 2^64 - 1, found {value!r}",
            "training_seed",
            "an integer from 0 to 2^64 - 1",
            repr(value),
        )
    return seed


class TransformerTemporalModel(NativeModel):
    """diffusers' ``TransformerTemporalModel`` as a native model over arrays: NumPy's, torch's, JAX's, anything of the
    host's memory with DLPack or the buffer protocol. Nothing is copied, and the GIL is free during a forward.

    ``TransformerTemporalModel(num_attention_heads=8, attention_head_dim=40, in_channels=320)`` draws weights from a seed;
    ``from_pretrained`` loads them. A model is immutable, and any number of threads may call it at once.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        dtype: str = "f32",
        engine: str = "auto",
        compute_dtype: str = "auto",
        isa: str = "",
        **config: Any,
    ):
        """Weights drawn from `seed`, the same on every machine.

        Args:
            dtype: "f32", "f16" or "bf16", of the weights.
            engine: "auto" or one of `engines()`.
            compute_dtype: what products round their inputs to, "f32" or "bf16", on engine cuda "f16" or "bf16"; "auto"
                follows the weights.
            isa: an instruction set of ``instruction_sets(engine)`` to force; empty for the best one.
            config: diffusers' configuration keys, and `norm_type`, `num_embeds_ada_norm`, `num_vector_embeds`,
                `group_norm_scope`.

        Raises:
            ConfigError, ArgumentError
        """
        self._draw(config, seed, dtype, engine, compute_dtype, isa)

    _kind = _native.Model

    @classmethod
    def from_pretrained(
        cls,
        path: Union[str, "os.PathLike[str]"],
        *,
        module: str = "",
        variant: str = "",
        engine: str = "auto",
        compute_dtype: str = "auto",
        isa: str = "",
        group_norm_scope: str = "",
        select: str = "",
        loras: Sequence[Tuple[Union[str, "os.PathLike[str]"], float]] = (),
        strict: bool = False,
        copy_weights: bool = False,
        num_positional_embeddings: Optional[int] = None,
        position_extension: Literal["formula", "interpolate"] = "formula",
    ) -> "TransformerTemporalModel":
        """Opens a folder that diffusers' ``save_pretrained`` wrote, or one temporal module of a whole UNet, an adapter or
        an original checkpoint: safetensors, or a torch archive, in which nothing is run. Weights are memory-mapped:
        replace such a file by a rename, not in place, or take `copy_weights`.

        Args:
            module: path of the module in diffusers, such as "down_blocks.0.motion_modules.1"; may be left out where
                there is only one. ``kineograph inspect`` lists them.
            variant: such as "fp16", as in diffusers.
            group_norm_scope: "clip" or "frame", over what the configuration says.
            select: path of one set of weights, such as "ema_model.state_dict", where a file has several that differ.
            loras: (file, scale) pairs of LoRAs that are merged in this order; what of them is this module's and does not
                fit is a warning.
            strict: raise CheckpointError for LoRAs of which anything of this module's does not fit.
            copy_weights: keep the weights in memory, so that the file may change or go.
            num_positional_embeddings: rows of the position tables, at least as many as there are, for clips of more
                frames than the model was trained with; None keeps them, and more frames are an error.
            position_extension: where further rows come from: "formula", diffusers' sines and cosines behind the rows that
                are there, or "interpolate", those that are there stretched over all, as torch's
                ``interpolate(mode="linear")`` does.

        Raises:
            IoError, FormatError, ConfigError, CheckpointError, ArgumentError
        """
        return cls._over(
            _native.Model.from_pretrained(
                os.fspath(path),
                module,
                engine,
                compute_dtype,
                isa,
                variant,
                select,
                group_norm_scope,
                [(os.fspath(file), scale) for file, scale in loras],
                strict,
                copy_weights,
                num_positional_embeddings,
                position_extension,
            )
        )

    @overload
    def __call__(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        timestep: Any = None,
        class_labels: Any = None,
        num_frames: int = 1,
        cross_attention_kwargs: Optional[Mapping[str, Any]] = None,
        return_dict: Literal[True] = True,
        *,
        out: Any = None,
        training_seed: Optional[int] = None,
        on_progress: OnProgress = None,
        context: Optional[ContextOptions] = None,
    ) -> TransformerTemporalModelOutput: ...

    @overload
    def __call__(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        timestep: Any = None,
        class_labels: Any = None,
        num_frames: int = 1,
        cross_attention_kwargs: Optional[Mapping[str, Any]] = None,
        *,
        return_dict: Literal[False],
        out: Any = None,
        training_seed: Optional[int] = None,
        on_progress: OnProgress = None,
        context: Optional[ContextOptions] = None,
    ) -> Tuple[Any]: ...

    def __call__(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        timestep: Any = None,
        class_labels: Any = None,
        num_frames: int = 1,
        cross_attention_kwargs: Optional[Mapping[str, Any]] = None,
        return_dict: bool = True,
        *,
        out: Any = None,
        training_seed: Optional[int] = None,
        on_progress: OnProgress = None,
        context: Optional[ContextOptions] = None,
    ) -> Union[TransformerTemporalModelOutput, Tuple[Any]]:
        """diffusers' forward.

        Args:
            hidden_states: (B*F, C, H, W), row b*F+f is frame f of video b; f32, f16 or bf16, any strides. Discrete
                latents: i64 (B*F, sample_size^2).
            encoder_hidden_states: (B*H*W, S, D), a row a pixel as in diffusers, or (B, S, D), a row a video.
            timestep: one a video or one for all; integers for norm_type "ada_norm", any numbers for "ada_norm_zero".
            class_labels: integers, one a video or one for all, for "ada_norm_zero"; num_embeds_ada_norm is the
                unconditional class.
            num_frames: F.
            cross_attention_kwargs: accepted as in diffusers; unknown keys warn.
            return_dict: False for a tuple.
            out: an array for the sample, such as hidden_states itself; by default a new one of the same library.
            training_seed: of training: dropout at the configuration's rate, and one class label in ten replaced by the
                unconditional one, drawn from this number. Without it: evaluation.
            on_progress: told about once a tile, by any of the threads at work but one at a time, how far the call is, from
                0 to 1. The call ends where it raises, or returns False; the outputs are then undefined.
            context: FreeNoise's windows of frames; without it attention is over all frames.

        Raises:
            ArgumentError: before any work starts.
            Cancelled: on_progress returned False.
            KeyboardInterrupt: Ctrl-C during the work, in the main thread; the output is then undefined.
        """
        sample = self._model.forward(
            hidden_states,
            num_frames,
            encoder_hidden_states,
            numbers(timestep, None),
            numbers(class_labels, numpy.int64),
            dict(cross_attention_kwargs or {}),
            out,
            recording.recorder_of(self),
            _seed(training_seed),
            threads.num_threads(),
            on_progress,
            None if context is None else (context.length, context.stride, context.weighting),
        )
        statistics.count_native()
        return TransformerTemporalModelOutput(sample) if return_dict else (sample,)

    forward = __call__

    def backward(
        self,
        hidden_states: Any,
        sample_gradient: Any,
        encoder_hidden_states: Any = None,
        timestep: Any = None,
        class_labels: Any = None,
        num_frames: int = 1,
        *,
        wanted: Optional[Iterable[str]] = None,
        out: Optional[Mapping[str, Any]] = None,
        training_seed: Optional[int] = None,
        on_progress: OnProgress = None,
    ) -> Dict[str, Any]:
        """The gradients of a loss, from its gradient by the sample. The forward is computed anew from the same
        arguments: nothing has to be kept from it.

        Args:
            hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, training_seed: those of the forward.
            sample_gradient: the loss's gradient by the sample: f32, f16 or bf16 of the sample's shape, any strides.
            wanted: names of the gradients to compute: "hidden_states", "encoder_hidden_states", and parameters as in
                ``state_dict``. By default all there are; what is left out costs nothing that it alone needs.
            out: arrays to write some of them into, by name, of memory apart from the arguments'; new ones of
                hidden_states' library for the others. Nothing is added to what is there.
            on_progress: as of the forward.

        Returns:
            The gradients by name, in wanted's order. Of an input: of its shape and dtype, or the given array's; of a
            parameter: f32 of its shape. Positions (".pe") and discrete latents have none.

        Raises:
            ArgumentError: before any work starts.
            Cancelled: on_progress returned False.
        """
        names = self._differentiable(encoder_hidden_states) if wanted is None else list(wanted)
        out = dict(out or {})
        for name in out:
            if name not in names:
                raise errors.ArgumentError(
                    f"out: expected names that are wanted, found {name!r}", "out", "names that are wanted", name
                )
        gradients = self._model.backward(
            hidden_states,
            sample_gradient,
            [(name, out.get(name)) for name in names],
            num_frames,
            encoder_hidden_states,
            numbers(timestep, None),
            numbers(class_labels, numpy.int64),
            _seed(training_seed),
            threads.num_threads(),
            on_progress,
        )
        statistics.count_backward()
        return dict(gradients)

    def _differentiable(self, encoder_hidden_states: Any) -> List[str]:
        config = self.config
        attended = encoder_hidden_states is not None and len(self._model.attention_names) > config.num_layers
        names = [] if config.get("num_vector_embeds") is not None else ["hidden_states"]
        names += ["encoder_hidden_states"] if attended else []
        return names + [name for name in self.state_dict() if not name.endswith(".pe")]
