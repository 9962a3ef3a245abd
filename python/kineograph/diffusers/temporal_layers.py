"""diffusers' own layers over frames, with their work shared by processes: each computes all frames of some pixels."""

from typing import Any, Optional

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from . import arguments, upstream
from .exchange import Exchange, Group
from .modules import EXCHANGE
from .structure import why_not_this_processor

_Tensor = torch.Tensor


def _tensor(x: Any) -> _Tensor:
    """x, for a type checker: diffusers' and autograd's functions have no types."""
    tensor: _Tensor = x
    return tensor


class _GroupNorm(torch.autograd.Function):
    """torch's group_norm of x (B, C, F, rows, W) with the statistics of all processes' rows."""

    @staticmethod
    def forward(
        ctx: Any, x: _Tensor, weight: _Tensor, bias: _Tensor, groups: int, eps: float, processes: Group
    ) -> _Tensor:
        videos, channels = x.shape[:2]
        per_channel = (videos, groups, channels // groups, 1)
        own = x.float().contiguous()
        count = own[0].numel() // groups
        y, mean, rstd = torch.native_group_norm(own, None, None, videos, channels, own[0, 0].numel(), groups, eps)
        deviation = count * (rstd.double() ** -2 - eps)  # from the mean, squared and summed
        mine = torch.stack([torch.full_like(deviation, count), mean.double(), deviation])
        counts, means, deviations = torch.stack(processes.all_gather(mine), dim=1)  # (N, B, groups) each
        total = counts.sum(0)
        mean_of_all = (counts * means).sum(0) / total
        squares = (deviations + counts * (means - mean_of_all) ** 2).sum(0)
        rstd_of_all = (squares / total + eps).rsqrt()
        # y is of the own rows' statistics: x = y / rstd + mean.
        factor = (rstd_of_all / rstd.double()).float().view(videos, groups, 1, 1)
        shift = ((mean.double() - mean_of_all) * rstd_of_all).float().view(videos, groups, 1, 1)
        gain, offset = (parameter.detach().float().view(1, *per_channel[1:]) for parameter in (weight, bias))
        y = y.view(*per_channel[:3], -1).mul_(factor * gain).add_(shift * gain + offset).view(x.shape).to(x.dtype)
        ctx.save_for_backward(x, weight, mean_of_all.float(), rstd_of_all.float())
        ctx.rest = (groups, float(total[0, 0]), processes)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: _Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        groups, count, processes = ctx.rest
        videos, channels = x.shape[:2]
        shape = (videos, groups, channels // groups, -1)
        normalized = (x.float().reshape(shape) - mean[..., None, None]) * rstd[..., None, None]
        d = gradient.float().reshape(shape)
        d_bias = d.sum(3)
        d_weight = (d * normalized).sum(3)
        gain = weight.float().view(1, groups, -1)
        mine = torch.stack([(gain * d_bias).sum(2), (gain * d_weight).sum(2)]).double()
        plain, scaled = (torch.stack(processes.all_gather(mine)).sum(0) / count).float()[..., None, None]
        d_x = rstd[..., None, None] * (gain[..., None] * d - plain - normalized * scaled)
        of_parameters = [total.sum(0).view(channels).to(weight.dtype) for total in (d_weight, d_bias)]
        return d_x.reshape(x.shape).to(x.dtype), *of_parameters, None, None, None


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is its class's forward and nothing else."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" not in module.__dict__ and not any(getattr(module, name, None) for name in hooks)


def _is_by_pixel(layer: nn.Module) -> bool:
    """Whether a layer treats every pixel by itself, or is one that _of_rows knows."""
    if type(layer) is nn.Conv3d:
        spatial = (layer.kernel_size[1:], layer.stride[1:], layer.padding[1:])
        return spatial == ((1, 1), (1, 1), (0, 0)) and layer.padding_mode == "zeros"
    return type(layer) in (nn.SiLU, nn.Dropout) or type(layer) is nn.GroupNorm and layer.affine


def _of_rows(layer: nn.Module, x: _Tensor, exchange: Exchange, height: int) -> _Tensor:
    """A layer's answer for this process' rows of x, (B, C, F, rows, W)."""
    if isinstance(layer, nn.GroupNorm):
        return _tensor(_GroupNorm.apply(x, layer.weight, layer.bias, layer.num_groups, layer.eps, exchange.group))
    if isinstance(layer, nn.Dropout) and layer.training and layer.p > 0:
        # Drawn for the whole picture, so that processes with the same generator drop what one process would.
        first, end = exchange.rows(height)[exchange.group.rank]
        kept = nn.functional.dropout(x.new_ones(*x.shape[:3], height, x.shape[4]), layer.p)
        return x * kept[:, :, :, first:end]
    return _tensor(layer(x))


class SharedTemporalConvLayer(upstream.TemporalConvLayer):
    """TemporalConvLayer: four times GroupNorm over a clip, SiLU and a convolution over frames, (3, 1, 1)."""

    def why_whole(self) -> Optional[str]:
        """Why every process has to compute the whole clip."""
        for name in ("conv1", "conv2", "conv3", "conv4"):
            stage = getattr(self, name, None)
            if type(stage) is not nn.Sequential or not _is_plain(stage):
                return f"{name} is not diffusers' own"
            for i, layer in enumerate(stage):
                if not (_is_by_pixel(layer) and _is_plain(layer)):
                    return f"{name}[{i}] is another layer than diffusers', or has a hook"
        return "autocast" if arguments.autocast_dtype() is not None else None

    def forward(self, hidden_states: _Tensor, num_frames: int = 1) -> _Tensor:
        """(B*f, C, H, W) -> the same, f of this process' frames."""
        theirs = upstream.TemporalConvLayer.forward
        exchange: Optional[Exchange] = self.__dict__.get(EXCHANGE)
        if exchange is None:
            return _tensor(theirs(self, hidden_states, num_frames))
        height, frames = hidden_states.shape[2], num_frames * exchange.group.size

        def of_rows(rows: _Tensor) -> _Tensor:
            x = rows.view(-1, frames, *rows.shape[1:]).transpose(1, 2)
            for stage in (self.conv1, self.conv2, self.conv3, self.conv4):
                for layer in stage:
                    x = _of_rows(layer, x, exchange, height)
            return rows + x.transpose(1, 2).flatten(0, 1)

        if height >= exchange.group.size and self.why_whole() is None:
            return _tensor(exchange.in_rows(hidden_states, num_frames, of_rows))
        return exchange.whole(hidden_states, num_frames, lambda clip: theirs(self, clip, frames))


class SharedTemporalEncoder(upstream.I2VGenXLTransformerTemporalEncoder):
    """I2VGenXLUNet's attention over the frames of the image latents, pixel by pixel."""

    def why_whole(self) -> Optional[str]:
        """Why every process has to compute the whole clip."""
        layers = [type(getattr(self, name, None)) for name in ("norm1", "attn1", "ff")]
        if layers != [nn.LayerNorm, upstream.Attention, upstream.FeedForward]:
            return "its layers are not diffusers' own"
        for name, module in self.named_modules():
            if module is not self and not _is_plain(module):
                return f"{name} has a hook"
            if isinstance(module, nn.Dropout) and module.training and module.p > 0:
                return f"{name} draws"
        return why_not_this_processor(self.attn1)

    def forward(self, hidden_states: _Tensor) -> _Tensor:
        """(B*H*W, f, C) -> the same, f of this process' frames."""
        theirs = upstream.I2VGenXLTransformerTemporalEncoder.forward
        exchange: Optional[Exchange] = self.__dict__.get(EXCHANGE)
        if exchange is None:
            return _tensor(theirs(self, hidden_states))

        def of_pixels(rows: _Tensor) -> _Tensor:
            return _tensor(theirs(self, rows.squeeze(3).permute(2, 0, 1)).permute(1, 2, 0).unsqueeze(3))

        pixels, frames, _ = hidden_states.shape
        rows = hidden_states.permute(1, 2, 0).unsqueeze(3)  # (f, C, pixels, 1): one video, a pixel a row
        shared = pixels >= exchange.group.size and self.why_whole() is None
        done = (exchange.in_rows if shared else exchange.whole)(rows, frames, of_pixels)
        return _tensor(done.squeeze(3).permute(2, 0, 1))


# diffusers' class -> the one with which parallelize replaces it in place.
SHARED: "dict[type, Any]" = {
    upstream.TemporalConvLayer: SharedTemporalConvLayer,
    upstream.I2VGenXLTransformerTemporalEncoder: SharedTemporalEncoder,
}
