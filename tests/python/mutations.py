"""A walk over everything reachable from a module, and the changes that can be made to what it finds.

Nothing is taken from a list of attributes: what is in the dictionaries of a module, of its parts and of the objects in
them is changed by its type. A Mutation changes one thing in one module; made to two copies it changes the same.
"""

import copy
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CONTENT = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Mutation:
    """`kind`: what is changed, as class and attribute, without the place. `change` is made to the whole module."""

    path: str
    kind: str
    how: str
    change: Callable[[nn.Module], Any]

    def __str__(self) -> str:
        return f"{self.path or 'the module'}: {self.kind}, {self.how}"


def scaled(value: Any) -> Any:
    return value * 3 if value else value + 1


def wrapped(module: nn.Module) -> nn.Module:
    return nn.Sequential(module)


def another(module: nn.Module) -> nn.Module:
    """Another module of the same kind, with other parameters."""
    made = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def of_a_subclass(module: nn.Module) -> nn.Module:
    """The same module as an instance of a subclass whose forward gives something else."""
    made = copy.copy(module)
    made.__class__ = type(
        "Mine", (type(module),), {"forward": lambda self, *a, **k: _times(super(type(self), self).forward(*a, **k))}
    )
    return made


def _times(given: Any) -> Any:
    return given * 1.5 if isinstance(given, torch.Tensor) else given


