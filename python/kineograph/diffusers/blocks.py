"""The parts that diffusers' documentation promises and its TransformerTemporalModel does not build, of diffusers' own
modules: what a forward that is not native runs. They add no arithmetic of their own."""

from typing import Any, Optional

import torch
from torch import nn

from .upstream import BasicTransformerBlock


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics span one frame; input (B, C, F, H, W), as TransformerTemporalModel hands it over."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, frames, height, width = x.shape
        per_frame = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
        return super().forward(per_frame).reshape(batch, frames, channels, height, width).transpose(1, 2)


class AdaNormBlock(BasicTransformerBlock):
    """A block with AdaLayerNorm, one video after the other: diffusers' AdaLayerNorm takes one timestep at a time."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Optional[torch.Tensor] = None,
        timestep: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        videos = []
        for i, chunk in enumerate(hidden_states.chunk(len(timestep))):
            encoder = None if encoder_hidden_states is None else encoder_hidden_states.chunk(len(timestep))[i]
            videos.append(super().forward(chunk, encoder_hidden_states=encoder, timestep=timestep[i], **kwargs))
        return torch.cat(videos)


def conditioned_blocks(norm_type: str, num_layers: int, heads: int, head_dim: int, **config: Any) -> nn.ModuleList:
    """`num_layers` blocks with AdaLayerNorm ("ada_norm") or AdaLayerNormZero ("ada_norm_zero")."""
    block = AdaNormBlock if norm_type == "ada_norm" else BasicTransformerBlock
    return nn.ModuleList(
        block(heads * head_dim, heads, head_dim, norm_type=norm_type, **config) for _ in range(num_layers)
    )
