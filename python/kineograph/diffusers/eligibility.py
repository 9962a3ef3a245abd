"""Whether a native forward stands for a module as it is now: the walk over its state, held against the account.

A module is looked at anew in every call. `record` writes down all that the account calls read or required, `judge` says
what is wrong with a record or makes a Binding of it, and depends on the record alone. `examine` is the quick way to the
same answer: it walks the module once more, in a few microseconds a class, to a key that holds everything a record
holds, and looks the Binding of that key up. Whatever the quick walk has not seen before goes the long way.
"""

import contextlib
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Union

import torch
from torch import nn

from . import upstream
from .accounts import CONTENT, HOOKS, MODULE, PROCESSORS, Account, account_of, replaced_function
from .records import Binding, NotNative, Record, class_name
from .spatial_specification import bind

__all__ = ["Eligible", "examine", "judge", "record"]

# Attributes may hold anything; these are what a value can be known by.
_PLAIN = (bool, int, float, str, torch.Size, type(None))


# Errors of reading a state that nothing in diffusers makes: its own forward says what it thinks of that.
_UNREADABLE = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)


def _unreadable(error: Exception) -> str:
    return f"its state cannot be read ({type(error).__name__})"


class Eligible:
    """A module that runs natively: its Binding, and what the walk found, in the walk's order.

    Attributes:
        binding: what the native model is.
        tensors: every parameter and buffer; `binding.weights` says which are the model's.
        layers: every LoRA of PEFT; `binding.loras` are indices into it.
    """

    __slots__ = ("binding", "tensors", "layers")
    binding: Binding
    tensors: "list[torch.Tensor]"
    layers: "list[Any]"

    def __init__(self, binding: Binding, tensors: "list[torch.Tensor]", layers: "list[Any]"):
        self.binding, self.tensors, self.layers = binding, tensors, layers

    def weights(self) -> "list[torch.Tensor]":
        """The weights of the native model, in the order of the specification's names."""
        found = []
        for weight in self.binding.weights:
            tensor = self.tensors[weight.index]
            if weight.parts > 1:
                rows = tensor.shape[0] // weight.parts
                tensor = tensor[weight.part * rows : (weight.part + 1) * rows]
            found.append(tensor)
        return found

    def loras(self) -> "list[tuple[int, Any]]":
        """(index of the weight, PEFT's layer) of LoRAs that are added to a weight."""
        return [(weight, self.layers[layer]) for weight, layer in self.binding.loras]


# --- the long way: also what torch.compile traces --------------------------------------------------------------------


def _known(value: Any) -> Any:
    """A value as a record holds it: itself where it is plain, else the class that it is of."""
    if isinstance(value, float):
        # torch.compile may trace a float as a symbol. A key of a dictionary is a number again, with a guard.
        return tuple({value + 0.0: None})[0]
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (tuple, list)) and all(isinstance(one, _PLAIN) for one in value):
        return tuple(value)
    if isinstance(value, set) and all(isinstance(one, str) for one in value):
        return tuple(sorted(value))
    return type(value)


def _processor(processor: Any) -> "tuple[Any, ...]":
    """(class, names of its attributes, values of those that are read) of an attention processor."""
    known = PROCESSORS.get(type(processor))
    if known is None:
        return (type(processor), (), ())
    values = tuple(_known(getattr(processor, name)) for name in known.read)
    return (type(processor), tuple(processor.__dict__), values)


