"""Records of a module's state, the tree that they make, and the Binding that is made of it.

Everything here is plain values that the walk of eligibility.py wrote down. So a Binding can depend on nothing that the walk
has not seen, and two modules with the same record have the same Binding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from .accounts import ACCOUNTS, SPLIT_INFERENCE, account_of


class NotNative(Exception):
    """The reason why a native forward would not stand for a module."""


class Record(NamedTuple):
    """All that the walk saw of one module.

    Attributes:
        kind: its class.
        names: of its attributes.
        hooked: whether a hook wants to hear of its forward or backward.
        own_forward: whether the forward is its class's.
        values: (name, value) of attributes that are read or required.
        tensors: (name, shape or None) of parameters and buffers.
        children: (name, record or None) of submodules that are called.
        modules: names of all submodules.
    """

    kind: type
    names: "tuple[str, ...]"
    hooked: bool = False
    own_forward: bool = True
    values: "tuple[tuple[str, Any], ...]" = ()
    tensors: "tuple[tuple[str, Any], ...]" = ()
    children: "tuple[tuple[str, Any], ...]" = ()
    modules: "tuple[str, ...]" = ()

    @classmethod
    def of(cls, fields: "tuple[Any, ...]") -> "Record":
        """A record of plain tuples, which is what torch.compile can hand over."""
        record = cls(*fields)
        below = [(name, None if child is None else cls.of(child)) for name, child in record.children]
        return record._replace(children=tuple(below))


@dataclass(frozen=True)
class Weight:
    """The place of a weight of the native model: tensor `index` of the walk, or its rows `part` of `parts`."""

    index: int
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Binding:
    """A native model for modules with one record.

    Attributes:
        spec: {"config", "names"} as JSON: the configuration, and the names of `weights` in diffusers' state dict.
        weights: where the weights are among the walk's tensors.
        loras: (index into weights, index into the walk's LoRA layers) of LoRAs that are added to a weight.
        unmerge: LoRA layers that PEFT's next forward takes out of their weight.
        draws: whether a forward draws dropout or label drops.
        norm_type, discrete, in_channels, inner_dim: as in the configuration.
        context_dim: width that attn2 reads, None without attn2.
        encoder: whether encoder_hidden_states have to be given (True) or missing (False); None where both will do.
        context: (length, stride, weighting) of FreeNoise's windows, None for attention over all frames.
        positions: rows of the position tables, None without; `position_weights` are their indices into `weights`.
        chunks: (size, dim) of feed-forwards that diffusers computes in pieces.
        processors: for each block, the processors of its attentions.
        temporal_chunks: as chunks, of TransformerSpatioTemporalModel's temporal blocks.
        ip_scales: for each block, the scales of its IP-Adapters.
    """

    spec: str
    weights: "tuple[Weight, ...]"
    loras: "tuple[tuple[int, int], ...]"
    unmerge: "tuple[int, ...]"
    draws: bool
    norm_type: str
    discrete: bool
    in_channels: "int | None"
    inner_dim: int
    context_dim: "int | None"
    encoder: "bool | None"
    positions: "int | None"
    position_weights: "tuple[int, ...]"
    chunks: "tuple[tuple[int, int], ...]"
    processors: "tuple[tuple[type, ...], ...]"
    temporal_chunks: "tuple[tuple[int, int], ...]" = ()
    ip_scales: "tuple[tuple[float, ...], ...]" = ()
    context: "tuple[int, int, str] | None" = None


class Node:
    """A record with its path, and the indices of its tensors and LoRAs in the walk. What is computed in pieces is at the
    path of the module that cuts it."""

    record: Record
    path: str
    kind: type
    values: "dict[str, Any]"
    shapes: "dict[str, tuple[int, ...] | None]"
    indices: "dict[str, int]"
    layer: "int | None"
    children: "dict[str, Optional[Node]]"

    def __init__(self, record: Record, path: str, counts: "list[int]"):
        self.record, self.path = record, path
        self.kind, self.values = record.kind, dict(record.values)
        self.shapes = {name: None if shape is None else tuple(shape) for name, shape in record.tensors}
        self.indices = {}
        for name, shape in record.tensors:
            if shape is not None:
                self.indices[name] = counts[0]
                counts[0] += 1
        self.layer = counts[1] if "state" in self.values else None
        counts[1] += self.layer is not None
        cuts = account_of(self.kind) is SPLIT_INFERENCE
        self.children = {
            name: None if child is None else Node(child, path if cuts else f"{path}.{name}" if path else name, counts)
            for name, child in record.children
        }

    def __getitem__(self, name: str) -> "Node":
        child = self.get(name)
        if child is None:
            raise NotNative(f"{self.path or 'it'} has no {name}")
        return child

    def get(self, name: str) -> "Optional[Node]":
        """A submodule that an instance may lack."""
        return self.children.get(name)

    def none_or(self, name: str) -> "Optional[Node]":
        """A submodule that may be None, but has to be there."""
        if name not in self.record.modules and name not in self.record.names:
            raise NotNative(f"{self.path} has no {name}")
        return self.children.get(name)


def class_name(kind: Any) -> str:
    """The name of a class; with its module where a class of the account has the same."""
    name = getattr(kind, "__name__", str(kind))
    known = any(one.__name__ == name and one is not kind for one in ACCOUNTS)
    return f"{kind.__module__}.{name}" if known else name


def must_be(node: Node, kind: Any) -> None:
    """Raises NotNative for a node of another class."""
    if node.kind is not kind:
        raise NotNative(f"{node.path} is a {class_name(node.kind)}")


def expect(node: Node, name: str, value: Any) -> None:
    """Raises NotNative for an attribute of another value."""
    found = node.values.get(name)
    if found != value:
        said = "an epsilon of its own" if name == "eps" else f"a {name} of its own"
        raise NotNative(f"{node.path} has {said}, {found}")
