"""One UNet over several processes: frames of everything spatial, rows of pixels of everything temporal."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist

from .. import errors
from . import acceleration, upstream
from .modules import EXCHANGE

_Tensor = torch.Tensor


@dataclass
class Group:
    """Processes along one dimension of the mesh, and what this one has sent them."""

    group: Any
    rank: int
    size: int
    bytes_sent: int = 0

    def _attempt(self, exchange: "Callable[[], Any]") -> None:
        try:
            exchange()
        except RuntimeError as error:
            raise errors.CommunicationError(
                f"torch.distributed: a process is dead or hung: {error}", "torch.distributed"
            ) from error

    def all_to_all(self, parts: "Sequence[_Tensor]", received: "Sequence[int]") -> "list[_Tensor]":
        """The parts that all processes have for this one, `received` elements each, for those that this one has for them."""
        flat = torch.cat([part.reshape(-1) for part in parts])
        sent = [part.numel() for part in parts]
        self.bytes_sent += (sum(sent) - sent[self.rank]) * flat.element_size()
        out = flat.new_empty(sum(received))
        # As bytes, which every backend has.
        size = flat.element_size()
        splits = [n * size for n in received], [n * size for n in sent]
        self._attempt(
            lambda: dist.all_to_all_single(out.view(torch.uint8), flat.view(torch.uint8), *splits, group=self.group)
        )
        return list(torch.split(out, list(received)))

    def all_gather(self, mine: _Tensor) -> "list[_Tensor]":
        """Every process' tensor, all of one shape."""
        mine = mine.contiguous()
        found = [torch.empty_like(mine) for _ in range(self.size)]
        as_bytes = [tensor.view(-1).view(torch.uint8) for tensor in found]
        self.bytes_sent += (self.size - 1) * mine.nbytes
        self._attempt(lambda: dist.all_gather(as_bytes, mine.view(-1).view(torch.uint8), group=self.group))
        return found

    def gather_bytes(self, values: bytes) -> bytes:
        """The communicator of native calls."""
        found = self.all_gather(torch.frombuffer(bytearray(values), dtype=torch.uint8))
        return b"".join(bytes(tensor.numpy()) for tensor in found)


class _Gather(torch.autograd.Function):
    """Every process' part, side by side along an axis. Its gradient is the own part's: all have the same loss."""

    @staticmethod
    def forward(ctx: Any, mine: _Tensor, group: Group, axis: int) -> _Tensor:
        ctx.rest = (group, axis)
        return torch.cat(group.all_gather(mine), dim=axis)

    @staticmethod
    def backward(ctx: Any, gradient: _Tensor) -> Any:
        group, axis = ctx.rest
        return gradient.chunk(group.size, dim=axis)[group.rank], None, None


class _Swap(torch.autograd.Function):
    """An exchange, and the other way as its gradient."""

    @staticmethod
    def forward(ctx: Any, x: _Tensor, there: Any, back: Any) -> _Tensor:
        ctx.ways = (there, back)
        moved: _Tensor = there(x)
        return moved

    @staticmethod
    def backward(ctx: Any, gradient: _Tensor) -> Any:
        there, back = ctx.ways
        return _Swap.apply(gradient, back, there), None, None


