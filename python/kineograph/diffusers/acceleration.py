"""accelerate and revert: modules of diffusers that are in place already become native, and diffusers' own again."""

import inspect
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import nn

from . import arguments, eligibility, upstream
from .modules import EXCHANGE, AnimateDiffTransformer3D, NativeForward, TransformerTemporalModel
from .native import runs_spatial
from .spatial import NativeSpatial, Transformer2DModel, TransformerSpatioTemporalModel

NATIVE: "dict[type, type]" = {
    upstream.TransformerTemporalModel: TransformerTemporalModel,
    upstream.AnimateDiffTransformer3D: AnimateDiffTransformer3D,
    upstream.Transformer2DModel: Transformer2DModel,
    upstream.TransformerSpatioTemporalModel: TransformerSpatioTemporalModel,
}
# Names of `Acceleration` for the modules of a class, and for spatial ones the library's class that runs them.
_KINDS = {
    upstream.TransformerTemporalModel: ("temporal module", None),
    upstream.AnimateDiffTransformer3D: ("temporal module", None),
    upstream.Transformer2DModel: ("spatial transformer", "Model2D"),
    upstream.TransformerSpatioTemporalModel: ("spatio-temporal transformer", "SpatioTemporalModel"),
}
# In the dictionary of a module that accelerate changed.
ACCELERATED = "_kineograph_accelerated"

# Of a UNet that parallelize spreads over processes: its hooks, and the like, each with a `remove`.
PARALLEL = "_kineograph_parallel"


@dataclass(frozen=True)
class Acceleration:
    """The result of accelerate.

    Attributes:
        native: paths of the modules that run natively now.
        not_native: path -> reason, of the modules that go on as diffusers has them. Those whose reason goes
            away (a device, a hook, a processor) run natively from then on.
        kinds: how many of `native` are temporal modules, spatial transformers and spatio-temporal transformers; a kind
            of which there is none is not there.
    """

    native: "list[str]" = field(default_factory=list)
    not_native: "dict[str, str]" = field(default_factory=dict)
    kinds: "dict[str, int]" = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{count} {kind} runs natively" if count == 1 else f"{count} {kind}s run natively"
            for kind, count in self.kinds.items()
        ] or ["no module runs natively"]
        lines += [f"  not {path}: {reason}" for path, reason in self.not_native.items()]
        return "\n".join(lines)


def named_modules(x: Any) -> "list[tuple[str, nn.Module]]":
    """(path, module) of everything in a pipeline, or in a module."""
    if isinstance(x, nn.Module):
        return list(x.named_modules())
    components = getattr(x, "components", None)
    if not isinstance(components, dict):
        raise TypeError(f"expected a diffusers pipeline or a torch module, found {type(x).__name__}")
    # A pipeline keeps the adapter that its UNet's motion modules were copied from, and never runs it.
    roots = [
        (name, component)
        for name, component in components.items()
        if isinstance(component, nn.Module) and not isinstance(component, upstream.MotionAdapter)
    ]
    return [(f"{name}.{path}".rstrip("."), module) for name, root in roots for path, module in root.named_modules()]


def native_modules(x: Any) -> "list[tuple[str, nn.Module]]":
    """(path, module) of the modules with a native forward."""
    return [(path, module) for path, module in named_modules(x) if isinstance(module, NativeForward)]


def _drop_own_forward(module: nn.Module) -> None:
    """Takes the forward out of a module's dictionary where it is its class's, or that of the class it stands for: what
    accelerate's and diffusers' hooks leave behind. The class's own takes its place."""
    forward = module.__dict__.get("forward")
    kinds = (type(module), *NATIVE, *NATIVE.values())
    if isinstance(forward, MethodType) and forward.__self__ is module:
        if any(forward.__func__ is kind.__dict__.get("forward") for kind in kinds):
            del module.__dict__["forward"]


def _around_native(module: nn.Module) -> bool:
    """Whether the forward in a module's dictionary is a hook around the native one, as far as it says: accelerate's and
    diffusers' hooks keep what they wrap in __wrapped__."""
    innermost = inspect.unwrap(module.__dict__["forward"])
    return (
        isinstance(module, (NativeForward, NativeSpatial))
        and getattr(innermost, "__func__", None) is type(module).forward
    )


def _why_not(module: nn.Module) -> "str | None":
    """Why the module's next forward will not be native, as far as that depends on the module."""
    if "forward" in module.__dict__ and not _around_native(module):
        return "its forward was replaced; accelerate before hooks are put on, or take them off"
    found = eligibility.examine(module)
    if isinstance(found, str):
        return found
    with torch.no_grad():
        weights = found.weights()
    return arguments.why_not_these_weights(weights) or arguments.why_not_these_factors(found.loras())


def _kind_of(module: nn.Module) -> "tuple[str, str | None] | None":
    """The name of a module's kind, and the library's class that runs it: see _KINDS."""
    return next((kind for original, kind in _KINDS.items() if isinstance(module, original)), None)


def accelerate(x: Any, spatial: bool = True) -> Acceleration:
    """See kineograph.accelerate."""
    done = Acceleration()
    for path, module in named_modules(x):
        kind = _kind_of(module)
        if kind is None or kind[1] is not None and not (spatial and runs_spatial(kind[1])):
            continue
        if type(module) in NATIVE:
            _drop_own_forward(module)
            if "forward" not in module.__dict__:
                module.__class__ = NATIVE[type(module)]
                setattr(module, ACCELERATED, True)
        if type(module) in NATIVE or isinstance(module, (NativeForward, NativeSpatial)):
            reason = _why_not(module)
        else:
            reason = f"it is a {type(module).__name__}, whose forward may be another"
        if reason is None:
            done.native.append(path)
            done.kinds[kind[0]] = done.kinds.get(kind[0], 0) + 1
        else:
            done.not_native[path] = reason
    return done


def revert(x: Any) -> int:
    """See kineograph.revert."""
    reverted = 0
    for _, module in named_modules(x):
        for hook in module.__dict__.pop(PARALLEL, ()):
            hook.remove()
    shared = [path for path, module in named_modules(x) if EXCHANGE in module.__dict__]
    if shared:
        raise ValueError(
            f"expected the whole UNet that parallelize spreads over processes, found {len(shared)} of its temporal modules: "
            f"{shared[0]}"
        )
    theirs = {ours: original for original, ours in NATIVE.items()}
    for _, module in named_modules(x):
        if getattr(module, ACCELERATED, False) and type(module) in theirs:
            _drop_own_forward(module)
            module.__class__ = theirs[type(module)]
            for name in [name for name in module.__dict__ if name.startswith("_kineograph_")]:
                delattr(module, name)
            reverted += 1
    return reverted
