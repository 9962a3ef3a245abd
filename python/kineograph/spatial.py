"""Transformer2DModel and TransformerSpatioTemporalModel without torch: arrays in, arrays out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Tuple, Union

import numpy

from . import _native, errors, statistics, threads
from .model import TransformerTemporalModelOutput
from .native_model import NativeModel, OnProgress, Output, numbers

__all__ = ["Transformer2DModel", "Transformer2DModelOutput", "TransformerSpatioTemporalModel"]


@dataclass
class Transformer2DModelOutput(Output):
    """What a forward returns.

    Attributes:
        sample: (N, C, H, W) in the dtype of hidden_states.
    """

    sample: Any


def _mask(values: Any) -> Any:
    return numpy.asarray(values) if isinstance(values, (list, tuple)) else values


def _scales(ip_adapter_scale: Any, count: int) -> "list[list[float]]":
    """For each of `count` adapters one scale, or one a layer."""
    given = [ip_adapter_scale] * count if isinstance(ip_adapter_scale, (int, float)) else list(ip_adapter_scale)
    if len(given) != count:
        raise errors.ArgumentError(
            f"ip_adapter_scale: expected one for each of {count} IP-Adapters, found {len(given)}",
            "ip_adapter_scale",
            f"one for each of {count} IP-Adapters",
            str(len(given)),
        )
    return [[float(one)] if isinstance(one, (int, float)) else [float(each) for each in one] for one in given]


class Transformer2DModel(NativeModel):
    """diffusers' ``Transformer2DModel`` over continuous latents, as a native model over arrays: see
    ``TransformerTemporalModel``.

    ``Transformer2DModel(num_attention_heads=8, attention_head_dim=40, in_channels=320, cross_attention_dim=768)`` draws
    weights from a seed; ``from_pretrained`` loads them.
    """

    _kind = _native.Model2D

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
        """Weights drawn from `seed`, the same on every machine. Arguments as ``TransformerTemporalModel``'s; `config` is
        diffusers' configuration, and `num_ip_adapters`.

        Raises:
            ConfigError, ArgumentError
        """
        self._draw(config, seed, dtype, engine, compute_dtype, isa)

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
        select: str = "",
        copy_weights: bool = False,
    ) -> "Transformer2DModel":
        """Opens a folder that ``save_pretrained`` wrote, or one module of a UNet's checkpoint, diffusers' or the
        original's.

        Args:
            module: path of the module in diffusers, such as "down_blocks.0.attentions.1".
            variant: such as "fp16", as in diffusers.
            select: path of one set of weights, such as "ema_model.state_dict", where a file has several that differ.
            copy_weights: keep the weights in memory, so that the file may change or go.

        Raises:
            IoError, FormatError, ConfigError, CheckpointError, ArgumentError
        """
        return cls._over(
            cls._kind.from_pretrained(
                os.fspath(path), module, engine, compute_dtype, isa, variant, select, copy_weights
            )
        )

    def __call__(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        timestep: Any = None,
        class_labels: Any = None,
        attention_mask: Any = None,
        encoder_attention_mask: Any = None,
        return_dict: bool = True,
        *,
        ip_adapter_scale: "Union[float, Sequence[Any]]" = 1.0,
        out: Any = None,
        on_progress: OnProgress = None,
    ) -> Union[Transformer2DModelOutput, Tuple[Any]]:
        """diffusers' forward.

        Args:
            hidden_states: (N, C, H, W); f32, f16 or bf16, any strides.
            encoder_hidden_states: (N, S, D), or (E, S, D) with E a divisor of N, of which row n reads row n * E // N. A
                tuple of it and a list, as with diffusers' IP-Adapters: the images of each, (N, T, D) or (E, T, D).
            timestep, class_labels: one a row or one for all, for norm_type "ada_norm" and "ada_norm_zero".
            attention_mask, encoder_attention_mask: (N, K), 1 for keys that are kept, or a bias (N, 1, K), (N, H*W, K),
                (N * heads, 1, K) or (N * heads, H*W, K).
            return_dict: False for a tuple.
            ip_adapter_scale: of all IP-Adapters, or a sequence with one for each, which may be a sequence with one a
                layer.
            out: an array for the sample, such as hidden_states itself; by default a new one of the same library.
            on_progress: as ``TransformerTemporalModel``'s.

        Raises:
            ArgumentError: before any work starts.
            Cancelled: on_progress returned False.
        """
        images: list[Any] = []
        if isinstance(encoder_hidden_states, tuple):
            encoder_hidden_states, given = encoder_hidden_states
            images = list(given)
        sample = self._model.forward(
            hidden_states,
            encoder_hidden_states,
            numbers(timestep, None),
            numbers(class_labels, numpy.int64),
            _mask(attention_mask),
            _mask(encoder_attention_mask),
            images,
            _scales(ip_adapter_scale, len(images)),
            out,
            threads.num_threads(),
            on_progress,
        )
        statistics.count_native()
        return Transformer2DModelOutput(sample) if return_dict else (sample,)

    forward = __call__


class TransformerSpatioTemporalModel(NativeModel):
    """diffusers' ``TransformerSpatioTemporalModel``, Stable Video Diffusion's, as a native model over arrays: see
    ``TransformerTemporalModel``. diffusers' class has no ``save_pretrained``; this one writes the same files as the
    others."""

    _kind = _native.SpatioTemporalModel

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
        """Weights drawn from `seed`, the same on every machine; time_mixer.mix_factor is 0.5. Arguments as
        ``TransformerTemporalModel``'s; `config` is the arguments of diffusers' class.

        Raises:
            ConfigError, ArgumentError
        """
        self._draw(config, seed, dtype, engine, compute_dtype, isa)

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
        select: str = "",
        copy_weights: bool = False,
    ) -> "TransformerSpatioTemporalModel":
        """As ``Transformer2DModel.from_pretrained``, from diffusers' UNetSpatioTemporalConditionModel or Stable Video
        Diffusion's original."""
        return cls._over(
            cls._kind.from_pretrained(
                os.fspath(path), module, engine, compute_dtype, isa, variant, select, copy_weights
            )
        )

    def __call__(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        image_only_indicator: Any = None,
        return_dict: bool = True,
        *,
        num_frames: Optional[int] = None,
        out: Any = None,
        on_progress: OnProgress = None,
    ) -> Union[TransformerTemporalModelOutput, Tuple[Any]]:
        """diffusers' forward.

        Args:
            hidden_states: (B*F, C, H, W), row b*F+f is frame f of video b; f32, f16 or bf16, any strides.
            encoder_hidden_states: (B*F, S, D), of which the temporal blocks read the first frame's row, or (B, S, D), a
                row a video.
            image_only_indicator: (B, F), or (F) for all videos: frames other than 0 take nothing from the temporal
                blocks.
            return_dict: False for a tuple.
            num_frames: F where there is no image_only_indicator, whose last extent it is otherwise.
            out: an array for the sample, such as hidden_states itself; by default a new one of the same library.
            on_progress: as ``TransformerTemporalModel``'s.

        Raises:
            ArgumentError: before any work starts.
            Cancelled: on_progress returned False.
        """
        sample = self._model.forward(
            hidden_states,
            num_frames or 0,
            encoder_hidden_states,
            _mask(image_only_indicator),
            out,
            threads.num_threads(),
            on_progress,
        )
        statistics.count_native()
        return TransformerTemporalModelOutput(sample) if return_dict else (sample,)

    forward = __call__
