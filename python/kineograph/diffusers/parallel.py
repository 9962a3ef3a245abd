"""One UNet over several processes: frames of everything spatial, rows of pixels of everything temporal."""

import datetime
import inspect
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
import torch.distributed as dist

from . import acceleration, structure, upstream
from .exchange import Exchange, Gather, Group
from .modules import EXCHANGE, NativeForward
from .temporal_layers import SHARED


@dataclass
class Parallelization:
    """The result of parallelize.

    Attributes:
        cfg, frames: processes along each dimension of the mesh; 1 where it has none.
        temporal: paths of the temporal modules that exchange frames for rows of pixels.
        whole: path -> reason, of those of them that every process computes whole.
    """

    cfg: int = 1
    frames: int = 1
    temporal: "list[str]" = field(default_factory=list)
    whole: "dict[str, str]" = field(default_factory=dict)
    groups: "dict[str, Group]" = field(default_factory=dict, repr=False)

    @property
    def bytes_sent(self) -> "dict[str, int]":
        """Bytes that this process has sent along each dimension in the last call of the UNet."""
        return {name: group.bytes_sent for name, group in self.groups.items()}

    def __str__(self) -> str:
        lines = []
        if self.cfg > 1:
            lines.append(f"cfg: {self.cfg} processes have 1/{self.cfg} of the batch each; sent: the sample")
        if self.frames > 1:
            lines.append(
                f"frames: {self.frames} processes have 1/{self.frames} of the frames each; sent: the sample, and in "
                f"{len(self.temporal)} temporal modules the hidden states there and back"
            )
        lines += [f"  whole on every process: {path}: {reason}" for path, reason in self.whole.items()]
        return "\n".join(lines or ["one process: nothing is shared"])


def _part(value: Any, count: int, group: Group) -> Any:
    """This process' part of tensors, in lists and dictionaries too, whose first extent is `count`."""
    if isinstance(value, torch.Tensor):
        return value.chunk(group.size)[group.rank] if value.ndim > 0 and value.shape[0] == count else value
    if isinstance(value, (list, tuple)):
        return type(value)(_part(one, count, group) for one in value)
    if isinstance(value, dict):
        return {key: _part(one, count, group) for key, one in value.items()}
    return value


def _frames_part(name: str, value: Any, videos: int, frames: int, group: Group) -> Any:
    """This process' frames of what has a row a frame, (B*F, ...)."""
    if isinstance(value, (list, tuple)):
        return type(value)(_frames_part(name, one, videos, frames, group) for one in value)
    if value is None:
        return None
    if value.shape[0] != videos * frames:
        raise ValueError(f"{name}: expected a row a frame, {videos * frames}, found shape {list(value.shape)}")
    return value.unflatten(0, (videos, frames)).chunk(group.size, dim=1)[group.rank].flatten(0, 1)


@dataclass(frozen=True)
class _Call:
    """The known arguments of a UNet's forward, by name. Others are refused.

    Attributes:
        known: a row a video, or one for all.
        videos: (B, C, F, H, W).
        row_a_frame: (B*F, ...), or lists of them.
    """

    known: "tuple[str, ...]"
    videos: "tuple[str, ...]" = ("sample",)
    row_a_frame: "tuple[str, ...]" = ()


_RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual")
_PLAIN = ("timestep", "encoder_hidden_states", "timestep_cond", "cross_attention_kwargs", "return_dict")
_CALLS = {
    upstream.UNetMotionModel: _Call((*_PLAIN, "added_cond_kwargs"), row_a_frame=("encoder_hidden_states", *_RESIDUALS)),
    upstream.UNet3DConditionModel: _Call(_PLAIN, row_a_frame=_RESIDUALS),
    upstream.I2VGenXLUNet: _Call((*_PLAIN, "fps", "image_embeddings"), videos=("sample", "image_latents")),
}


