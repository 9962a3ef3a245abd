"""Native forwards and backwards over torch's tensors: packed models that follow the parameters, and the autograd function."""

import functools
import json
import threading
from collections.abc import Sequence
from typing import Any, List, Optional, Tuple

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .. import _native, operators, statistics, threads

# The engine of packed models, one of kineograph.engines().
ENGINE = "auto"

# First weight -> {(specification, compute dtype, engine): Packed}. An entry goes when its model's parameters go.
_packed: Any = WeakIdKeyDictionary()
_lock = threading.Lock()

_Tensor = torch.Tensor
_Loras = Sequence[Tuple[int, Any]]  # (index of the weight, PEFT's layer around it)


class Packed:
    """A native model, and what its weights were when it was made."""

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.mark: Any = None
        self.model: Any = None


def _mark(tensors: Sequence[_Tensor], loras: _Loras) -> Any:
    """Changes whenever a weight does, however it was changed: `p.data` and optimizers of others leave no other trace.

    All threads of the call read: it costs what a forward's first look at the weights costs, see bench/eligibility.py.
    """
    read = [tensor.detach() for tensor in tensors]
    factors = []
    for index, layer in loras:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                read += [layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()]
                factors.append((index, name, float(layer.scaling[name])))
    addresses = [tensor.data_ptr() for tensor in read]
    content = _native.fingerprint(addresses, [tensor.nbytes for tensor in read], _threads())
    return addresses, [tensor.dtype for tensor in read], factors, content


def with_loras(tensors: Sequence[_Tensor], loras: _Loras) -> List[_Tensor]:
    """W + scaling B A for the active adapters, in f32 and rounded once, as PEFT's own merge of a f32 base. Where gradients
    are recorded they flow from the merged weight to A and B, in products of the weights' size."""
    merged = list(tensors)
    if not loras:
        return merged
    with torch.autocast("cpu", enabled=False):
        for index, layer in loras:
            for name in layer.active_adapters:
                if name in layer.lora_A:
                    a, b = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
                    scaling = layer.scaling[name]  # a tensor where it is swapped in place
                    scaling = scaling.to(a) if isinstance(scaling, torch.Tensor) else float(scaling)
                    merged[index] = merged[index].float() + scaling * (b @ a)
            merged[index] = merged[index].to(tensors[index].dtype)
    return merged


@torch.no_grad()
def packed_model(
    tensors: Sequence[_Tensor],
    loras: _Loras,
    spec: str,
    compute_dtype: str,
    merged: Optional[Sequence[_Tensor]] = None,
) -> Any:
    """The native model of these weights: the one from before while they are what they were then, else a new one.

    `merged`: with_loras(tensors, loras), where the caller has it already."""
    with _lock:
        entry = _packed.setdefault(tensors[0], {}).setdefault((spec, compute_dtype, ENGINE), Packed())
    mark = _mark(tensors, loras)
    with entry.lock:
        if entry.mark != mark:
            entry.model = None  # its memory first
            parsed = json.loads(spec)
            values = [tensor.detach() for tensor in merged or with_loras(tensors, loras)]
            kind = getattr(_native, parsed.get("kind", "Model"))
            entry.model = kind.from_state_dict(
                json.dumps(parsed["config"]), list(zip(parsed["names"], values)), ENGINE, compute_dtype, ""
            )
            entry.mark = mark
        return entry.model


def _detached(*tensors: Optional[_Tensor]) -> List[Any]:
    return [None if tensor is None else tensor.detach() for tensor in tensors]


def _threads() -> int:
    return threads.num_threads(torch.get_num_threads())


def new_seed() -> _Tensor:
    """A seed for one forward, drawn from torch's generator: torch.manual_seed reproduces it."""
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64)


def run(
    model: Any,
    hidden_states: _Tensor,
    encoder_hidden_states: Optional[_Tensor],
    timestep: Any,
    class_labels: Any,
    seed: Optional[_Tensor],
    num_frames: int,
    recorder: "_native.AttentionRecorder | None" = None,
    context: "Optional[Tuple[int, int, str]]" = None,
    ranks: Any = None,
) -> _Tensor:
    """One native forward; any tensor may require gradients, none are recorded. `seed`: that of training, or None;
    `context`: length, stride and weighting of FreeNoise's windows, or None; `ranks`: see parallel.Exchange.ranks."""
    given = _detached(hidden_states, encoder_hidden_states, timestep, class_labels)
    config = model.config if given[0].dtype == torch.int64 else None
    if config is None:
        out = torch.empty(given[0].shape, dtype=given[0].dtype)
    else:
        classes = json.loads(config)["num_vector_embeds"] - 1
        out = torch.empty((given[0].shape[0], classes, given[0].shape[1]))
    drawn = None if seed is None else seed.item()
    model.forward(
        given[0], num_frames, given[1], given[2], given[3], {}, out, recorder, drawn, _threads(), None, context, ranks
    )
    statistics.count_native()
    return out


