"""diffusers' temporal modules with a native forward."""

import inspect
import warnings
from typing import Any, Callable, Literal, Optional, Union, overload

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from .. import errors, operators, recording, statistics
from . import accounts, arguments, eligibility, native, upstream
from .blocks import FrameGroupNorm, conditioned_blocks

_Tensor = torch.Tensor
TransformerTemporalModelOutput = upstream.TransformerTemporalModelOutput

# In the dictionary of a module of a UNet that parallelize spreads over processes: its parallel.Exchange.
EXCHANGE = "_kineograph_exchange"


class NativeForward:
    """A forward that runs natively when that gives the same answer, and as diffusers does otherwise."""

    transformer_blocks: Any

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        accounts.stands_for(cls)

    @property
    def _norm_type(self) -> str:
        for block in self.transformer_blocks:
            return getattr(block, "norm_type", "layer_norm")
        return "layer_norm"

    def _try_native(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor],
        timestep: Any,
        class_labels: Any,
        num_frames: Any,
        kwargs: Any,
        ranks: Any = None,
    ) -> Optional[_Tensor]:
        """The native answer, or None after the reason is counted. `ranks`: of processes that share the clip."""
        num_frames = arguments.number_of_frames(num_frames)
        found: Union[str, eligibility.Eligible, None]
        found = arguments.why_not_this_call(hidden_states, encoder_hidden_states, num_frames, kwargs)
        if found is None:
            found = _unmerged(self)
        if isinstance(found, str):
            return _fall_back(found)
        weights, loras, binding = found.weights(), found.loras(), found.binding
        reason = (
            arguments.why_not_these_weights(weights)
            or arguments.why_not_these_factors(loras)
            or arguments.why_not_together(found, weights, hidden_states, encoder_hidden_states, timestep, num_frames)
        )
        if reason is not None:
            return _fall_back(reason)
        # diffusers is silent about arguments that have no effect.
        given = (
            hidden_states,
            encoder_hidden_states if binding.context_dim is not None else None,
            timestep if binding.norm_type != "layer_norm" else None,
            class_labels if binding.norm_type == "ada_norm_zero" else None,
        )
        if binding.context is not None:
            if binding.draws:
                return _fall_back("dropout in windows of frames")
            if torch.is_grad_enabled() and _wants_gradients(weights, loras, given[:2]):
                return _fall_back("gradients in windows of frames")
        if kwargs:
            arguments.warn_of_ignored(binding, kwargs)
        compute = "bf16" if torch.bfloat16 in (weights[0].dtype, arguments.autocast_dtype()) else "f32"
        seed = native.new_seed() if binding.draws else None
        if torch.compiler.is_compiling():
            if ranks is not None:
                return _fall_back("a compiled call of several processes")
            if _is_exporting():
                _say_what_loads()
            merged = native.with_loras(weights, loras)
            more = (seed, binding.spec, compute, num_frames, operators.windows_text(binding.context))
            sample: _Tensor = operators.transformer_temporal(*given, merged, *more)
            return sample
        rest = (seed, num_frames, recording.recorder_of(self))
        try:
            if torch.is_grad_enabled() and _wants_gradients(weights, loras, given[:2]):
                return native.run_differentiably(weights, loras, binding.spec, compute, *given, *rest, ranks)
            model = native.packed_model(weights, loras, binding.spec, compute)
            return native.run(model, *given, *rest, binding.context, ranks)
        except (errors.ConfigError, errors.CheckpointError) as error:
            return _fall_back(f"the engine does not take it: {error}")

    def _try_together(self, *arguments: Any) -> Optional[_Tensor]:
        """_try_native, or the answer of the processes that share the clip: see parallel.Exchange."""
        exchange = self.__dict__.get(EXCHANGE)
        if exchange is None:
            return self._try_native(*arguments)
        shared: _Tensor = exchange.run(self, *arguments)
        return shared

    def _for_diffusers(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor],
        timestep: Any,
        class_labels: Any,
        num_frames: Any,
    ) -> "tuple[Optional[_Tensor], Any, Any]":
        """Conditioning as diffusers' own forward wants it: a row of the encoder a pixel, one timestep a video."""
        discrete = hasattr(self, "latent_image_embedding")
        if hidden_states.ndim != (2 if discrete else 4) or num_frames < 1:
            return encoder_hidden_states, timestep, class_labels
        videos = hidden_states.shape[0] // num_frames
        pixels = hidden_states.shape[1] if discrete else hidden_states.shape[2] * hidden_states.shape[3]
        if (
            encoder_hidden_states is not None
            and encoder_hidden_states.ndim == 3
            and encoder_hidden_states.shape[0] == videos != videos * pixels
        ):
            encoder_hidden_states = encoder_hidden_states.repeat_interleave(pixels, dim=0)
        norm_type = self._norm_type
        if norm_type != "layer_norm" and timestep is not None:
            timestep = timestep.reshape(-1).expand(videos)
        if norm_type == "ada_norm_zero" and timestep is not None and class_labels is not None:
            timestep = timestep.repeat_interleave(pixels)
            class_labels = class_labels.reshape(-1).expand(videos).repeat_interleave(pixels)
        return encoder_hidden_states, timestep, class_labels