# The backends of torch.distributed that exchange a device's tensors. That of GPUs is here by construction: it has not run.
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class _Hooks:
    """The hooks before and after a call of a UNet."""

    def __init__(self, unet: Any, groups: "dict[str, Group]") -> None:
        self.groups = groups
        self.kind = _kind_of(unet)
        self.call = _CALLS[self.kind]
        self.names = list(inspect.signature(self.kind.forward).parameters)[1:]
        self.first_frame: Optional[torch.Tensor] = None

    def before(self, unet: Any, args: Any, kwargs: Any) -> "tuple[Any, dict[str, Any]]":
        """This process' part of a call's arguments."""
        _check_structure(unet, self.groups)
        given: dict[str, Any] = dict(zip(self.names, args)) | kwargs
        call, groups = self.call, self.groups
        for name, value in given.items():
            if value is not None and name not in (*call.known, *call.videos, *call.row_a_frame):
                raise ValueError(f"{name}: expected none in a call of several processes, found one")
        for name in call.videos:
            shape = list(getattr(given.get(name), "shape", ()))
            if len(shape) != 5:
                raise ValueError(f"{name}: expected (B, C, F, H, W), found {shape or type(given.get(name)).__name__}")
            for group in groups.values():
                if given[name].device.type != group.device_type:
                    raise ValueError(
                        f"{name}: expected a tensor on a device of the mesh, {group.device_type}, found one on "
                        f"{given[name].device}"
                    )
        for group in groups.values():
            group.bytes_sent = 0
        videos, frames = given["sample"].shape[0], given["sample"].shape[2]
        for name, count, what in (("frames", frames, "frames"), ("cfg", videos, "videos in the batch")):
            if name in groups and count % groups[name].size != 0:
                raise ValueError(f"sample: expected {what} that {groups[name].size} processes divide, found {count}")
        if "image_latents" in call.videos:
            self.first_frame = given["image_latents"][:, :, 0]
        if "frames" in groups:
            group = groups["frames"]
            for name in call.row_a_frame:
                given[name] = _frames_part(name, given.get(name), videos, frames, group)
            for name in call.videos:
                if given[name].shape[2] != frames:
                    raise ValueError(f"{name}: expected {frames} frames, as sample has, found {given[name].shape[2]}")
                given[name] = given[name].chunk(group.size, dim=2)[group.rank]
            frames //= group.size
        if "cfg" in groups:
            for name, value in given.items():
                count = videos * frames if name in call.row_a_frame else videos
                if name != "cross_attention_kwargs":
                    given[name] = _part(value, count, groups["cfg"])
            if self.first_frame is not None:
                self.first_frame = _part(self.first_frame, videos, groups["cfg"])
        return (), given

    def after(self, unet: Any, args: Any, output: Any) -> Any:
        """The whole sample of every process' part."""
        self.first_frame = None
        sample = output[0]
        for name, axis in (("frames", 2), ("cfg", 0)):
            if name in self.groups:
                sample = Gather.apply(sample, self.groups[name], axis)
        return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)

    def context_frame(self, module: Any, args: Any) -> Any:
        """I2VGenXLUNet's context is of the clip's first frame: what diffusers' forward takes for it is the first of this
        process."""
        return args if self.first_frame is None else (self.first_frame,)


@dataclass
class _Turned:
    """A module whose forward exchanges with other processes, and how it was before."""

    module: Any
    original: type

    def remove(self) -> None:
        """As a hook's."""
        self.module.__dict__.pop(EXCHANGE, None)
        if type(self.module) is SHARED.get(self.original):
            self.module.__class__ = self.original


def _groups(mesh: Any, names: "dict[str, str]", timeout: float) -> "dict[str, Group]":
    """A group of our own along each dimension, for its timeout; `names` are those of the mesh -> ours."""
    if mesh.device_type not in _BACKENDS:
        raise ValueError(f"mesh: expected devices of type {' or '.join(_BACKENDS)}, found {mesh.device_type}")
    backend, found = _BACKENDS[mesh.device_type], {}
    for theirs, name in names.items():
        axis = mesh.mesh_dim_names.index(theirs)
        for ranks in mesh.mesh.movedim(axis, -1).reshape(-1, mesh.mesh.shape[axis]).tolist():
            group = dist.new_group(ranks, timeout=datetime.timedelta(seconds=timeout), backend=backend)
            if dist.get_rank() in ranks and len(ranks) > 1:
                found[name] = Group(group, ranks.index(dist.get_rank()), len(ranks), mesh.device_type)
    return found


