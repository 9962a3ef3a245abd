#!/usr/bin/env python3
"""Makes the files of this folder: every published layout at small widths, as torch.save, safetensors and diffusers' own
classes write it, and what diffusers computes for each temporal module in it.

    pip install torch diffusers safetensors
    tests/checkpoints/make_checkpoints.py

FILE (or folder) has FILE.expected.safetensors beside it: for each module `NAME.hidden_states` (2 videos of 4 frames)
and `NAME.sample`, computed in f64 with the file's own f16 weights and rounded to f32.
"""

import pathlib

import torch
from diffusers import UNet3DConditionModel, UNetMotionModel
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from layouts import adapter, drawn, modelscope_names, original_names, temporal
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
FRAMES = 4
ONE_BLOCK = dict(block_out_channels=(32,), motion_layers_per_block=1)
UNET_3D = dict(
    block_out_channels=(16,),
    layers_per_block=1,
    sample_size=8,
    cross_attention_dim=8,
    attention_head_dim=8,
    down_block_types=("CrossAttnDownBlock3D",),
    up_block_types=("CrossAttnUpBlock3D",),
    norm_num_groups=8,
)


def expect(name, model, stored_positions=True):
    """Writes what diffusers computes in f64 with `model`'s weights rounded to f16; positions are not where they
    are computed anew, as diffusers does for the original layout."""
    tensors = {}
    model.double()
    for tensor in [*model.parameters(), *(model.buffers() if stored_positions else ())]:
        tensor.data = tensor.data.half().double()
    for path, module in temporal(model).items():
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2 * FRAMES, module.in_channels, 2, 3, generator=generator)
        with torch.no_grad():
            y = module(x.double(), num_frames=FRAMES)
        tensors[path + ".hidden_states"] = x
        tensors[path + ".sample"] = (y if isinstance(y, torch.Tensor) else y.sample).float()
    save_file(tensors, HERE / f"{name}.expected.safetensors")


def halves(state):
    return {name: value.half().clone() for name, value in state.items()}


def folder(name, model, **options):
    model.half().save_pretrained(HERE / name, **options)
    expect(name, model)


def main():
    folder(
        "motion_adapter",
        adapter(**ONE_BLOCK | dict(block_out_channels=(16,), motion_num_attention_heads=4, motion_norm_num_groups=8)),
    )
    folder(
        "unet_motion",
        drawn(
            UNetMotionModel(
                block_out_channels=(16,),
                layers_per_block=1,
                cross_attention_dim=8,
                norm_num_groups=8,
                down_block_types=("CrossAttnDownBlockMotion",),
                up_block_types=("CrossAttnUpBlockMotion",),
                motion_num_attention_heads=2,
            )
        ),
    )
    folder("unet_3d", drawn(UNet3DConditionModel(**UNET_3D)), safe_serialization=False)
    folder("i2vgen_xl", drawn(I2VGenXLUNet(**UNET_3D)))

    v1 = adapter(**ONE_BLOCK, motion_max_seq_length=24, use_motion_mid_block=False)
    torch.save(
        halves(original_names(v1.state_dict())), HERE / "animatediff_v1.ckpt", _use_new_zipfile_serialization=False
    )
    expect("animatediff_v1.ckpt", v1, stored_positions=False)
    v2 = adapter(**ONE_BLOCK)
    state = {"module." + name: value for name, value in halves(original_names(v2.state_dict())).items()}
    torch.save({"epoch": 1, "global_step": 7, "state_dict": state}, HERE / "animatediff_v2.ckpt")
    expect("animatediff_v2.ckpt", v2, stored_positions=False)
    lcm = adapter(**ONE_BLOCK, motion_max_seq_length=64)
    state = {
        name: value for name, value in halves(original_names(lcm.state_dict())).items() if "pos_encoder" not in name
    }
    torch.save(state, HERE / "animatelcm.ckpt")
    expect("animatelcm.ckpt", lcm, stored_positions=False)

    # Heads of 64 are what ModelScope's files are taken to have; its transformer_in would be 512 wide.
    modelscope = drawn(
        UNet3DConditionModel(
            **UNET_3D
            | dict(
                block_out_channels=(64,),
                attention_head_dim=64,
                norm_num_groups=32,
                down_block_types=("CrossAttnDownBlock3D",),
            )
        )
    )
    del modelscope.transformer_in, modelscope.mid_block
    torch.save(halves(modelscope_names(modelscope.state_dict())), HERE / "modelscope.pth")
    expect("modelscope.pth", modelscope)

    bare = adapter(**ONE_BLOCK)
    save_file(halves(bare.state_dict()), HERE / "motion_adapter.safetensors")
    expect("motion_adapter.safetensors", bare)


if __name__ == "__main__":
    main()
