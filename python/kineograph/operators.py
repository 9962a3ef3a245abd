"""The operators of compiled and exported programs: their schemas, shapes and gradients. Needs torch, and no diffusers: a
process that opens an exported program has to know the operators; what computes is imported with the first call."""

import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any, List, Optional

import torch

_Tensor = torch.Tensor


def _native() -> Any:
    return importlib.import_module(f"{__package__}.diffusers.native")


def windows_text(context: "Optional[tuple[int, int, str]]") -> str:
    """FreeNoise's windows (length, stride, weighting) as an operator's argument: "16,4,pyramid", or "" for none."""
    return "" if context is None else ",".join(map(str, context))


def _windows_of(text: str) -> "Optional[tuple[int, int, str]]":
    """The inverse of windows_text."""
    if not text:
        return None
    length, stride, weighting = text.split(",")
    return int(length), int(stride), weighting


def save(
    ctx: Any,
    hidden_states: _Tensor,
    encoder_hidden_states: Optional[_Tensor],
    timestep: Optional[_Tensor],
    class_labels: Optional[_Tensor],
    weights: Sequence[_Tensor],
    seed: Optional[_Tensor],
) -> None:
    """Saves what `gradients` reads."""
    ctx.save_for_backward(seed, timestep, class_labels, hidden_states, encoder_hidden_states, *weights)


def gradients(
    ctx: Any, sample_gradient: _Tensor, wanted: Sequence[bool], backward: Callable[..., Sequence[_Tensor]]
) -> List[Optional[_Tensor]]:
    """The gradients of hidden_states, of encoder_hidden_states and of each weight, with None where none is wanted.
    `backward` is called with the arguments of transformer_temporal_backward up to `wanted`."""
    seed, timestep, class_labels, hidden_states, encoder_hidden_states, *weights = ctx.saved_tensors
    inputs = (hidden_states, encoder_hidden_states, timestep, class_labels)
    found = iter(backward(sample_gradient, *inputs, weights, seed, list(wanted)))
    return [next(found) if is_wanted else None for is_wanted in wanted]


@torch.library.custom_op("kineograph::transformer_temporal", mutates_args=())
def transformer_temporal(
    hidden_states: torch.Tensor,
    encoder_hidden_states: Optional[torch.Tensor],
    timestep: Optional[torch.Tensor],
    class_labels: Optional[torch.Tensor],
    weights: List[torch.Tensor],
    seed: Optional[torch.Tensor],
    spec: str,
    compute_dtype: str,
    num_frames: int,
    context: str = "",
) -> torch.Tensor:
    """A TransformerTemporalModel as one operator, for torch.compile and torch.export: `weights` are the tensors of
    spec's names (see records.Binding), `seed` is that of training, `context` is windows_text's, without gradients."""
    native = _native()
    model = native.packed_model(list(weights), [], spec, compute_dtype)
    given = (hidden_states, encoder_hidden_states, timestep, class_labels, seed, num_frames)
    sample: torch.Tensor = native.run(model, *given, None, _windows_of(context))
    return sample


@transformer_temporal.register_fake
def _(
    hidden_states: _Tensor,
    encoder_hidden_states: Any,
    timestep: Any,
    class_labels: Any,
    weights: Any,
    seed: Any,
    spec: str,
    compute_dtype: str,
    num_frames: int,
    context: str = "",
) -> _Tensor:
    config = json.loads(spec)["config"]
    if config.get("num_vector_embeds") is None:
        return hidden_states.new_empty(hidden_states.shape)
    shape = (hidden_states.shape[0], config["num_vector_embeds"] - 1, hidden_states.shape[1])
    return hidden_states.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("kineograph::transformer_temporal_backward", mutates_args=())
def transformer_temporal_backward(
    sample_gradient: torch.Tensor,
    hidden_states: torch.Tensor,
    encoder_hidden_states: Optional[torch.Tensor],
    timestep: Optional[torch.Tensor],
    class_labels: Optional[torch.Tensor],
    weights: List[torch.Tensor],
    seed: Optional[torch.Tensor],
    wanted: List[bool],
    spec: str,
    compute_dtype: str,
    num_frames: int,
) -> List[torch.Tensor]:
    """The gradients of transformer_temporal that are wanted, as native.run_backward returns them."""
    native = _native()
    model = native.packed_model(list(weights), [], spec, compute_dtype)
    inputs = (hidden_states, encoder_hidden_states, timestep, class_labels)
    names = json.loads(spec)["names"]
    found: List[torch.Tensor] = native.run_backward(
        model, names, sample_gradient, *inputs, weights, seed, wanted, num_frames=num_frames
    )
    return found


@transformer_temporal_backward.register_fake
def _(
    sample_gradient: _Tensor,
    hidden_states: _Tensor,
    encoder_hidden_states: Any,
    timestep: Any,
    class_labels: Any,
    weights: Sequence[_Tensor],
    seed: Any,
    wanted: Sequence[bool],
    spec: str,
    compute_dtype: str,
    num_frames: int,
) -> List[_Tensor]:
    inputs = (hidden_states, encoder_hidden_states)
    gradients = [x.new_empty(x.shape) for x, is_wanted in zip(inputs, wanted) if is_wanted]
    of_weights = zip(weights, wanted[len(inputs) :])
    return gradients + [one.new_empty(one.shape, dtype=torch.float32) for one, is_wanted in of_weights if is_wanted]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *saved, ctx.spec, ctx.compute_dtype, ctx.num_frames, _ = inputs  # no gradient is recorded where there are windows
    save(ctx, *saved)


def _backward(ctx: Any, sample_gradient: _Tensor) -> Any:
    by_hidden, by_encoder, _, _, by_weights, *_ = ctx.needs_input_grad
    rest = (ctx.spec, ctx.compute_dtype, ctx.num_frames)
    wanted = [by_hidden, by_encoder, *by_weights]
    found = gradients(ctx, sample_gradient, wanted, lambda *given: transformer_temporal_backward(*given, *rest))
    return found[0], found[1], None, None, found[2:], None, None, None, None, None


transformer_temporal.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("kineograph::transformer_spatial", mutates_args=())
def transformer_spatial(
    hidden_states: torch.Tensor,
    encoder_hidden_states: Optional[torch.Tensor],
    attention_mask: Optional[torch.Tensor],
    encoder_attention_mask: Optional[torch.Tensor],
    image_only_indicator: Optional[torch.Tensor],
    images: List[torch.Tensor],
    ip_scales: List[float],
    num_frames: int,
    weights: List[torch.Tensor],
    spec: str,
    compute_dtype: str,
) -> torch.Tensor:
    """A Transformer2DModel or TransformerSpatioTemporalModel as one operator, for torch.compile and torch.export."""
    native = _native()
    model = native.packed_model(list(weights), [], spec, compute_dtype)
    given = (hidden_states, encoder_hidden_states, attention_mask, encoder_attention_mask, image_only_indicator)
    sample: torch.Tensor = native.run_spatial(model, *given, images, ip_scales, num_frames)
    return sample


@transformer_spatial.register_fake
def _(
    hidden_states: _Tensor,
    encoder_hidden_states: Any,
    attention_mask: Any,
    encoder_attention_mask: Any,
    image_only_indicator: Any,
    images: Any,
    ip_scales: Any,
    num_frames: int,
    weights: Any,
    spec: str,
    compute_dtype: str,
) -> _Tensor:
    return torch.empty(hidden_states.shape, dtype=hidden_states.dtype)