def _mesh_of(given: Any, device_type: str) -> "tuple[Any, dict[str, str]]":
    """A DeviceMesh, and the names of its dimensions -> ours. In diffusers' ContextParallelConfig, and the mesh that it may
    have, frames are Ulysses' dimension; others than ring are left alone, as diffusers does. Without a mesh its processes have
    devices of `device_type`."""
    if not hasattr(given, "ulysses_degree"):
        names = given.mesh_dim_names or ()
        if not names or not set(names) <= {"cfg", "frames"}:
            raise ValueError(f'mesh: expected the dimensions "cfg", "frames" or both, found {list(names)}')
        return given, {name: name for name in names}
    if (given.ring_degree or 1) != 1:
        raise ValueError(f"mesh: expected a ring_degree of 1, found {given.ring_degree}: frames are exchanged at once")
    degree, mesh = given.ulysses_degree or 1, given.mesh
    if mesh is None:
        mesh = dist.device_mesh.init_device_mesh(device_type, (degree,), mesh_dim_names=("ulysses",))
    sizes = dict(zip(mesh.mesh_dim_names or (), mesh.mesh.shape))
    if sizes.get("ulysses") != degree or sizes.get("ring", 1) != 1:
        raise ValueError(f"mesh: expected a dimension ulysses of {degree} processes and ring of 1, found {sizes}")
    return mesh, {"ulysses": "frames"}


def _kind_of(unet: Any) -> Any:
    """The class of diffusers whose forward the UNet has."""
    for kind in _CALLS:
        if isinstance(unet, kind) and type(unet).forward is kind.forward:
            return kind
    names = [kind.__name__ for kind in _CALLS]
    raise TypeError(f"unet: expected a {', '.join(names[:-1])} or {names[-1]}, found a {type(unet).__name__}")


def _check_structure(unet: Any, groups: "dict[str, Group]") -> None:
    reasons = [
        f"{path}, {reason}" for path, reason in structure.why_not_together(unet, "cfg" in groups, "frames" in groups)
    ]
    if "frames" in groups and acceleration.PARALLEL in unet.__dict__:
        reasons += [
            f"{path}, put in after parallelize"
            for path, module in unet.named_modules()
            if isinstance(module, structure.TEMPORAL) and EXCHANGE not in module.__dict__
        ]
    if reasons:
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise ValueError(
            "unet: expected modules that see frames and videos one by one, and diffusers' own temporal ones, found "
            + "; ".join(reasons[:5])
            + more
        )


def _share_frames(unet: Any, done: Parallelization) -> "list[_Turned]":
    """Temporal modules exchange frames for pixels from then on."""
    exchange, turned = Exchange(done.groups["frames"]), []
    temporal: list[tuple[str, Any]] = [m for m in unet.named_modules() if isinstance(m[1], structure.TEMPORAL)]
    for path, module in temporal:
        original: type = type(module)
        if isinstance(module, NativeForward) and exchange.group.device_type != "cpu":
            done.whole[path] = f"on {exchange.group.device_type}, where none runs natively"
        if original in SHARED:
            module.__class__ = SHARED[original]
            reason = module.why_whole()
            if reason is not None:
                done.whole[path] = reason
        module.__dict__[EXCHANGE] = exchange
        turned.append(_Turned(module, original))
        done.temporal.append(path)
    return turned


def parallelize(unet: Any, mesh: Any, timeout: float) -> Parallelization:
    """See kineograph.parallelize."""
    _kind_of(unet)
    if acceleration.PARALLEL in unet.__dict__:
        raise ValueError("unet: expected one that is not parallel yet, found one that is; kineograph.revert undoes it")
    return spread(unet, _groups(*_mesh_of(mesh, unet.device.type), timeout))


def spread(unet: Any, groups: "dict[str, Group]") -> Parallelization:
    """parallelize, over groups that are made already."""
    _check_structure(unet, groups)
    sizes = {name: group.size for name, group in groups.items()}
    done = Parallelization(cfg=sizes.get("cfg", 1), frames=sizes.get("frames", 1), groups=groups)
    undone: list[Any] = []
    if "frames" in groups:
        strange = sorted(
            path
            for path, module in unet.named_modules()
            if isinstance(module, structure.TEMPORAL)
            and not (type(module) in SHARED or type(module) in acceleration.NATIVE or isinstance(module, NativeForward))
        )
        if strange:
            raise ValueError(f"unet: expected diffusers' own temporal modules, found others: {strange}")
        done.whole.update(acceleration.accelerate(unet, spatial=False).not_native)
        undone += _share_frames(unet, done)
    if groups:
        hooks = _Hooks(unet, groups)
        undone.append(unet.register_forward_pre_hook(hooks.before, with_kwargs=True))
        undone.append(unet.register_forward_hook(hooks.after))
        if "frames" in groups and hooks.kind is upstream.I2VGenXLUNet:
            undone.append(unet.image_latents_context_embedding.register_forward_pre_hook(hooks.context_frame))
        setattr(unet, acceleration.PARALLEL, tuple(undone))
    return done