# Since torch 2.6; before, an exported program says nothing of what loads it.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
# Called while a graph is traced, and not a part of it.
_count_traced = torch.compiler.assume_constant_result(statistics.count_fallback)  # type: ignore[no-untyped-call]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _say_what_loads() -> None:
    """While a program is exported: a process that loads it has to know the operator."""
    warnings.warn(
        "this program has operators of kineograph, which has to be installed where torch.export.load or "
        "torch._inductor.aoti_load_package opens it. torch before 2.5, or with TORCH_DEVICE_BACKEND_AUTOLOAD=0, needs "
        "`import kineograph.operators` there.",
        UserWarning,
        stacklevel=2,
    )


def _fall_back(reason: str) -> Optional[_Tensor]:
    """Counts the reason. None: diffusers' own forward is to answer."""
    (_count_traced if torch.compiler.is_dynamo_compiling() else statistics.count_fallback)(reason)
    return None


def _unmerged(module: Any) -> Union[str, eligibility.Eligible]:
    """The finding of the walk, after PEFT's disabled layers have taken out what was merged, as their own forward does."""
    found = eligibility.examine(module)
    if isinstance(found, str) or not found.binding.unmerge:
        return found
    for layer in found.binding.unmerge:
        found.layers[layer].unmerge()
    return eligibility.examine(module)


def _wants_gradients(weights: "list[_Tensor]", loras: "list[tuple[int, Any]]", inputs: "tuple[Any, ...]") -> bool:
    factors = [factor for _, layer in loras for factor in layer.parameters()]
    return any(tensor is not None and tensor.requires_grad for tensor in (*weights, *factors, *inputs))


