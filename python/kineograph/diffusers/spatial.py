"""diffusers' transformers over an image's pixels, and over pixels and frames in turn, with a native forward."""

from typing import Any, Optional, Union

import torch

from .. import errors, operators
from . import accounts, arguments, eligibility, native, upstream
from .modules import _fall_back, _unmerged, _wants_gradients

_Tensor = torch.Tensor


class NativeSpatial:
    """A forward that runs natively when that gives the same answer, and as diffusers does otherwise. Its gradients are
    diffusers'."""

    transformer_blocks: Any

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        accounts.stands_for(cls)

    def _bound(
        self, hidden_states: Any, encoder_hidden_states: Any, others: "tuple[Any, ...]", kwargs: Any
    ) -> Union[str, "eligibility.Eligible"]:
        """The module's native form, or why this call of it has none."""
        if not all(isinstance(one, (torch.Tensor, type(None))) for one in others):
            return "an argument is no tensor"
        reason = arguments.why_not_this_call(hidden_states, encoder_hidden_states, 1, kwargs)
        if reason is not None:
            return reason
        found = _unmerged(self)
        if isinstance(found, str):
            return found
        weights, loras = found.weights(), found.loras()
        given = (hidden_states, encoder_hidden_states, *others)
        return (
            arguments.why_not_these_weights(weights)
            or arguments.why_not_these_factors(loras)
            or arguments.why_not_together(found, weights, hidden_states, encoder_hidden_states, None, 1, spatial=True)
            or ("something is dropped: it runs in training" if found.binding.draws else None)
            or _why_not_these_gradients(weights, loras, given)
            or found
        )

    def _run(self, found: "eligibility.Eligible", given: "tuple[Any, ...]") -> Optional[_Tensor]:
        """The native answer; None where the engine does not take the model, after that is counted."""
        weights, binding = found.weights(), found.binding
        compute = "bf16" if torch.bfloat16 in (weights[0].dtype, arguments.autocast_dtype()) else "f32"
        if torch.compiler.is_compiling():
            merged = native.with_loras(weights, found.loras())
            sample: _Tensor = operators.transformer_spatial(*given, merged, binding.spec, compute)
            return sample
        try:
            model = native.packed_model(weights, found.loras(), binding.spec, compute)
            if native.ENGINE != "reference" and model.engine == "reference":
                return _fall_back("the engine has nothing faster than its definition for it")
            return native.run_spatial(model, *given)
        except (errors.ConfigError, errors.CheckpointError) as error:
            return _fall_back(f"the engine does not take it: {error}")


def _why_not_these_gradients(weights: "list[_Tensor]", loras: "list[tuple[int, Any]]", given: Any) -> "str | None":
    if torch.is_grad_enabled() and _wants_gradients(weights, loras, given):
        return "gradients of a spatial transformer are recorded"
    return None


def _is_mask(mask: "Optional[_Tensor]", rows: int, heads: int, queries: int, keys: int, dtype: Any) -> bool:
    """Whether diffusers and the engine take `mask` for the same: (N, K), or a bias of the scores' dtype."""
    if mask is None or mask.ndim == 2 and tuple(mask.shape) == (rows, keys):
        return True
    return (
        mask.ndim == 3
        and mask.shape[0] in (rows, rows * heads)
        and mask.shape[1] in (1, queries)
        and mask.shape[2] == keys
        and mask.dtype == dtype
    )


def _tokens_of(image: Any) -> Any:
    """An IP-Adapter's tokens, (N, S, D): its processor takes several images of a row, (N, images, S, D), as one sequence."""
    return image.flatten(1, 2) if isinstance(image, torch.Tensor) and image.ndim == 4 else image


def _why_not_these_images(
    found: "eligibility.Eligible", hidden_states: _Tensor, images: "list[_Tensor]", kwargs: Any
) -> "str | None":
    """Images that are not an IP-Adapter's, a row of tokens a row of hidden_states for each."""
    binding = found.binding
    if not binding.ip_scales and not images:
        return None
    if len(images) != len(binding.ip_scales[0]) if binding.ip_scales else images:
        return "images for other IP-Adapters than it has"
    if kwargs and kwargs.get("ip_adapter_masks") is not None:
        return "ip_adapter_masks are given"
    for one in images:
        shaped = one.ndim == 3 and one.shape[::2] == (hidden_states.shape[0], binding.context_dim) and one.shape[1] > 0
        if not shaped or one.dtype not in (hidden_states.dtype, found.weights()[0].dtype):
            return "the shape or the dtype of an IP-Adapter's images"
    return None