class Exchange:
    """A temporal module's work together with those of the other processes: frames of all pixels become all frames of some
    rows of pixels, are transformed, and become frames again."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def rows(self, height: int) -> "list[tuple[int, int]]":
        """First row of each process, and the one past its last; a process may have none."""
        size = self.group.size
        return [(height * rank // size, height * (rank + 1) // size) for rank in range(size)]

    def ranks(self, height: int) -> "tuple[Any, ...]":
        """The last argument of a native forward: see python/bindings/ranks.h."""
        group = self.group
        return group.gather_bytes, group.rank, group.size, self.rows(height)[group.rank][0], height

    def to_rows(self, x: _Tensor, frames: int) -> _Tensor:
        """(B*f, C, H, W), f of this process' frames -> (B*F, C, own rows, W)"""
        rows, (count, channels, _, width) = self.rows(x.shape[2]), x.shape
        first, end = rows[self.group.rank]
        shape = (count // frames, frames, channels, end - first, width)
        size = count * channels * (end - first) * width
        found = self.group.all_to_all([x[:, :, a:b] for a, b in rows], [size] * self.group.size)
        return torch.cat([part.view(shape) for part in found], dim=1).flatten(0, 1)

    def to_frames(self, y: _Tensor, frames: int, height: int) -> _Tensor:
        """The reverse."""
        count, channels, own, width = y.shape
        videos = count // (frames * self.group.size)
        by_rank = y.view(videos, self.group.size, frames, channels, own, width)
        each = videos * frames * channels * width
        counts = [b - a for a, b in self.rows(height)]
        found = self.group.all_to_all(
            [by_rank[:, rank] for rank in range(self.group.size)], [each * count for count in counts]
        )
        shapes = [(videos * frames, channels, count, width) for count in counts]
        return torch.cat([part.view(shape) for part, shape in zip(found, shapes)], dim=2)

    def run(
        self,
        module: Any,
        hidden_states: _Tensor,
        encoder_hidden_states: Optional[_Tensor],
        timestep: Any,
        class_labels: Any,
        num_frames: int,
        kwargs: Any,
    ) -> _Tensor:
        """The module's answer for this process' frames."""
        height, frames = hidden_states.shape[2], num_frames * self.group.size

        def there(x: _Tensor) -> _Tensor:
            return self.to_rows(x, num_frames)

        def back(y: _Tensor) -> _Tensor:
            return self.to_frames(y, num_frames, height)

        given = (encoder_hidden_states, timestep, class_labels, frames, kwargs)
        # All processes have to come to the same decision, and one without rows would fall back by itself.
        if height >= self.group.size:
            rows = _Swap.apply(hidden_states, there, back)
            sample = module._try_native(rows, *given, ranks=self.ranks(height))
            if sample is not None:
                swapped: _Tensor = _Swap.apply(sample, back, there)
                return swapped
        # diffusers' own forward knows no rows: every process computes the whole clip.
        parts = hidden_states.reshape(-1, num_frames, *hidden_states.shape[1:])
        whole = _Gather.apply(parts, self.group, 1).flatten(0, 1)
        exchange = module.__dict__.pop(EXCHANGE, None)
        try:
            answer = type(module).forward(module, whole, *given)
        finally:
            if exchange is not None:
                module.__dict__[EXCHANGE] = exchange
        clips: _Tensor = getattr(answer, "sample", answer).unflatten(0, (-1, frames))
        first = self.group.rank * num_frames
        return clips[:, first : first + num_frames].flatten(0, 1)


@dataclass
class Parallelization:
    """The result of parallelize.

    Attributes:
        cfg, frames: processes along each dimension of the mesh; 1 where it has none.
        temporal: paths of the temporal modules that exchange frames for rows of pixels.
        not_native: path -> reason, of those of them that every process computes whole.
    """

    cfg: int = 1
    frames: int = 1
    temporal: "list[str]" = field(default_factory=list)
    not_native: "dict[str, str]" = field(default_factory=dict)
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
        lines += [f"  whole on every process: {path}: {reason}" for path, reason in self.not_native.items()]
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


# Arguments of UNetMotionModel.forward in its order; those with a row a frame of every video.
_ARGUMENTS = (
    *("sample", "timestep", "encoder_hidden_states", "timestep_cond", "attention_mask", "cross_attention_kwargs"),
    *("added_cond_kwargs", "down_block_additional_residuals", "mid_block_additional_residual", "return_dict"),
)
_ROW_A_FRAME = ("encoder_hidden_states", "down_block_additional_residuals", "mid_block_additional_residual")


def _take_part(groups: "dict[str, Group]", args: Any, kwargs: Any) -> "dict[str, Any]":
    """This process' part of a call's arguments."""
    given: dict[str, Any] = dict(zip(_ARGUMENTS, args)) | kwargs
    for group in groups.values():
        group.bytes_sent = 0
    videos, frames = given["sample"].shape[0], given["sample"].shape[2]
    if given.get("attention_mask") is not None:
        raise ValueError("attention_mask: expected none in a call of several processes, found one")
    for name, count, what in (("frames", frames, "frames"), ("cfg", videos, "videos in the batch")):
        if name in groups and count % groups[name].size != 0:
            raise ValueError(f"sample: expected {what} that {groups[name].size} processes divide, found {count}")
    if "frames" in groups:
        group = groups["frames"]
        for name in _ROW_A_FRAME:
            given[name] = _frames_part(name, given.get(name), videos, frames, group)
        given["sample"] = given["sample"].chunk(group.size, dim=2)[group.rank]
        frames //= group.size
    if "cfg" in groups:
        for name, value in given.items():
            count = videos * frames if name in _ROW_A_FRAME else videos
            if name != "cross_attention_kwargs":
                given[name] = _part(value, count, groups["cfg"])
    return given


def _together(groups: "dict[str, Group]", output: Any) -> Any:
    """The whole sample of every process' part."""
    sample = output[0]
    for name, axis in (("frames", 2), ("cfg", 0)):
        if name in groups:
            sample = _Gather.apply(sample, groups[name], axis)
    return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)


