"""diffusers' temporal modules with a native forward."""

import inspect

import diffusers
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import ImagePositionalEmbeddings
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModelOutput
from diffusers.models.unets import unet_motion_model
from torch import nn

from .. import recording, statistics
from . import native, structure
from .blocks import FrameGroupNorm, conditioned_blocks

IMAGE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class NativeForward:
    """A forward that runs natively when that gives the same answer, and as diffusers does otherwise."""

    # On classes, so that modules made before (accelerate) have them too.
    _kineograph_spec = None  # (rate of dropout, text)
    # Natively nothing but the input is kept for a backward, whatever these say; what falls back follows them.
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @property
    def _spec(self):
        if torch.compiler.is_compiling():
            return structure.specification(self)
        rate = structure.dropout(self)
        if self._kineograph_spec is None or self._kineograph_spec[0] != rate:
            self._kineograph_spec = (rate, structure.specification(self))
        return self._kineograph_spec[1]

    @property
    def _norm_type(self):
        for block in self.transformer_blocks:
            return getattr(block, "norm_type", "layer_norm")
        return "layer_norm"

    def _try_native(self, hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, kwargs):
        """The native answer, or None after the reason is counted."""
        reason = _why_not_this_call(hidden_states, encoder_hidden_states, kwargs) or structure.why_not(self)
        drops = False
        if reason is None:
            drops, reason = structure.training(self)
        if reason is None:
            tensors, loras = structure.weights(self)
            reason = self._why_not_these_tensors(tensors, hidden_states, encoder_hidden_states, timestep, num_frames)
        if reason is not None:
            (_count_traced if torch.compiler.is_compiling() else statistics.count_fallback)(reason)
            return None
        # diffusers is silent about arguments that have no effect.
        encoder_hidden_states = encoder_hidden_states if self.transformer_blocks[0].attn2 is not None else None
        timestep = timestep if self._norm_type != "layer_norm" else None
        class_labels = class_labels if self._norm_type == "ada_norm_zero" else None
        compute = "bf16" if torch.bfloat16 in (tensors[0].dtype, _autocast_dtype()) else "f32"
        seed = native.new_seed() if drops else None
        if torch.compiler.is_compiling():
            return native.transformer_temporal(
                hidden_states,
                encoder_hidden_states,
                timestep,
                class_labels,
                tensors,
                seed,
                self._spec,
                compute,
                num_frames,
            )
        given = (
            hidden_states,
            encoder_hidden_states,
            timestep,
            class_labels,
            seed,
            num_frames,
            recording.recorder_of(self),
        )
        if torch.is_grad_enabled():
            factors = [factor for _, layer in loras for factor in layer.parameters()]
            if any(
                x is not None and x.requires_grad for x in (*tensors, *factors, hidden_states, encoder_hidden_states)
            ):
                return native.run_differentiably(tensors, loras, self._spec, compute, *given)
        return native.run(native.packed_model(tensors, loras, self._spec, compute), *given)

    def _why_not_these_tensors(self, tensors, hidden_states, encoder_hidden_states, timestep, num_frames):
        dtype = tensors[0].dtype
        for tensor in tensors:
            if tensor.device.type != "cpu":
                return f"the parameters are on {tensor.device.type}"
            if tensor.dtype not in IMAGE_DTYPES:
                return f"the parameters are {tensor.dtype}"
            if tensor.dtype != dtype:
                return "the parameters are of several dtypes"
            if not tensor.is_contiguous():
                return "the parameters are not contiguous"
            if _of_another_kind(tensor):
                return "parameters of another kind"
        discrete = hasattr(self, "latent_image_embedding")
        if not discrete and hidden_states.dtype != dtype and _autocast_dtype() is None:
            return f"hidden_states are {hidden_states.dtype}, the parameters {dtype}"
        if encoder_hidden_states is not None and encoder_hidden_states.dtype not in IMAGE_DTYPES:
            return f"encoder_hidden_states are {encoder_hidden_states.dtype}"
        if torch.is_grad_enabled():
            for block in self.transformer_blocks:
                if block.pos_embed is not None and block.pos_embed.pe.requires_grad:
                    return "gradients of positions are recorded"
            if isinstance(timestep, torch.Tensor) and timestep.requires_grad:
                return "gradients of timestep are recorded"
        return self._why_not_this_shape(discrete, hidden_states, encoder_hidden_states, num_frames)

    def _why_not_this_shape(self, discrete, hidden_states, encoder_hidden_states, num_frames):
        """Shapes that diffusers refuses, in its own words."""
        block = self.transformer_blocks[0]
        if hidden_states.ndim != (2 if discrete else 4) or hidden_states.numel() == 0:
            return "the shape of hidden_states"
        if num_frames < 1 or hidden_states.shape[0] % num_frames != 0:
            return "hidden_states' rows are no multiple of num_frames"
        if not discrete and hidden_states.shape[1] != self.in_channels:
            return "the shape of hidden_states"
        if discrete and hidden_states.dtype != torch.int64:
            return "the dtype of hidden_states"
        if block.pos_embed is not None and num_frames > block.pos_embed.pe.shape[1]:
            return "more frames than positions"
        videos = hidden_states.shape[0] // num_frames
        pixels = hidden_states.shape[1] if discrete else hidden_states.shape[2] * hidden_states.shape[3]
        if encoder_hidden_states is not None and block.attn2 is not None:
            if (
                encoder_hidden_states.ndim != 3
                or encoder_hidden_states.shape[0] not in (videos, videos * pixels)
                or encoder_hidden_states.shape[2] != block.attn2.cross_attention_dim
            ):
                return "the shape of encoder_hidden_states"
        if encoder_hidden_states is None and block.attn2 is not None and block.attn2.cross_attention_dim != block.dim:
            return "no encoder_hidden_states"
        for each in self.transformer_blocks:
            if each._chunk_size is not None:
                length = (videos * pixels, num_frames, block.dim)[each._chunk_dim]
                if length % each._chunk_size != 0:
                    return "the feed-forward's chunks do not come out even"
        return None

    def _as_diffusers(self, forward, *arguments):
        """A forward of diffusers' code, which keeps every intermediate for autograd unless it is checkpointed."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(forward, *arguments)
        return forward(*arguments)

    def _for_diffusers(self, hidden_states, encoder_hidden_states, timestep, class_labels, num_frames):
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


# Called while a graph is traced, and not a part of it.
_count_traced = torch.compiler.assume_constant_result(statistics.count_fallback)


def _of_another_kind(tensor):
    """Whether a tensor is more than memory: a subclass, or one that torch.func looks through."""
    if torch.compiler.is_compiling():
        return False
    return type(tensor) not in (torch.Tensor, nn.Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _autocast_dtype():
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _why_not_this_call(hidden_states, encoder_hidden_states, kwargs):
    if kwargs:
        return "cross_attention_kwargs are given"
    if hidden_states.device.type != "cpu":
        return f"hidden_states are on {hidden_states.device.type}"
    if hidden_states.dtype not in (*IMAGE_DTYPES, torch.int64):
        return f"hidden_states are {hidden_states.dtype}"
    if _autocast_dtype() not in (None, torch.bfloat16):
        return f"autocast to {_autocast_dtype()}"
    if torch.compiler.is_compiling():
        return None
    if torch.jit.is_tracing() or torch.jit.is_scripting() or torch.onnx.is_in_onnx_export():
        return "traced for another runtime"
    for tensor in (hidden_states, encoder_hidden_states):
        if tensor is not None and _of_another_kind(tensor):
            return "tensors of another kind"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode gradients are recorded"
    return None


class TransformerTemporalModel(NativeForward, diffusers.TransformerTemporalModel):
    """diffusers' TransformerTemporalModel, native on the CPU: the same constructor, configuration, parameters and state
    dict, and everything else that diffusers' class has.

    Args beyond diffusers' own, which its documentation speaks of and its class does not do:
        norm_type: "layer_norm"; "ada_norm" (AdaLayerNorm on `timestep`); "ada_norm_zero" (AdaLayerNormZero on
            `timestep` and `class_labels`).
        num_embeds_ada_norm: timesteps for "ada_norm", classes for "ada_norm_zero".
        num_vector_embeds: discrete latents of that many classes, with `sample_size`; no `in_channels` then.
        group_norm_scope: "clip", statistics over all frames as in diffusers, or "frame", as the original AnimateDiff.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        in_channels: "int | None" = None,
        out_channels: "int | None" = None,
        num_layers: int = 1,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        cross_attention_dim: "int | None" = None,
        attention_bias: bool = False,
        sample_size: "int | None" = None,
        activation_fn: str = "geglu",
        norm_elementwise_affine: bool = True,
        double_self_attention: bool = True,
        positional_embeddings: "str | None" = None,
        num_positional_embeddings: "int | None" = None,
        norm_type: str = "layer_norm",
        num_embeds_ada_norm: "int | None" = None,
        num_vector_embeds: "int | None" = None,
        group_norm_scope: str = "clip",
    ):
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
            self.register_to_config(num_layers=num_layers)
            if group_norm_scope == "frame":
                self.norm = FrameGroupNorm(norm_num_groups, in_channels, eps=self.norm.eps)
        else:
            plain = False
            super(diffusers.TransformerTemporalModel, self).__init__()
            self.num_attention_heads, self.attention_head_dim = num_attention_heads, attention_head_dim
            self.in_channels = None
            inner = num_attention_heads * attention_head_dim
            self.latent_image_embedding = ImagePositionalEmbeddings(num_vector_embeds, sample_size, sample_size, inner)
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

    def to_json_string(self):
        """config.json as diffusers writes it; what is beyond diffusers' own is left out where it is the default."""
        kept = self._internal_dict
        ours = inspect.signature(TransformerTemporalModel.__init__).parameters
        theirs = inspect.signature(diffusers.TransformerTemporalModel.__init__).parameters
        left_out = {key for key in kept if key in ours and key not in theirs and kept[key] == ours[key].default}
        self._internal_dict = type(kept)({key: value for key, value in kept.items() if key not in left_out})
        try:
            return super().to_json_string()
        finally:
            self._internal_dict = kept

    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        timestep=None,
        class_labels=None,
        num_frames=1,
        cross_attention_kwargs=None,
        return_dict=True,
    ):
        """As diffusers documents it. encoder_hidden_states may also be (B, S, D), a row a video; `timestep` and
        `class_labels` are one a video or one for all."""
        sample = self._try_native(
            hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs
        )
        if sample is None:
            conditioning = self._for_diffusers(hidden_states, encoder_hidden_states, timestep, class_labels, num_frames)
            theirs = self._discrete_forward if hasattr(self, "latent_image_embedding") else self._continuous_forward
            sample = self._as_diffusers(theirs, hidden_states, *conditioning, num_frames, cross_attention_kwargs)
        return TransformerTemporalModelOutput(sample=sample) if return_dict else (sample,)

    def _continuous_forward(self, *arguments):
        return super().forward(*arguments, return_dict=False)[0]

    def _discrete_forward(self, hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, kwargs):
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


class AnimateDiffTransformer3D(NativeForward, unet_motion_model.AnimateDiffTransformer3D):
    """diffusers' AnimateDiffTransformer3D, the same module inside UNetMotionModel and MotionAdapter, native on the CPU."""

    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        timestep=None,
        class_labels=None,
        num_frames=1,
        cross_attention_kwargs=None,
    ):
        sample = self._try_native(
            hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs
        )
        if sample is not None:
            return sample
        conditioning = self._for_diffusers(hidden_states, encoder_hidden_states, timestep, class_labels, num_frames)
        return self._as_diffusers(super().forward, hidden_states, *conditioning, num_frames, cross_attention_kwargs)