def peft_state(layer: Any) -> "tuple[tuple[Any, ...], list[tuple[str, Any]]]":
    """All that PEFT's own forward of a LoRA around a Linear reads: (values, the modules it calls besides base_layer).

    A disabled layer computes its base, after it has taken the merged adapters out; a merged one its base as it is,
    whichever adapters those are; any other adds the active adapters that it has, one after the other."""
    active = layer._active_adapter
    active = (active,) if isinstance(active, str) else tuple(active)
    disabled, merged = bool(layer._disable_adapters), tuple(layer.merged_adapters)
    if disabled or merged:
        return (disabled, merged, ()), []
    values: list[Any] = []
    called: list[tuple[str, Any]] = []
    for name in active:
        if name in layer.lora_A.keys():  # noqa: SIM118 (PEFT asks so, and refuses what is no dictionary)
            scaling = layer.scaling[name]
            one = isinstance(scaling, torch.Tensor) and scaling.numel() == 1 and not scaling.requires_grad
            variant = name in getattr(layer, "lora_variant", ()) or bool(layer.use_dora.get(name, False))
            values.append((name, one or isinstance(scaling, (int, float)), variant))
            called += [
                (f"lora_dropout.{name}", layer.lora_dropout[name]),
                (f"lora_A.{name}", layer.lora_A[name]),
                (f"lora_B.{name}", layer.lora_B[name]),
            ]
    return (disabled, merged, tuple(values)), called


def record(module: Any, tensors: "list[torch.Tensor]", parts: "list[Any]", inside: bool = False) -> "tuple[Any, ...]":
    """All that the account speaks of in `module` and below, as plain values: the fields of a Record. Appends the tensors
    and the modules that it passes to the two lists.

    Plain enough for torch.compile to trace, which guards on what is read here: a compiled graph is made anew when one
    of these values changes."""
    kind = type(module)
    account = account_of(kind)
    names = tuple(module.__dict__)
    parts.append(module)
    if account is None:
        return (kind, names)
    if torch.compiler.is_dynamo_compiling():
        for name in account.methods:
            # torch guards on what a look-up of a method finds, and not on what a dictionary holds.
            getattr(module, name, None)
    hooked = inside and any(bool(getattr(module, name)) for name in HOOKS)
    own = not any(name in module.__dict__ for name in account.methods) or _is_own_forward(module)
    values = []
    for name in (*account.read, *account.required):
        if hasattr(module, name):
            value = getattr(module, name)
            values.append((name, _processor(value) if name == "processor" else _known(value)))
    for name in account.children or ():
        if name in module.__dict__:
            values.append((name, _known(module.__dict__[name])))
    held = []
    for content in (module._parameters, module._buffers):
        for name, tensor in content.items():
            held.append((name, None if tensor is None else tensor.shape))
            if tensor is not None:
                tensors.append(tensor)
    children = [(name, child) for name, child in module._modules.items() if name not in account.unread]
    if kind is upstream.peft_linear():
        state, more = peft_state(module)
        values.append(("state", state))
        children += more
    below = [(name, None if child is None else record(child, tensors, parts, True)) for name, child in children]
    return (kind, names, hooked, own, tuple(values), tuple(held), tuple(below), tuple(module._modules))


def _is_own_forward(module: Any) -> bool:
    """Whether the forward in the module's dictionary is its class's: what is left when a hook was taken off."""
    if torch.compiler.is_dynamo_compiling():
        return False
    forward = module.__dict__.get("forward")
    function = getattr(type(module), "forward", None)
    return getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) is function


def _check(path: str, found: Record, inside: bool) -> None:
    """Raises NotNative for anything in a record that is not in the account."""
    account = account_of(found.kind)
    said = path or "it"
    if account is None:
        raise NotNative(f"{said} is a {class_name(found.kind)}")
    if found.hooked:
        raise NotNative(f"{said} has hooks")
    if inside and not found.own_forward:
        raise NotNative(f"{said} has a forward or method of its own")
    called = account.children or ()
    accounted = {
        *CONTENT,
        *HOOKS,
        *MODULE,
        *account.read,
        *account.required,
        *account.without_effect,
        *called,
        "forward",
    }
    for name in found.names:
        if name not in accounted:
            raise NotNative(f"{said} has an attribute of its own, {name}")
    for name, value in found.values:
        required = None if name in called else account.required.get(name, value)
        if not _equal(value, required):
            raise NotNative(f"{said} has {name} {getattr(value, '__name__', value)}")
    for name, _ in found.tensors:
        if name not in account.parameters:
            raise NotNative(f"{said} has a parameter or buffer of its own, {name}")
    children = dict(found.children)
    for name in found.modules:
        known = account.children is None or name in called or name in account.unread or name in account.either
        if name in found.names or not known and children[name] is not None:
            raise NotNative(f"{said} has a module of its own, {name}")
    for name, child in found.children:
        if child is not None:
            _check(f"{path}.{name}" if path else name, child, True)


