"""Small models of diffusers' own classes, and the names that other code bases give their temporal modules' weights."""

import diffusers
import torch
from diffusers import MotionAdapter
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

# 8 heads and 32 groups are the published defaults, which a file without a configuration is taken to have.
WIDTHS = (32, 64)


def drawn(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def adapter(**changes):
    return drawn(MotionAdapter(**(dict(block_out_channels=WIDTHS) | changes)))


def temporal(model):
    """Path -> module, of what kineograph should find."""
    kinds = (AnimateDiffTransformer3D, diffusers.TransformerTemporalModel)
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def original_names(state):
    """The names that AnimateDiff's own code gives a MotionAdapter's parameters."""
    renamed = {}
    for name, value in state.items():
        for ours, theirs in (
            (".norm1.", ".norms.0."),
            (".norm2.", ".norms.1."),
            (".norm3.", ".ff_norm."),
            (".attn1.", ".attention_blocks.0."),
            (".attn2.", ".attention_blocks.1."),
        ):
            name = name.replace(ours, theirs)
        path, number, rest = name.partition(".motion_modules.")[0], *name.partition(".motion_modules.")[2].split(".", 1)
        path = f"{path}.motion_modules.{number}.temporal_transformer."
        if rest.endswith("pos_embed.pe"):
            for attention in ("0", "1"):
                renamed[path + rest.replace("pos_embed.pe", f"attention_blocks.{attention}.pos_encoder.pe")] = value
        else:
            renamed[path + rest] = value
    return renamed


def modelscope_names(state):
    """The names and Conv1d shapes that ModelScope's own code has for a UNet3DConditionModel's temporal modules."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "transformer_in":
            place, rest = "input_blocks.0.1", parts[1:]
        elif "temp_attentions" not in parts:
            continue
        elif parts[0] == "mid_block":
            place, rest = "middle_block.2", parts[3:]
        else:
            number = 3 * int(parts[1]) + int(parts[3])
            place, rest = (
                (f"input_blocks.{number + 1}.2" if parts[0] == "down_blocks" else f"output_blocks.{number}.2"),
                parts[4:],
            )
        if rest[0] in ("proj_in", "proj_out") and rest[1] == "weight":
            value = value[:, :, None]
        renamed[".".join([place, *rest])] = value.clone()
    return renamed
