"""Native forwards over torch's tensors: packed models that follow the parameters, and the custom operator."""

import json
import threading
from typing import List, Optional

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .. import _native, statistics, threads

# First weight -> {(specification, compute dtype): Packed}. An entry goes when its model's parameters go.
_packed = WeakIdKeyDictionary()
_lock = threading.Lock()


class Packed:
    """A native model, and what its weights were when it was made."""

    def __init__(self):
        self.lock = threading.Lock()
        self.mark = None
        self.model = None


def _mark(tensors, loras):
    """Changes whenever a weight does, however it was changed: `p.data` and optimizers of others leave no other trace.

    Reading all weights costs what one tile of a forward costs for reading them.
    """
    read = [tensor.detach() for tensor in tensors]
    factors = []
    for index, layer in loras:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                read += [layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()]
                factors.append((index, name, layer.scaling[name]))
    addresses = [tensor.data_ptr() for tensor in read]
    content = _native.fingerprint(addresses, [tensor.nbytes for tensor in read])
    return addresses, [tensor.dtype for tensor in read], factors, content


def _with_loras(tensors, loras):
    """W + the deltas of the active adapters, in f32 and rounded once, as PEFT's own merge of a f32 base."""
    merged = list(tensors)
    for index, layer in loras:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                delta = layer.get_delta_weight(name).to(torch.float32)
                merged[index] = merged[index].to(torch.float32) + delta
        merged[index] = merged[index].to(tensors[index].dtype)
    return merged


@torch.no_grad()
def packed_model(tensors, loras, spec, compute_dtype):
    """The native model of these weights: the one from before while they are what they were then, else a new one."""
    with _lock:
        entry = _packed.setdefault(tensors[0], {}).setdefault((spec, compute_dtype), Packed())
    mark = _mark(tensors, loras)
    with entry.lock:
        if entry.mark != mark:
            entry.model = None  # its memory first
            parsed = json.loads(spec)
            values = [tensor.detach() for tensor in _with_loras(tensors, loras)]
            entry.model = _native.Model.from_state_dict(
                json.dumps(parsed["config"]), list(zip(parsed["names"], values)), "auto", compute_dtype, ""
            )
            entry.mark = mark
        return entry.model


def run(model, hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, recorder=None):
    """One native forward; any tensor may require gradients, none are recorded."""
    given = [None if x is None else x.detach() for x in (hidden_states, encoder_hidden_states, timestep, class_labels)]
    config = model.config if given[0].dtype == torch.int64 else None
    if config is None:
        out = torch.empty(given[0].shape, dtype=given[0].dtype)
    else:
        classes = json.loads(config)["num_vector_embeds"] - 1
        out = torch.empty((given[0].shape[0], classes, given[0].shape[1]))
    threads_to_use = threads.num_threads(torch.get_num_threads())
    model.forward(given[0], num_frames, given[1], given[2], given[3], {}, out, recorder, threads_to_use)
    statistics.count_native()
    return out


@torch.library.custom_op("kineograph::transformer_temporal", mutates_args=())
def transformer_temporal(hidden_states: torch.Tensor, encoder_hidden_states: Optional[torch.Tensor],
                         timestep: Optional[torch.Tensor], class_labels: Optional[torch.Tensor],
                         weights: List[torch.Tensor], spec: str, compute_dtype: str,
                         num_frames: int) -> torch.Tensor:  # fmt: skip
    """A TransformerTemporalModel as one operator, for torch.compile and torch.export: `weights` are the tensors of
    spec's names (see structure.specification)."""
    model = packed_model(list(weights), [], spec, compute_dtype)
    return run(model, hidden_states, encoder_hidden_states, timestep, class_labels, num_frames)


@transformer_temporal.register_fake
def _(hidden_states, encoder_hidden_states, timestep, class_labels, weights, spec, compute_dtype, num_frames):
    config = json.loads(spec)["config"]
    if config.get("num_vector_embeds") is None:
        return hidden_states.new_empty(hidden_states.shape)
    shape = (hidden_states.shape[0], config["num_vector_embeds"] - 1, hidden_states.shape[1])
    return hidden_states.new_empty(shape, dtype=torch.float32)
