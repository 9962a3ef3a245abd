"""Small temporal modules and UNets that the tests of states, mutations and sequences change, and how they compare."""

import copy

import torch
from diffusers import TransformerTemporalModel, UNetMotionModel
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

BASE = dict(num_attention_heads=4, attention_head_dim=8, in_channels=32, norm_num_groups=8)
POSITIONS = dict(positional_embeddings="sinusoidal", num_positional_embeddings=32)
CROSS = dict(double_self_attention=False, cross_attention_dim=12)

# f32 answers differ by a few 1e-6 of the largest value; a change that is missed differs by far more.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3, torch.float64: 1e-9}


def drawn(module, seed=0):
    """`module` with random parameters, in evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return module.eval()


def temporal(**changes):
    return drawn(TransformerTemporalModel(**(BASE | changes)))


def animatediff(**changes):
    return drawn(AnimateDiffTransformer3D(**(BASE | POSITIONS | changes)))


def in_windows(model, length=3, stride=2, weighting="pyramid"):
    """`model` with FreeNoise's blocks, as AnimateDiffPipeline.enable_free_noise puts them there."""
    names = (
        *("dim", "num_attention_heads", "attention_head_dim", "dropout", "cross_attention_dim", "activation_fn"),
        *("attention_bias", "double_self_attention", "norm_elementwise_affine"),
        *("positional_embeddings", "num_positional_embeddings"),
    )
    for i, block in enumerate(model.transformer_blocks):
        made = FreeNoiseTransformerBlock(
            **{name: getattr(block, name) for name in names},
            context_length=length,
            context_stride=stride,
            weighting_scheme=weighting,
        )
        made.load_state_dict(block.state_dict())
        if block.attn2 is None:
            made.attn2 = None  # its forward reads it
        model.transformer_blocks[i] = made.train(model.training)
    return model


def in_pieces(model, size=5):
    """`model` as AnimateDiffPipeline.enable_free_noise_split_inference cuts it."""
    from diffusers.pipelines.free_noise_utils import SplitInferenceModule

    blocks = model.transformer_blocks
    for i, block in enumerate(blocks):
        blocks[i] = SplitInferenceModule(block, size, 0, ["hidden_states", "encoder_hidden_states"])
    for name in ("proj_in", "proj_out"):
        setattr(model, name, SplitInferenceModule(getattr(model, name), size, 0, ["input"]))
    return model.train(model.training)


def clip(frames=8, height=4, width=4, channels=32, seed=1):
    return torch.randn(frames, channels, height, width, generator=torch.Generator().manual_seed(seed))


def text(rows, dim=12, seed=2):
    return torch.randn(rows, 4, dim, generator=torch.Generator().manual_seed(seed))


def unet(seed=0):
    made = UNetMotionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        motion_num_attention_heads=8,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            spread = 0.1 if "motion" in name else 0.05
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return made.eval()


def run_unet(model, **more):
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(5)
    sample = torch.randn(1, 4, 4, 8, 8, generator=generator).to(dtype)
    return model(sample, torch.tensor(10), text(4, 32).to(dtype), **more).sample


def lora(model, names=("a",), targets=("to_q", "to_k", "to_v", "to_out.0"), spread=0.3, **changes):
    """`model` with PEFT's adapters `names` around some of its Linears."""
    from peft import LoraConfig, inject_adapter_in_model

    for seed, name in enumerate(names):
        config = LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), **changes)
        inject_adapter_in_model(config, model, adapter_name=name)
        generator = torch.Generator().manual_seed(10 + seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if f"lora_B.{name}" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def answer(call, model):
    """The result of a call: a tensor, or the exception that it raised."""
    try:
        given = call(model)
    except Exception as error:  # what diffusers raises for a state that it does not run in is part of the comparison
        return error
    return given if isinstance(given, torch.Tensor) else given.sample


def difference(wanted, found):
    """None where two answers agree: within the tolerance, or both raised. Else what they are."""
    raised = [isinstance(one, Exception) for one in (wanted, found)]
    if any(raised):
        return None if all(raised) else f"diffusers: {_said(wanted)}, ours: {_said(found)}"
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return f"diffusers: {wanted.dtype} {tuple(wanted.shape)}, ours: {found.dtype} {tuple(found.shape)}"
    a, b = wanted.double(), found.double()
    same = (a == b) | (a.isnan() & b.isnan())
    largest = a[a.isfinite()].abs().max().item() if a.isfinite().any() else 0.0
    off = torch.where(same, 0.0, (a - b).abs())
    worst = off.max().item()
    if worst <= TOLERANCE[wanted.dtype] * largest:
        return None
    return f"off by {worst / largest if largest else worst:.1e} of the largest value"


def _said(one):
    return f"{type(one).__name__}: {str(one)[:80]}" if isinstance(one, Exception) else "an answer"


def twins(made):
    """A module of diffusers, and a copy of it that is to be accelerated."""
    return made, copy.deepcopy(made)
