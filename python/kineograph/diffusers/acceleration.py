"""accelerate and restore: modules of diffusers that are in place already become native, and diffusers' own again."""

from dataclasses import dataclass, field

import diffusers
from diffusers.models.unets import unet_motion_model
from torch import nn

from . import structure
from .modules import AnimateDiffTransformer3D, TransformerTemporalModel

NATIVE = {
    diffusers.TransformerTemporalModel: TransformerTemporalModel,
    unet_motion_model.AnimateDiffTransformer3D: AnimateDiffTransformer3D,
}
# In the dictionary of a module that accelerate changed.
ACCELERATED = "_kineograph_accelerated"


@dataclass(frozen=True)
class Acceleration:
    """What accelerate did.

    Attributes:
        native: paths of the modules that run natively now.
        not_native: path -> reason, of the temporal modules that go on as diffusers has them. Those whose reason goes
            away (a device, a hook, a processor) run natively from then on.
    """

    native: "list[str]" = field(default_factory=list)
    not_native: "dict[str, str]" = field(default_factory=dict)

    def __str__(self):
        lines = [f"{len(self.native)} temporal modules run natively"]
        lines += [f"  not {path}: {reason}" for path, reason in self.not_native.items()]
        return "\n".join(lines)


def named_modules(x):
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
        if isinstance(component, nn.Module) and not isinstance(component, diffusers.MotionAdapter)
    ]
    return [(f"{name}.{path}".rstrip("."), module) for name, root in roots for path, module in root.named_modules()]


def native_modules(x):
    """(path, module) of the modules with a native forward."""
    return [(path, module) for path, module in named_modules(x) if isinstance(module, tuple(NATIVE.values()))]


def _why_not(module):
    if "forward" in module.__dict__:
        return "its forward was replaced"
    device = next(iter(module.parameters())).device.type
    if device != "cpu":
        return f"its parameters are on {device}"
    return structure.why_not(module)


def accelerate(x):
    """See kineograph.accelerate."""
    done = Acceleration()
    for path, module in named_modules(x):
        if type(module) in NATIVE and "forward" not in module.__dict__:
            module.__class__ = NATIVE[type(module)]
            setattr(module, ACCELERATED, True)
        if type(module) in NATIVE or type(module) in NATIVE.values():
            reason = _why_not(module)
            if reason is None:
                module._spec  # made here, so that a compiled graph finds it
                done.native.append(path)
            else:
                done.not_native[path] = reason
        elif isinstance(module, tuple(NATIVE)):
            done.not_native[path] = f"it is a {type(module).__name__}, whose forward may be another"
    return done


def restore(x):
    """See kineograph.restore."""
    restored = 0
    theirs = {ours: original for original, ours in NATIVE.items()}
    for _, module in named_modules(x):
        if getattr(module, ACCELERATED, False) and type(module) in theirs:
            module.__class__ = theirs[type(module)]
            delattr(module, ACCELERATED)
            for ours in ("_kineograph_spec", "gradient_checkpointing", "_gradient_checkpointing_func"):
                module.__dict__.pop(ours, None)
            restored += 1
    return restored