def _louder(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives one and a half times what another gives."""

    def louder(*arguments: Any, **more: Any) -> Any:
        return _times(function(*arguments, **more))

    return louder


TENSORS: "dict[str, Callable[[torch.Tensor], Any]]" = {
    "scaled": lambda tensor: tensor.detach() * 1.5,
    "longer": lambda tensor: torch.cat([tensor.detach(), tensor.detach()[:1]]) if tensor.ndim else tensor.detach(),
    "shorter": lambda tensor: tensor.detach()[:-1].clone() if tensor.ndim else tensor.detach(),
    "wider": lambda tensor: torch.cat([tensor.detach()] * 2, -1) if tensor.ndim else tensor.detach(),
    "one number": lambda tensor: tensor.detach().flatten()[:1].clone(),
    "float64": lambda tensor: tensor.detach().double(),
    "bfloat16": lambda tensor: tensor.detach().bfloat16(),
    "strided": lambda tensor: torch.stack([tensor.detach(), tensor.detach()], -1)[..., 0],
    "negative": lambda tensor: torch._neg_view(tensor.detach()),
    "None": lambda tensor: None,
}


def _values(value: Any) -> "Iterator[tuple[str, Callable[[Any], Any]]]":
    """(how, function of the old value) of all changes of a plain value."""
    if isinstance(value, bool):
        yield "flipped", lambda old: not old
    elif isinstance(value, (int, float)):
        yield "scaled", scaled
        yield "negative", lambda old: -old - 1
        yield "None", lambda old: None
    elif value is None:
        yield "one", lambda old: 1
        yield "a number", lambda old: 0.5
        yield "a module", lambda old: nn.Tanh()
        yield "a function", lambda old: _times
    elif isinstance(value, str):
        yield "another word", lambda old: "another"
        yield "None", lambda old: None
    elif isinstance(value, (tuple, torch.Size)):
        yield "empty", lambda old: ()
        if value and all(isinstance(one, int) for one in value):
            yield "scaled", lambda old: tuple(2 * one for one in old)
    elif isinstance(value, list):
        yield "empty", lambda old: []
        yield "twice", lambda old: [*old, *old]
        if not value:
            yield "one more", lambda old: ["a"]
    elif isinstance(value, torch.Tensor):
        yield from TENSORS.items()
    elif isinstance(value, torch.device | torch.dtype):
        yield "None", lambda old: None
    elif not isinstance(value, (dict, set, types.FunctionType, types.MethodType, type)):
        yield "of a subclass", _as_subclass
        yield "None", lambda old: None
    else:
        yield "None", lambda old: None


def _as_subclass(value: Any) -> Any:
    """An object of the same content, whose class is a subclass that answers differently where it is called."""
    namespace = {"__call__": _louder(type(value).__call__)} if callable(value) else {}
    made = copy.copy(value)
    made.__class__ = type("Mine", (type(value),), namespace)
    return made


def part(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


def _attribute(path: str, kind: str, name: str, how: str, change: Callable[[Any], Any]) -> Mutation:
    def apply(model: nn.Module) -> None:
        one = part(model, path)
        one.__dict__[name] = change(one.__dict__[name])

    return Mutation(path, f"{kind}.{name}", how, apply)


def _of_attributes(path: str, module: nn.Module, kind: str) -> "Iterator[Mutation]":
    for name, value in module.__dict__.items():
        if name in CONTENT:
            continue
        for how, change in _values(value):
            yield _attribute(path, kind, name, how, change)
        if isinstance(value, dict):
            yield from _of_entries(path, kind, name, value)
        elif hasattr(value, "__dict__") and not isinstance(value, (types.FunctionType, types.MethodType, type)):
            yield from _of_objects(path, kind, name, value)


def _of_entries(path: str, kind: str, name: str, entries: "dict[Any, Any]") -> "Iterator[Mutation]":
    """Of a dictionary in a module: its entries, and one more."""
    for key, value in entries.items():
        for how, change in _values(value):

            def apply(model: nn.Module, key: Any = key, change: Any = change) -> None:
                held = part(model, path).__dict__[name]
                held[key] = change(held[key])

            yield Mutation(path, f"{kind}.{name}[]", how, apply)
    yield Mutation(path, f"{kind}.{name}[]", "one more", lambda model: part(model, path).__dict__[name].update(a=1))


def _of_objects(path: str, kind: str, name: str, held: Any) -> "Iterator[Mutation]":
    """Of an object in a module, such as an attention processor: its attributes, a new one, its methods."""
    inner = f"{kind}.{name}({type(held).__name__})"
    for key, value in vars(held).items():
        for how, change in _values(value):

            def apply(model: nn.Module, key: str = key, change: Any = change) -> None:
                one = vars(part(model, path).__dict__[name])
                one[key] = change(one[key])

            yield Mutation(path, f"{inner}.{key}", how, apply)

    def add(model: nn.Module) -> None:
        vars(part(model, path).__dict__[name])["mine"] = 1

    yield Mutation(path, f"{inner}.mine", "added", add)


def _of_tensors(path: str, module: nn.Module, kind: str) -> "Iterator[Mutation]":
    for content in ("_parameters", "_buffers"):
        for name, tensor in module.__dict__[content].items():
            if tensor is None:
                continue
            for how, change in TENSORS.items():

                def replace(model: nn.Module, content: str = content, name: str = name, change: Any = change) -> None:
                    held = part(model, path).__dict__[content]
                    made = change(held[name])
                    is_parameter = content == "_parameters" and made is not None
                    held[name] = nn.Parameter(made) if is_parameter else made

                yield Mutation(path, f"{kind}.{name}", how, replace)
            yield from _in_place(path, f"{kind}.{name}", name)
    yield Mutation(
        path, f"{kind}._buffers", "one more", lambda model: part(model, path).register_buffer("mine", torch.ones(1))
    )


def _in_place(path: str, kind: str, name: str) -> "Iterator[Mutation]":
    def scale(model: nn.Module) -> None:
        getattr(part(model, path), name).data.mul_(1.5)

    def one_element(model: nn.Module) -> None:
        getattr(part(model, path), name).data.view(-1)[-1] += 2

    def trained(model: nn.Module) -> None:
        tensor = getattr(part(model, path), name)
        tensor.requires_grad_(not tensor.requires_grad)

    yield Mutation(path, kind, "scaled in place", scale)
    yield Mutation(path, kind, "one element", one_element)
    yield Mutation(path, kind, "requires_grad", trained)


def _of_modules(path: str, module: nn.Module, kind: str) -> "Iterator[Mutation]":
    changes: dict[str, Callable[[nn.Module], Any]] = {
        "another": another,
        "wrapped": wrapped,
        "of a subclass": of_a_subclass,
        "None": lambda old: None,
    }
    for name, child in module._modules.items():
        if child is None:
            continue
        for how, change in changes.items():

            def replace(model: nn.Module, name: str = name, change: Any = change) -> None:
                held = part(model, path)._modules
                held[name] = change(held[name])

            yield Mutation(path, f"{kind}.{_shown(name)}", how, replace)
        yield Mutation(
            path, f"{kind}.{_shown(name)}", "removed", lambda model, name=name: part(model, path)._modules.pop(name)
        )
    yield Mutation(path, f"{kind}.mine", "one more", lambda model: part(model, path).add_module("mine", nn.Tanh()))


def _shown(name: str) -> str:
    return "[]" if name.isdigit() else name


HOOKS: "dict[str, Callable[[nn.Module], Any]]" = {
    "forward hook": lambda one: one.register_forward_hook(lambda module, given, output: _times(output)),
    "forward pre-hook": lambda one: one.register_forward_pre_hook(
        lambda module, given: tuple(_times(each) for each in given) or None
    ),
    "full backward hook": lambda one: one.register_full_backward_hook(
        lambda module, inward, outward: tuple(_times(each) for each in inward)
    ),
    "full backward pre-hook": lambda one: one.register_full_backward_pre_hook(
        lambda module, outward: tuple(_times(each) for each in outward)
    ),
    "state dict hook": lambda one: one.register_state_dict_post_hook(lambda *given: None),
}


def _of_hooks(path: str, module: nn.Module, kind: str) -> "Iterator[Mutation]":
    for how, put in HOOKS.items():
        yield Mutation(path, f"{kind} hooks", how, lambda model, put=put: put(part(model, path)))


def _of_methods(path: str, module: nn.Module, kind: str) -> "Iterator[Mutation]":
    """Every method that the class has beyond nn.Module, replaced in the instance by one that answers differently."""
    names = {
        name
        for base in type(module).__mro__
        if base is not nn.Module and issubclass(base, nn.Module)
        for name, value in vars(base).items()
        if isinstance(value, types.FunctionType) and not name.startswith("_")
    }
    for name in sorted(names | {"forward"}):

        def replace(model: nn.Module, name: str = name) -> None:
            one = part(model, path)
            one.__dict__[name] = _louder(getattr(one, name))

        yield Mutation(path, f"{kind}.{name}()", "replaced", replace)


def mutations(model: nn.Module) -> "list[Mutation]":
    """All changes of everything reachable from `model`."""
    found: list[Mutation] = []
    for path, module in model.named_modules():
        kind = type(module).__name__
        found += [*_of_attributes(path, module, kind), *_of_tensors(path, module, kind)]
        found += [*_of_modules(path, module, kind), *_of_hooks(path, module, kind), *_of_methods(path, module, kind)]
        found += [
            Mutation(path, f"{kind}.mine", "added", lambda model, path=path: vars(part(model, path)).update(mine=1))
        ]
        found += [Mutation(path, f"{kind}.training", "train()", lambda model, path=path: part(model, path).train())]
    return found