def _equal(value: Any, required: Any) -> bool:
    if isinstance(required, set):
        return bool(value == tuple(sorted(required)))
    return bool(value == required)


def judge(fields: "tuple[Any, ...]") -> Union[str, Binding]:
    """Why a native forward does not stand for a module with this record, or what the native model is."""
    found = Record.of(fields)
    try:
        _check("", found, False)
        return bind(found)
    except NotNative as reason:
        return str(reason)
    except _UNREADABLE as error:  # a value of a class or range that no forward has
        return _unreadable(error)


# --- the quick way ---------------------------------------------------------------------------------------------------


class _Layout:
    """How instances of a class hold their state: the names in their dictionaries. Made from an instance that the long
    way found in order, and a part of the key: an instance with other names has another layout, or none."""

    def __init__(self, module: nn.Module, account: Account):
        state = module.__dict__
        self.size = len(state)
        self.parameters = tuple(module._parameters)
        self.buffers = tuple(module._buffers)
        self.children = tuple(module._modules)
        self.called = tuple(name not in account.unread for name in self.children)
        self.all_called = all(self.called)
        self.processor = "processor" in state and "processor" in account.read
        self.peft = type(module) is upstream.peft_linear()
        first = (*CONTENT, *HOOKS)
        required = [name for name in account.required if name in state]
        absent = [name for name in (account.children or ()) if name in state]
        read = [name for name in account.read if name in state and name != "processor" and not self.peft]
        read += ["processor"] * self.processor
        rest = [name for name in state if name not in {*first, *required, *absent, *read}]
        self.fixed = slice(len(first), len(first) + len(required) + len(absent))
        self.read = slice(self.fixed.stop, self.fixed.stop + len(read))
        self.wanted = tuple(account.required[name] for name in required) + (None,) * len(absent)
        # Of every name: one that is missing is a KeyError, and with the size there can be no other.
        names = [*first, *required, *absent, *read, *rest]
        self.get = itemgetter(names[0], names[1], *names[2:])


# Class -> names of the dictionary, of parameters, buffers and submodules -> how to look.
_layouts: "dict[type, dict[tuple[Any, ...], _Layout]]" = {}
_bindings: "dict[tuple[Any, ...], Binding]" = {}
_MOST_BINDINGS = 4096  # a UNet has some twenty; what changes them without end must not fill the memory
# Classes of values that a key can hold: compared and hashed by value.
_KEYS = frozenset((bool, int, float, str, tuple, torch.Size, type(None)))
_FIXED = _KEYS | {set}


class _Unseen(Exception):
    """Something that the quick walk has not seen before, or that is not in order."""


def _layout_of(module: Any) -> "tuple[_Layout, tuple[Any, ...]]":
    """The layout of a module, and the values of its dictionary in the layout's order."""
    state = module.__dict__
    for layout in _layouts.get(type(module), {}).values():
        if layout.size == len(state):
            try:
                found = layout.get(state)
            except KeyError:
                continue
            if tuple(found[2]) == layout.children:
                return layout, found
    raise _Unseen


