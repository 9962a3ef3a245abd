"""Video UNets of diffusers at small widths with random weights, without what their pipelines need."""

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet

WIDTHS = dict(block_out_channels=(32, 64), layers_per_block=1, sample_size=8, cross_attention_dim=16)
BLOCKS_3D = dict(
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D")
)


def text_to_video_unet():
    torch.manual_seed(0)
    return UNet3DConditionModel(**WIDTHS, **BLOCKS_3D, attention_head_dim=8, norm_num_groups=8)


def image_to_video_unet():
    torch.manual_seed(0)
    return I2VGenXLUNet(**WIDTHS, **BLOCKS_3D, attention_head_dim=8, norm_num_groups=2)