def _groups(mesh: Any, names: "dict[str, str]", timeout: float) -> "dict[str, Group]":
    """A group of our own along each dimension, for its timeout; `names` are those of the mesh -> ours."""
    if mesh.device_type != "cpu":
        raise ValueError(f"mesh: expected processes on the CPU, found {mesh.device_type}")
    found = {}
    for theirs, name in names.items():
        axis = mesh.mesh_dim_names.index(theirs)
        for ranks in mesh.mesh.movedim(axis, -1).reshape(-1, mesh.mesh.shape[axis]).tolist():
            group = dist.new_group(ranks, timeout=datetime.timedelta(seconds=timeout), backend="gloo")
            if dist.get_rank() in ranks and len(ranks) > 1:
                found[name] = Group(group, ranks.index(dist.get_rank()), len(ranks))
    return found


def _mesh_of(given: Any) -> "tuple[Any, dict[str, str]]":
    """A DeviceMesh, and the names of its dimensions -> ours. In diffusers' ContextParallelConfig, and the mesh that it may
    have, frames are Ulysses' dimension; others than ring are left alone, as diffusers does."""
    if not hasattr(given, "ulysses_degree"):
        names = given.mesh_dim_names or ()
        if not names or not set(names) <= {"cfg", "frames"}:
            raise ValueError(f'mesh: expected the dimensions "cfg", "frames" or both, found {list(names)}')
        return given, {name: name for name in names}
    if (given.ring_degree or 1) != 1:
        raise ValueError(f"mesh: expected a ring_degree of 1, found {given.ring_degree}: frames are exchanged at once")
    degree, mesh = given.ulysses_degree or 1, given.mesh
    if mesh is None:
        mesh = dist.device_mesh.init_device_mesh("cpu", (degree,), mesh_dim_names=("ulysses",))
    sizes = dict(zip(mesh.mesh_dim_names or (), mesh.mesh.shape))
    if sizes.get("ulysses") != degree or sizes.get("ring", 1) != 1:
        raise ValueError(f"mesh: expected a dimension ulysses of {degree} processes and ring of 1, found {sizes}")
    return mesh, {"ulysses": "frames"}


def parallelize(unet: Any, mesh: Any, timeout: float) -> Parallelization:
    """See kineograph.parallelize."""
    if not isinstance(unet, upstream.UNetMotionModel):
        raise TypeError(f"unet: expected a UNetMotionModel, found {type(unet).__name__}")
    if acceleration.PARALLEL in unet.__dict__:
        raise ValueError("unet: expected one that is not parallel yet, found one that is; kineograph.revert undoes it")
    groups = _groups(*_mesh_of(mesh), timeout)
    sizes = {name: group.size for name, group in groups.items()}
    done = Parallelization(cfg=sizes.get("cfg", 1), frames=sizes.get("frames", 1), groups=groups)
    if "frames" in groups:
        accelerated = acceleration.accelerate(unet, spatial=False)
        modules = acceleration.native_modules(unet)
        strange = set(accelerated.not_native) - {path for path, _ in modules}
        if strange:
            raise ValueError(f"unet: expected diffusers' own temporal modules, found others: {sorted(strange)}")
        for path, module in modules:
            module.__dict__[EXCHANGE] = Exchange(groups["frames"])
            done.temporal.append(path)
        done.not_native.update(accelerated.not_native)
    if groups:
        setattr(
            unet,
            acceleration.PARALLEL,
            (
                unet.register_forward_pre_hook(
                    lambda _, args, kwargs: ((), _take_part(groups, args, kwargs)), with_kwargs=True
                ),
                unet.register_forward_hook(lambda _, args, output: _together(groups, output)),
            ),
        )
    return done