def _look(module: Any, key: "list[Any]", tensors: "list[torch.Tensor]", layers: "list[Any]", inside: bool) -> None:
    """Appends to `key` all that `record` would hold of `module` and below, and to the lists what it would."""
    layout, found = _layout_of(module)
    parameters, buffers, children, hooks, pre_hooks, backward_hooks, backward_pre_hooks = found[:7]
    if inside and (hooks or pre_hooks or backward_hooks or backward_pre_hooks):
        raise _Unseen
    key.append(layout)
    fixed = found[layout.fixed]
    if fixed:
        if fixed != layout.wanted:
            raise _Unseen
        for value in fixed:
            if type(value) not in _FIXED:
                raise _Unseen
    values = found[layout.read]
    if layout.processor:
        values = (*values[:-1], *_processor(values[-1]))
        key.append(values)
        values = values[:-3]
    for value in values:
        if type(value) is list or type(value) is set:
            value = _known(value)
        if type(value) not in _KEYS:
            raise _Unseen
        key.append(value)
    if tuple(parameters) != layout.parameters or tuple(buffers) != layout.buffers:
        raise _Unseen
    for tensor in parameters.values():
        if tensor is None:
            key.append(None)
        else:
            key.append(tensor.shape)
            tensors.append(tensor)
    for tensor in buffers.values():
        key.append(tensor.shape)
        tensors.append(tensor)
    below: Iterable[Any] = children.values()
    if not layout.all_called:
        below = [child for child, called in zip(below, layout.called) if called]
    for child in below:
        if child is None:
            key.append(None)
        else:
            _look(child, key, tensors, layers, True)
    if layout.peft:
        layers.append(module)
        state, more = peft_state(module)
        key.append(state)
        for _, child in more:
            _look(child, key, tensors, layers, True)


# Errors of the quick walk; the long way then says what is out of order.
_STUMBLES = (_Unseen, KeyError, AttributeError, TypeError, RuntimeError)


def _learn(parts: "list[Any]") -> bool:
    """Makes layouts of the modules of a walk that the long way found in order. False where one of them has a forward in
    its dictionary, which has to be looked at each time."""
    if any("forward" in part.__dict__ for part in parts[1:]):
        return False
    for part in parts:
        account = account_of(type(part))
        assert account is not None
        names = (frozenset(part.__dict__), tuple(part._parameters), tuple(part._buffers), tuple(part._modules))
        known = _layouts.setdefault(type(part), {})
        if names not in known:
            known[names] = _Layout(part, account)
    return True


def examine(module: Any) -> Union[str, Eligible]:
    """Why a native forward would not stand for `module` as it is built now, or all that it needs to."""
    if torch.compiler.is_dynamo_compiling():
        return _examine_traced(module)
    replaced = replaced_function()
    if replaced is not None:
        return f"{replaced} was replaced"
    if nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "hooks on all modules are registered"
    key: list[Any] = []
    tensors: list[torch.Tensor] = []
    layers: list[Any] = []
    try:
        _look(module, key, tensors, layers, False)
        binding = _bindings.get(tuple(key))
        if binding is not None:
            return Eligible(binding, tensors, layers)
    except _STUMBLES:
        pass
    return _examine_anew(module)


def _examine_anew(module: Any) -> Union[str, Eligible]:
    """The long way, and what the quick one has to know to come to the same next time."""
    tensors: list[torch.Tensor] = []
    parts: list[Any] = []
    try:
        fields = record(module, tensors, parts)
    except _UNREADABLE as error:
        return _unreadable(error)
    verdict = judge(fields)
    if isinstance(verdict, str):
        return verdict
    if _learn(parts):
        key: list[Any] = []
        with contextlib.suppress(*_STUMBLES):
            _look(module, key, [], [], False)
            if len(_bindings) >= _MOST_BINDINGS:
                _bindings.clear()
            _bindings[tuple(key)] = verdict
    return Eligible(verdict, tensors, _peft_layers(parts))


def _peft_layers(parts: "list[Any]") -> "list[Any]":
    kind = upstream.peft_linear()
    return [part for part in parts if type(part) is kind]


# --- while torch.compile traces --------------------------------------------------------------------------------------


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _judge_traced(fields: "tuple[Any, ...]") -> Union[str, Binding]:
    """`judge`, not traced: a constant of the graph, which the guards on the record's values keep true."""
    replaced = replaced_function()
    return f"{replaced} was replaced" if replaced is not None else judge(fields)


def _examine_traced(module: Any) -> Union[str, Eligible]:
    tensors: list[torch.Tensor] = []
    parts: list[Any] = []
    verdict = _judge_traced(record(module, tensors, parts))
    if isinstance(verdict, str):
        return verdict
    if verdict.unmerge:
        return "it has a LoRA that PEFT takes out of the weights, in a compiled graph"
    return Eligible(verdict, tensors, _peft_layers(parts))