class Transformer2DModel(NativeSpatial, upstream.Transformer2DModel):  # type: ignore[misc]
    """diffusers' Transformer2DModel, native on the CPU for continuous latents."""

    def forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor] = None,
        timestep: Optional[_Tensor] = None,
        added_cond_kwargs: "Optional[dict[str, _Tensor]]" = None,
        class_labels: Optional[_Tensor] = None,
        cross_attention_kwargs: "Optional[dict[str, Any]]" = None,
        attention_mask: Optional[_Tensor] = None,
        encoder_attention_mask: Optional[_Tensor] = None,
        return_dict: bool = True,
    ) -> Any:
        """As diffusers documents it."""
        masks = (attention_mask, encoder_attention_mask)
        sample = None
        if isinstance(self, NativeSpatial):  # else a hook kept this function, and the module is diffusers' again
            sample = self._try_native(hidden_states, encoder_hidden_states, masks, cross_attention_kwargs)
        if sample is None:
            return upstream.Transformer2DModel.forward(
                self,
                hidden_states,
                encoder_hidden_states,
                timestep,
                added_cond_kwargs,
                class_labels,
                cross_attention_kwargs,
                *masks,
                return_dict,
            )
        return upstream.Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _try_native(
        self, hidden_states: _Tensor, encoder_hidden_states: Any, masks: "tuple[Any, Any]", kwargs: Any
    ) -> Optional[_Tensor]:
        images: list[Any] = []
        if isinstance(encoder_hidden_states, tuple) and len(encoder_hidden_states) == 2:
            encoder_hidden_states, images = (
                encoder_hidden_states[0],
                [_tokens_of(one) for one in encoder_hidden_states[1]],
            )
        found = self._bound(hidden_states, encoder_hidden_states, (*masks, *images), kwargs)
        if not isinstance(found, str):
            reason = self._why_not_these_masks(found, hidden_states, encoder_hidden_states, masks)
            found = reason or _why_not_these_images(found, hidden_states, images, kwargs) or found
        if isinstance(found, str):
            return _fall_back(found)
        if kwargs:
            arguments.warn_of_ignored(found.binding, kwargs)
        attended = found.binding.context_dim is not None
        given = (encoder_hidden_states if attended else None, masks[0], masks[1] if attended else None)
        scales = [scale for block in found.binding.ip_scales for scale in block]
        return self._run(found, (hidden_states, *given, None, images, scales, 0))

    def _why_not_these_masks(
        self, found: "eligibility.Eligible", hidden_states: _Tensor, encoder_hidden_states: Any, masks: Any
    ) -> "str | None":
        rows, _, height, width = hidden_states.shape
        pixels, heads = height * width, self.transformer_blocks[0].attn1.heads
        tokens = pixels if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        for mask, keys in zip(masks, (pixels, tokens)):
            if not _is_mask(mask, rows, heads, pixels, keys, hidden_states.dtype):
                return "the shape or the dtype of a mask"
        return None


class TransformerSpatioTemporalModel(NativeSpatial, upstream.TransformerSpatioTemporalModel):
    """diffusers' TransformerSpatioTemporalModel, native on the CPU."""

    def forward(
        self,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor] = None,
        image_only_indicator: Optional[_Tensor] = None,
        return_dict: bool = True,
    ) -> Any:
        """As diffusers documents it."""
        given = (hidden_states, encoder_hidden_states, image_only_indicator)
        sample = self._try_native(*given) if isinstance(self, NativeSpatial) else None
        if sample is None:
            return upstream.TransformerSpatioTemporalModel.forward(self, *given, return_dict)
        return upstream.TransformerTemporalModelOutput(sample=sample) if return_dict else (sample,)

    def _try_native(self, hidden_states: _Tensor, encoder_hidden_states: Any, images: Any) -> Optional[_Tensor]:
        found = self._bound(hidden_states, encoder_hidden_states, (images,), None)
        if not isinstance(found, str):
            found = self._why_not_these_frames(found, hidden_states, encoder_hidden_states, images) or found
        if isinstance(found, str):
            return _fall_back(found)
        encoder = encoder_hidden_states if found.binding.context_dim is not None else None
        return self._run(found, (hidden_states, encoder, None, None, images, [], [], images.shape[-1]))

    def _why_not_these_frames(
        self, found: "eligibility.Eligible", hidden_states: _Tensor, encoder_hidden_states: Any, images: Any
    ) -> "str | None":
        """The reason why diffusers refuses these shapes, as it names the arguments; None where it does not."""
        if images is None or encoder_hidden_states is None:
            return "no image_only_indicator or encoder_hidden_states"
        rows = hidden_states.shape[0]
        if images.ndim != 2 or images.shape[0] * images.shape[1] != rows or encoder_hidden_states.shape[0] != rows:
            return "the shape of image_only_indicator or encoder_hidden_states"
        pixels, frames = hidden_states.shape[2] * hidden_states.shape[3], images.shape[1]
        for size, dim in found.binding.temporal_chunks:
            if (rows // frames * pixels, frames, found.binding.inner_dim)[dim] % size != 0:
                return "the feed-forward's chunks do not come out even"
        return None
