"""Whether a native forward stands for a call: the arguments, and the state of torch around it."""

import operator
from typing import Any

import torch
from torch import nn

from . import upstream
from .eligibility import Eligible
from .records import Binding

IMAGE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# cross_attention_kwargs of which an Attention does not say that it ignores them.
_QUIET = frozenset(("ip_adapter_masks", "ip_hidden_states"))
# Keywords that the processors of the account take; "gligen" is the block's. All others are ignored, with a warning.
_TAKEN = frozenset(
    ("gligen", "attn", "hidden_states", "encoder_hidden_states", "attention_mask", "temb", "args", "kwargs", "self")
)


def autocast_dtype() -> "torch.dtype | None":
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def number_of_frames(num_frames: Any) -> Any:
    """num_frames as an integer, from whatever counts as one; as it is where it does not."""
    if type(num_frames) is int or torch.compiler.is_compiling():
        return num_frames
    try:
        return operator.index(num_frames)
    except TypeError:
        return num_frames


def why_not_this_call(hidden_states: Any, encoder_hidden_states: Any, num_frames: Any, kwargs: Any) -> "str | None":
    """Arguments, and states of torch, with which no module runs natively."""
    compiling = torch.compiler.is_compiling()
    if not isinstance(hidden_states, torch.Tensor) or not isinstance(encoder_hidden_states, (torch.Tensor, type(None))):
        return "an argument is no tensor"
    if not isinstance(num_frames, (int, torch.SymInt)):
        return "num_frames is no integer"
    if kwargs and (compiling or type(kwargs) is not dict or not _TAKEN.isdisjoint(kwargs)):
        return "cross_attention_kwargs are given"
    if hidden_states.device.type != "cpu":
        return f"hidden_states are on {hidden_states.device.type}"
    if hidden_states.dtype not in (*IMAGE_DTYPES, torch.int64):
        return f"hidden_states are {hidden_states.dtype}"
    autocast = autocast_dtype()
    if autocast not in (None, torch.bfloat16):
        return f"autocast to {autocast}"
    if compiling:
        return None
    if torch._C._get_tracing_state() is not None or torch.onnx.is_in_onnx_export():
        return "traced for another runtime"
    if of_another_kind(hidden_states) or encoder_hidden_states is not None and of_another_kind(encoder_hidden_states):
        return "tensors of another kind"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode gradients are recorded"
    if torch._C._len_torch_dispatch_stack() > 0 or _modes():
        return "a mode of torch's dispatcher is active"
    return None


def _modes() -> bool:
    """Whether torch's functions run through a mode other than that of torch.set_default_device."""
    if torch._C._len_torch_function_stack() == 0:
        return False
    return any(
        type(mode) is not torch.utils._device.DeviceContext
        for mode in torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    )


def of_another_kind(tensor: torch.Tensor) -> bool:
    """Whether a tensor is more than memory: a subclass, one that torch.func looks through, a lazy negative."""
    if torch.compiler.is_compiling():
        return False
    return (
        type(tensor) not in (torch.Tensor, nn.Parameter)
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or tensor.layout is not torch.strided
        or tensor.is_neg()
    )


def why_not_these_weights(weights: "list[torch.Tensor]") -> "str | None":
    """Weights that the engine does not read."""
    dtype = weights[0].dtype
    for tensor in weights:
        if tensor.device.type != "cpu":
            return f"the parameters are on {tensor.device.type}"
        if tensor.dtype is not dtype:
            return "the parameters are of several dtypes"
        if of_another_kind(tensor):
            return f"parameters of another kind, {type(tensor).__name__}"
        if not tensor.is_contiguous():
            return "the parameters are not contiguous"
        if not torch.compiler.is_compiling() and tensor.data_ptr() == 0 and tensor.numel() > 0:
            return "the parameters' memory is not there"
    if dtype not in IMAGE_DTYPES:
        return f"the parameters are {dtype}"
    return None


def why_not_these_factors(layers: "list[tuple[int, Any]]") -> "str | None":
    """Factors of LoRAs that are not memory of the host."""
    for _, layer in layers:
        for name in layer.active_adapters:
            if name not in layer.lora_A:
                continue
            for factor in (layer.lora_A[name].weight, layer.lora_B[name].weight):
                reason = why_not_these_weights([factor])
                if reason is not None:
                    return reason.replace("the parameters", "a LoRA's factors")
            if layer.lora_A[name].weight.dtype is not layer.lora_B[name].weight.dtype:
                return "a LoRA's factors are of two dtypes"
    return None