def run_backward(
    model: Any,
    names: Sequence[str],
    sample_gradient: _Tensor,
    hidden_states: _Tensor,
    encoder_hidden_states: Optional[_Tensor],
    timestep: Any,
    class_labels: Any,
    weights: Sequence[_Tensor],
    seed: Optional[_Tensor],
    wanted: Sequence[bool],
    num_frames: int,
    ranks: Any = None,
) -> List[_Tensor]:
    """The gradients where `wanted` (of hidden_states, encoder_hidden_states and each of `weights`, whose names are `names`)
    is true, in that order: inputs' in their own dtype, weights' in f32."""
    gradients: List[_Tensor] = []
    named = []
    for name, tensor, is_wanted in zip(
        ("hidden_states", "encoder_hidden_states", *names), (hidden_states, encoder_hidden_states, *weights), wanted
    ):
        if is_wanted and tensor is not None:
            of_input = tensor is hidden_states or tensor is encoder_hidden_states
            gradients.append(torch.empty(tensor.shape, dtype=tensor.dtype if of_input else torch.float32))
            named.append((name, gradients[-1]))
    hidden_states, sample_gradient, encoder_hidden_states, timestep, class_labels = _detached(
        hidden_states, sample_gradient, encoder_hidden_states, timestep, class_labels
    )
    drawn = None if seed is None else seed.item()
    model.backward(
        hidden_states,
        sample_gradient,
        named,
        num_frames,
        encoder_hidden_states,
        timestep,
        class_labels,
        drawn,
        _threads(),
        ranks=ranks,
    )
    statistics.count_backward()
    return gradients


def run_spatial(
    model: Any,
    hidden_states: _Tensor,
    encoder_hidden_states: Optional[_Tensor],
    attention_mask: Optional[_Tensor],
    encoder_attention_mask: Optional[_Tensor],
    image_only_indicator: Optional[_Tensor],
    images: Sequence[_Tensor],
    ip_scales: Sequence[float],
    num_frames: int,
) -> _Tensor:
    """One native forward of a Transformer2DModel, with IP-Adapters' images and their scales layer by layer; or with
    `num_frames` of a TransformerSpatioTemporalModel."""
    hidden_states, encoder_hidden_states, *masks, indicator = _detached(
        hidden_states, encoder_hidden_states, attention_mask, encoder_attention_mask, image_only_indicator
    )
    out = torch.empty(hidden_states.shape, dtype=hidden_states.dtype)
    if num_frames:
        model.forward(hidden_states, num_frames, encoder_hidden_states, indicator, out, _threads())
    else:
        scales = [list(ip_scales[i :: len(images)]) for i in range(len(images))]
        given = (hidden_states, encoder_hidden_states, None, None, *masks, _detached(*images), scales)
        model.forward(*given, out, _threads())
    statistics.count_native()
    return out


def runs_spatial(kind: str) -> bool:
    """Whether an engine faster than the reference runs the library's class `kind`; the reference where it is asked for."""
    if ENGINE == "reference":
        return True
    if kind not in _runs:
        config = {"num_attention_heads": 1, "attention_head_dim": 32, "in_channels": 32, "num_layers": 1}
        model = getattr(_native, kind).from_config(json.dumps(config), 0, "f32", ENGINE, "auto", "")
        _runs[kind] = model.engine != "reference"
    return _runs[kind]


_runs: "dict[str, bool]" = {}


class Differentiable(torch.autograd.Function):
    """A forward whose gradients are computed natively, those that autograd asks for and no others.

    Nothing is kept but the arguments and the packed model. The weights are arguments, so that autograd refuses a backward
    after one of them was changed in place, as it does everywhere."""

    NOT_DIFFERENTIATED = 8  # arguments of forward before hidden_states

    @staticmethod
    def forward(
        ctx: Any,
        model: Any,
        names: Sequence[str],
        num_frames: int,
        recorder: Any,
        ranks: Any,
        seed: Optional[_Tensor],
        timestep: Any,
        class_labels: Any,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor],
        *weights: _Tensor,
    ) -> _Tensor:
        ctx.rest = (model, names, num_frames, ranks)
        operators.save(ctx, hidden_states, encoder_hidden_states, timestep, class_labels, weights, seed)
        given = (hidden_states, encoder_hidden_states, timestep, class_labels, seed, num_frames, recorder)
        return run(model, *given, ranks=ranks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, sample_gradient: _Tensor) -> Any:
        model, names, num_frames, ranks = ctx.rest
        wanted = ctx.needs_input_grad[Differentiable.NOT_DIFFERENTIATED :]
        backward = functools.partial(run_backward, model, names, num_frames=num_frames, ranks=ranks)
        found = operators.gradients(ctx, sample_gradient, wanted, backward)
        return (*[None] * Differentiable.NOT_DIFFERENTIATED, *found)


def run_differentiably(
    tensors: Sequence[_Tensor],
    loras: _Loras,
    spec: str,
    compute_dtype: str,
    hidden_states: _Tensor,
    encoder_hidden_states: Optional[_Tensor],
    timestep: Any,
    class_labels: Any,
    seed: Optional[_Tensor],
    num_frames: int,
    recorder: Any = None,
    ranks: Any = None,
) -> _Tensor:
    """One native forward that autograd knows how to go back through."""
    merged = with_loras(tensors, loras)
    model = packed_model(tensors, loras, spec, compute_dtype, merged)
    sample: _Tensor = Differentiable.apply(
        model,
        json.loads(spec)["names"],
        num_frames,
        recorder,
        ranks,
        seed,
        timestep,
        class_labels,
        hidden_states,
        encoder_hidden_states,
        *merged,
    )
    return sample