class TransformerTemporalModel(NativeForward, upstream.TransformerTemporalModel):  # type: ignore[misc]
    """diffusers' TransformerTemporalModel, native on the CPU: the same constructor, configuration, parameters and state
    dict, and everything else that diffusers' class has.

    Args beyond diffusers' own, which its documentation speaks of and its class does not do:
        norm_type: "layer_norm"; "ada_norm" (AdaLayerNorm on `timestep`); "ada_norm_zero" (AdaLayerNormZero on
            `timestep` and `class_labels`).
        num_embeds_ada_norm: timesteps for "ada_norm", classes for "ada_norm_zero".
        num_vector_embeds: discrete latents of that many classes, with `sample_size`; no `in_channels` then.
        group_norm_scope: "clip", statistics over all frames as in diffusers, or "frame", as the original AnimateDiff.
    """

    num_attention_heads: int
    attention_head_dim: int
    in_channels: "Optional[int]"
    transformer_blocks: nn.ModuleList
    norm: nn.GroupNorm
    latent_image_embedding: nn.Module
    norm_out: nn.LayerNorm
    _internal_dict: Any
    out: nn.Linear

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        in_channels: Optional[int] = None,
        out_channels: Optional[int] = None,
        num_layers: int = 1,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        cross_attention_dim: Optional[int] = None,
        attention_bias: bool = False,
        sample_size: Optional[int] = None,
        activation_fn: str = "geglu",
        norm_elementwise_affine: bool = True,
        double_self_attention: bool = True,
        positional_embeddings: Optional[str] = None,
        num_positional_embeddings: Optional[int] = None,
        norm_type: str = "layer_norm",
        num_embeds_ada_norm: Optional[int] = None,
        num_vector_embeds: Optional[int] = None,
        group_norm_scope: str = "clip",
    ) -> None:
        if norm_type not in ("layer_norm", "ada_norm", "ada_norm_zero"):
            raise ValueError(f"norm_type: expected layer_norm, ada_norm or ada_norm_zero, found {norm_type!r}")
        if group_norm_scope not in ("clip", "frame"):
            raise ValueError(f"group_norm_scope: expected clip or frame, found {group_norm_scope!r}")
        if num_vector_embeds is not None and (sample_size is None or in_channels is not None):
            raise ValueError(
                "num_vector_embeds: expected sample_size and no in_channels with it, found "
                f"sample_size {sample_size} and in_channels {in_channels}"
            )
        block = {
            "dropout": dropout,
            "cross_attention_dim": cross_attention_dim,
            "activation_fn": activation_fn,
            "attention_bias": attention_bias,
            "double_self_attention": double_self_attention,
            "norm_elementwise_affine": norm_elementwise_affine,
            "positional_embeddings": positional_embeddings,
            "num_positional_embeddings": num_positional_embeddings,
        }
        if num_vector_embeds is None:
            plain = norm_type == "layer_norm"
            super().__init__(
                num_attention_heads,
                attention_head_dim,
                in_channels,
                out_channels,
                num_layers if plain else 0,
                norm_num_groups=norm_num_groups,
                sample_size=sample_size,
                **block,
            )
            self.register_to_config(num_layers=num_layers)  # type: ignore[no-untyped-call]
            if group_norm_scope == "frame" and in_channels is not None:
                self.norm = FrameGroupNorm(norm_num_groups, in_channels, eps=self.norm.eps)
        else:
            plain = False
            super(upstream.TransformerTemporalModel, self).__init__()
            self.num_attention_heads, self.attention_head_dim = num_attention_heads, attention_head_dim
            self.in_channels = None
            inner = num_attention_heads * attention_head_dim
            self.latent_image_embedding = upstream.ImagePositionalEmbeddings(
                num_vector_embeds, sample_size, sample_size, inner
            )
            self.norm_out = nn.LayerNorm(inner)
            self.out = nn.Linear(inner, num_vector_embeds - 1)
        if not plain:
            self.transformer_blocks = conditioned_blocks(
                norm_type,
                num_layers,
                num_attention_heads,
                attention_head_dim,
                num_embeds_ada_norm=num_embeds_ada_norm,
                **block,
            )

    def to_json_string(self) -> str:
        """config.json as diffusers writes it; what is beyond diffusers' own is left out where it is the default."""
        kept = self._internal_dict
        ours = inspect.signature(TransformerTemporalModel.__init__).parameters
        theirs = inspect.signature(upstream.TransformerTemporalModel.__init__).parameters
        left_out = {key for key in kept if key in ours and key not in theirs and kept[key] == ours[key].default}
        self._internal_dict = type(kept)({key: value for key, value in kept.items() if key not in left_out})
        try:
            return super().to_json_string()
        finally:
            self._internal_dict = kept

    # Gradient checkpointing. Natively nothing but the input is kept for a backward, whatever this says; what falls back
    # follows it. diffusers' class has no such switch, so a UNet of diffusers that turns its own on finds none here either.
    _supports_gradient_checkpointing = True
    _kineograph_checkpointing: Optional[Callable[..., Any]] = None

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = torch.utils.checkpoint.checkpoint
    ) -> None:
        self._kineograph_checkpointing = gradient_checkpointing_func if enable else None

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self._kineograph_checkpointing is not None

    @overload  # type: ignore[override]
    def forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor] = None,
        timestep: Optional[_Tensor] = None,
        class_labels: Optional[_Tensor] = None,
        num_frames: int = 1,
        cross_attention_kwargs: "Optional[dict[str, Any]]" = None,
        return_dict: Literal[True] = True,
    ) -> TransformerTemporalModelOutput: ...

    @overload
    def forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor] = None,
        timestep: Optional[_Tensor] = None,
        class_labels: Optional[_Tensor] = None,
        num_frames: int = 1,
        cross_attention_kwargs: "Optional[dict[str, Any]]" = None,
        *,
        return_dict: Literal[False],
    ) -> "tuple[_Tensor]": ...

    def forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor] = None,
        timestep: Optional[_Tensor] = None,
        class_labels: Optional[_Tensor] = None,
        num_frames: int = 1,
        cross_attention_kwargs: "Optional[dict[str, Any]]" = None,
        return_dict: bool = True,
    ) -> "Union[TransformerTemporalModelOutput, tuple[_Tensor]]":
        """As diffusers documents it. encoder_hidden_states may also be (B, S, D), a row a video; `timestep` and
        `class_labels` are one a video or one for all."""
        given = (hidden_states, encoder_hidden_states, timestep, class_labels, num_frames)
        if not isinstance(self, NativeForward):  # a hook kept this function, and the module is diffusers' again
            return upstream.TransformerTemporalModel.forward(self, *given, cross_attention_kwargs, return_dict)
        sample = self._try_together(*given, cross_attention_kwargs)
        if sample is None:
            conditioning = self._for_diffusers(*given)
            theirs = self._discrete_forward if hasattr(self, "latent_image_embedding") else self._continuous_forward
            rest = (hidden_states, *conditioning, num_frames, cross_attention_kwargs)
            checkpoint = self._kineograph_checkpointing
            if checkpoint is not None and torch.is_grad_enabled():
                sample = checkpoint(theirs, *rest)
            else:
                sample = theirs(*rest)
        return TransformerTemporalModelOutput(sample=sample) if return_dict else (sample,)

    def _continuous_forward(self, *arguments: Any) -> _Tensor:
        theirs: Callable[..., Any] = super().forward
        sample: _Tensor = theirs(*arguments, return_dict=False)[0]
        return sample

    def _discrete_forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor],
        timestep: Any,
        class_labels: Any,
        num_frames: int,
        kwargs: Any,
    ) -> _Tensor:
        """Class indices in, log-probabilities out, as diffusers' Transformer2DModel begins and ends."""
        x = self.latent_image_embedding(hidden_states)  # (B*F, L, I)
        rows, pixels, inner = x.shape
        x = x.reshape(-1, num_frames, pixels, inner).transpose(1, 2).reshape(-1, num_frames, inner)
        for block in self.transformer_blocks:
            x = block(
                x,
                encoder_hidden_states=encoder_hidden_states,
                timestep=timestep,
                cross_attention_kwargs=kwargs,
                class_labels=class_labels,
            )
        x = x.reshape(-1, pixels, num_frames, inner).transpose(1, 2).reshape(rows, pixels, inner)
        logits = self.out(self.norm_out(x)).permute(0, 2, 1)
        return nn.functional.log_softmax(logits.double(), dim=1).float()


class AnimateDiffTransformer3D(NativeForward, upstream.AnimateDiffTransformer3D):
    """diffusers' AnimateDiffTransformer3D, the same module inside UNetMotionModel and MotionAdapter, native on the CPU."""

    def forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor] = None,
        timestep: Optional[_Tensor] = None,
        class_labels: Optional[_Tensor] = None,
        num_frames: int = 1,
        cross_attention_kwargs: "Optional[dict[str, Any]]" = None,
    ) -> _Tensor:
        """As diffusers documents it; encoder_hidden_states may also be (B, S, D), a row a video."""
        given = (hidden_states, encoder_hidden_states, timestep, class_labels, num_frames)
        if not isinstance(self, NativeForward):  # a hook kept this function, and the module is diffusers' again
            return upstream.AnimateDiffTransformer3D.forward(self, *given, cross_attention_kwargs)
        sample = self._try_together(*given, cross_attention_kwargs)
        if sample is not None:
            return sample
        theirs: Callable[..., _Tensor] = super().forward
        return theirs(hidden_states, *self._for_diffusers(*given), num_frames, cross_attention_kwargs)
