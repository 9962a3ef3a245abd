"""The parts of a UNet that processes may share: which of its modules see frames one by one, and videos one by one."""

from collections.abc import Iterator
from typing import Any, Optional

from torch import nn

from . import upstream

# Modules that mix frames, whose work is exchanged.
TEMPORAL: "tuple[type, ...]" = (
    upstream.TransformerTemporalModel,
    upstream.AnimateDiffTransformer3D,
    upstream.TemporalConvLayer,
    upstream.I2VGenXLTransformerTemporalEncoder,
)
# diffusers' classes by name, since their files differ between its versions. First those that only hold others:
_HOLDING = {
    *("DownBlockMotion", "CrossAttnDownBlockMotion", "UpBlockMotion", "CrossAttnUpBlockMotion"),
    *("UNetMidBlockCrossAttnMotion", "UNetMidBlock2DCrossAttn"),
    *("DownBlock3D", "CrossAttnDownBlock3D", "UpBlock3D", "CrossAttnUpBlock3D", "UNetMidBlock3DCrossAttn"),
}
_BY_FRAME = {
    *("ResnetBlock2D", "Downsample2D", "Upsample2D", "Transformer2DModel", "DualTransformer2DModel"),
    *("Timesteps", "TimestepEmbedding", "MultiIPAdapterImageProjection", "FP32SiLU"),
}
_OF_TORCH = (
    *(nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.AdaptiveAvgPool2d, nn.AvgPool2d),
    *(nn.SiLU, nn.GELU, nn.Mish, nn.ReLU, nn.Identity, nn.Dropout),
)
_PROCESSORS = {
    *("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor", "FusedAttnProcessor2_0"),
    *("IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0", "IPAdapterXFormersAttnProcessor"),
}
# They take thirds of the batch for videos.
_PROCESSORS_OF_BATCHES = {"PAGIdentitySelfAttnProcessor2_0", "PAGCFGIdentitySelfAttnProcessor2_0"}


def _is_theirs(x: Any, names: "set[str]", *packages: str) -> bool:
    """Whether x is of a class of these names, which one of the packages has."""
    kind = type(x)
    return kind.__name__ in names and kind.__module__.startswith(packages or ("diffusers.models.",))


def why_not_this_processor(attention: nn.Module, batches: bool = False) -> Optional[str]:
    """Why an attention's processor may mix rows of its batch; `batches`: whole videos of them may be mixed."""
    processor = getattr(attention, "processor", None)
    if processor is None or _is_theirs(processor, _PROCESSORS | (_PROCESSORS_OF_BATCHES if batches else set())):
        return None
    return f"it has the processor {type(processor).__name__}"


def _roots(module: nn.Module, path: str = "") -> "Iterator[tuple[str, nn.Module]]":
    """(path, module) of what lists and blocks hold."""
    split = upstream.split_inference()
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        holds = type(child) in (nn.ModuleList, nn.Sequential) or split is not None and type(child) is split
        if holds or _is_theirs(child, _HOLDING):
            yield from _roots(child, inner)
        else:
            yield inner, child


def _why_not_by_frame(root: nn.Module) -> Optional[str]:
    """Why a module may mix frames."""
    while isinstance(inner := getattr(root, "base_layer", None), nn.Module):  # PEFT's adapters
        root = inner
    if not (isinstance(root, _OF_TORCH) or _is_theirs(root, _BY_FRAME, "diffusers.models.", "kineograph.diffusers.")):
        return "it is not known to see frames one by one"
    for name, module in root.named_modules():
        package = type(module).__module__.split(".")[0]
        if not (isinstance(module, _OF_TORCH) or package in ("torch", "diffusers", "kineograph", "peft")):
            return f"its {name} is a {type(module).__name__}, which is not known"
    return None


def why_not_together(unet: nn.Module, by_video: bool, by_frame: bool) -> "Iterator[tuple[str, str]]":
    """(path, reason) of each module with which processes that have some of the videos, or frames, would not give the
    numbers of one process."""
    for path, root in _roots(unet):
        temporal = isinstance(root, TEMPORAL)
        reason = None if temporal else _why_not_by_frame(root)
        if reason is not None:
            yield path, f"a {type(root).__name__}: {reason}"
            continue
        for name, module in root.named_modules():
            inner = f"{path}.{name}" if name else path
            if isinstance(module, nn.Dropout) and module.training and module.p > 0 and (by_video or not temporal):
                yield inner, f"dropout of {module.p} in training, which every process would draw for itself"
            reason = None if temporal else why_not_this_processor(module, batches=by_frame and not by_video)
            if reason is not None:
                yield (
                    inner,
                    f"a {type(module).__name__}: {reason}, which is not known to see frames and videos one by one",
                )