def why_not_together(
    found: Eligible,
    weights: "list[torch.Tensor]",
    hidden_states: torch.Tensor,
    encoder_hidden_states: "torch.Tensor | None",
    timestep: Any,
    num_frames: int,
    spatial: bool = False,
) -> "str | None":
    """Arguments that do not go with the module: dtypes that diffusers refuses, and gradients that are not computed."""
    binding, dtype, autocast = found.binding, weights[0].dtype, autocast_dtype()
    if not binding.discrete and hidden_states.dtype != dtype and autocast is None:
        return f"hidden_states are {hidden_states.dtype}, the parameters {dtype}"
    if autocast is not None and torch.float16 in (hidden_states.dtype, dtype):
        return "float16 under autocast"
    if encoder_hidden_states is not None and binding.context_dim is not None:
        expected = IMAGE_DTYPES if autocast is not None else (dtype,)
        if encoder_hidden_states.dtype not in expected:
            return f"encoder_hidden_states are {encoder_hidden_states.dtype}, the parameters {dtype}"
    if torch.is_grad_enabled():
        if any(weights[index].requires_grad for index in binding.position_weights):
            return "gradients of positions are recorded"
        if isinstance(timestep, torch.Tensor) and timestep.requires_grad:
            return "gradients of timestep are recorded"
    if spatial:
        return _why_not_this_image(binding, hidden_states, encoder_hidden_states)
    return _why_not_this_shape(binding, hidden_states, encoder_hidden_states, num_frames)


def _why_not_this_image(
    binding: Binding, hidden_states: torch.Tensor, encoder_hidden_states: "torch.Tensor | None"
) -> "str | None":
    """Shapes that diffusers' spatial transformers refuse, in its own words."""
    if hidden_states.ndim != 4 or hidden_states.numel() == 0 or hidden_states.shape[1] != binding.in_channels:
        return "the shape of hidden_states"
    rows, pixels = hidden_states.shape[0], hidden_states.shape[2] * hidden_states.shape[3]
    if binding.context_dim is not None:
        if encoder_hidden_states is None:
            if binding.encoder is True or binding.context_dim != binding.inner_dim:
                return "no encoder_hidden_states"
        elif binding.encoder is False:
            return "encoder_hidden_states, and projections that were fused without"
        elif (
            encoder_hidden_states.ndim != 3
            or encoder_hidden_states.shape[::2] != (rows, binding.context_dim)
            or encoder_hidden_states.shape[1] == 0
        ):
            return "the shape of encoder_hidden_states"
    for size, dim in binding.chunks:
        if (rows, pixels, binding.inner_dim)[dim] % size != 0:
            return "the feed-forward's chunks do not come out even"
    return None


def _why_not_this_shape(
    binding: Binding, hidden_states: torch.Tensor, encoder_hidden_states: "torch.Tensor | None", num_frames: int
) -> "str | None":
    """Shapes that diffusers refuses, in its own words."""
    discrete = binding.discrete
    if hidden_states.ndim != (2 if discrete else 4) or hidden_states.numel() == 0:
        return "the shape of hidden_states"
    if num_frames < 1 or hidden_states.shape[0] % num_frames != 0:
        return "hidden_states' rows are no multiple of num_frames"
    if not discrete and hidden_states.shape[1] != binding.in_channels:
        return "the shape of hidden_states"
    if discrete and hidden_states.dtype != torch.int64:
        return "the dtype of hidden_states"
    attended = num_frames if binding.context is None else binding.context[0]
    if num_frames < attended:
        return "fewer frames than a window"
    if binding.positions is not None and attended > binding.positions:
        return "more frames than positions"
    videos = hidden_states.shape[0] // num_frames
    pixels = hidden_states.shape[1] if discrete else hidden_states.shape[2] * hidden_states.shape[3]
    if binding.context_dim is not None:
        if encoder_hidden_states is None:
            if binding.encoder is True:
                return "no encoder_hidden_states"
        elif binding.encoder is False:
            return "encoder_hidden_states, and projections that were fused without"
        elif (
            encoder_hidden_states.ndim != 3
            or encoder_hidden_states.shape[0] not in (videos, videos * pixels)
            or encoder_hidden_states.shape[2] != binding.context_dim
        ):
            return "the shape of encoder_hidden_states"
    for size, dim in binding.chunks:
        if (videos * pixels, num_frames, binding.inner_dim)[dim] % size != 0:
            return "the feed-forward's chunks do not come out even"
    return None


def warn_of_ignored(binding: Binding, kwargs: "dict[str, Any]") -> None:
    """Says what diffusers says of cross_attention_kwargs that nothing reads, once a block and once an attention."""
    ignored = [key for key in kwargs if key not in _QUIET]
    for processors in binding.processors:
        if kwargs.get("scale") is not None:
            upstream.block_logger.warning(
                "Passing `scale` to `cross_attention_kwargs` is deprecated. `scale` will be ignored."
            )
        for processor in processors if ignored else ():
            upstream.attention_logger.warning(
                f"cross_attention_kwargs {ignored} are not expected by {processor.__name__} and will be ignored."
            )
