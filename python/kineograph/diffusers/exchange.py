"""The exchange of processes that share a UNet: frames of all pixels for all frames of some rows of pixels, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from .. import errors
from .modules import EXCHANGE

_Tensor = torch.Tensor


@dataclass
class Group:
    """Processes along one dimension of the mesh, and what this one has sent them. Tensors are on a device of its type."""

    group: Any
    rank: int
    size: int
    device_type: str = "cpu"
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


class Gather(torch.autograd.Function):
    """Every process' part, side by side along an axis. Its gradient is the own part's where all processes have the same
    loss; where each keeps its own part of what is made of the whole (`own`), the sum of what each has for it."""

    @staticmethod
    def forward(ctx: Any, mine: _Tensor, group: Group, axis: int, own: bool = False) -> _Tensor:
        ctx.rest = (group, axis, own)
        return torch.cat(group.all_gather(mine), dim=axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: _Tensor) -> Any:
        group, axis, own = ctx.rest
        parts = gradient.chunk(group.size, dim=axis)
        mine = parts[group.rank]
        if own:
            found = group.all_to_all(parts, [mine.numel()] * group.size)
            mine = torch.stack([part.view(mine.shape) for part in found]).sum(0)
        return mine, None, None, None


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
        by_rank = y.reshape(videos, self.group.size, frames, channels, own, width)
        each = videos * frames * channels * width
        counts = [b - a for a, b in self.rows(height)]
        found = self.group.all_to_all(
            [by_rank[:, rank] for rank in range(self.group.size)], [each * count for count in counts]
        )
        shapes = [(videos * frames, channels, count, width) for count in counts]
        return torch.cat([part.view(shape) for part, shape in zip(found, shapes)], dim=2)

    def in_rows(self, x: _Tensor, frames: int, transform: "Callable[[_Tensor], Any]") -> Any:
        """(B*f, C, H, W) -> the same, of a transform of (B*F, C, own rows, W); None where that gives None. For pictures that
        have a row for each process: one without would not know what the others decide."""
        height = x.shape[2]

        def there(x: _Tensor) -> _Tensor:
            return self.to_rows(x, frames)

        def back(y: _Tensor) -> _Tensor:
            return self.to_frames(y, frames, height)

        done = transform(_Swap.apply(x, there, back))
        return None if done is None else _Swap.apply(done, back, there)

    def whole(self, x: _Tensor, frames: int, transform: "Callable[[_Tensor], _Tensor]") -> _Tensor:
        """(B*f, C, H, W) -> the same, of a transform of the whole clip, (B*F, C, H, W), that every process computes."""
        parts = x.reshape(-1, frames, *x.shape[1:])
        clip = transform(Gather.apply(parts, self.group, 1, True).flatten(0, 1))
        first = self.group.rank * frames
        own = clip.view(-1, frames * self.group.size, *clip.shape[1:])[:, first : first + frames]
        return own.flatten(0, 1)

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
        """A native module's answer for this process' frames."""
        height = hidden_states.shape[2]
        given = (encoder_hidden_states, timestep, class_labels, num_frames * self.group.size, kwargs)

        def natively(rows: _Tensor) -> Optional[_Tensor]:
            sample: Optional[_Tensor] = module._try_native(rows, *given, ranks=self.ranks(height))
            return sample

        def as_diffusers(clip: _Tensor) -> _Tensor:
            exchange = module.__dict__.pop(EXCHANGE, None)
            try:
                answer = type(module).forward(module, clip, *given)
            finally:
                if exchange is not None:
                    module.__dict__[EXCHANGE] = exchange
            sample: _Tensor = getattr(answer, "sample", answer)
            return sample

        shared = self.in_rows(hidden_states, num_frames, natively) if height >= self.group.size else None
        # diffusers' own forward knows no rows: every process computes the whole clip.
        return self.whole(hidden_states, num_frames, as_diffusers) if shared is None else shared
