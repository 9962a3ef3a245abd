"""What is inside a temporal module of diffusers: its configuration, its weights, and whether it is what it seems.

Everything here reads and changes nothing, and is plain enough for torch.compile to trace.
"""

import torch
from diffusers.models.activations import GEGLU, GELU, ApproximateGELU, LinearActivation, SwiGLU
from diffusers.models.attention import Attention, BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.embeddings import ImagePositionalEmbeddings, SinusoidalPositionalEmbedding
from diffusers.models.normalization import AdaLayerNorm, AdaLayerNormZero
from torch import nn

from .blocks import AdaNormBlock, FrameGroupNorm

# Modules that a native forward stands for, by what they hold: parameters of their own, or other modules.
LEAVES = (nn.Linear, nn.GroupNorm, FrameGroupNorm, nn.LayerNorm, nn.Embedding)
SHELLS = (
    BasicTransformerBlock,
    AdaNormBlock,
    Attention,
    FeedForward,
    GEGLU,
    GELU,
    ApproximateGELU,
    SwiGLU,
    LinearActivation,
    SinusoidalPositionalEmbedding,
    AdaLayerNorm,
    AdaLayerNormZero,
    ImagePositionalEmbeddings,
)
PROCESSORS = (AttnProcessor2_0, AttnProcessor)


def parts(model):
    """The modules of `model` that hold parameters, by diffusers' names, in the order of the state dict."""
    found = []
    if hasattr(model, "latent_image_embedding"):
        image = model.latent_image_embedding
        found += [
            ("latent_image_embedding.emb", image.emb),
            ("latent_image_embedding.height_emb", image.height_emb),
            ("latent_image_embedding.width_emb", image.width_emb),
        ]
    else:
        found += [("norm", model.norm), ("proj_in", model.proj_in)]
    for layer, block in enumerate(model.transformer_blocks):
        at = f"transformer_blocks.{layer}."
        for name, norm in (("norm1", block.norm1), ("norm2", block.norm2), ("norm3", block.norm3)):
            if type(norm) is AdaLayerNorm:
                found += [(f"{at}{name}.emb", norm.emb), (f"{at}{name}.linear", norm.linear)]
            elif type(norm) is AdaLayerNormZero:
                timestep, label = norm.emb.timestep_embedder, norm.emb.class_embedder
                found += [
                    (f"{at}{name}.emb.timestep_embedder.linear_1", timestep.linear_1),
                    (f"{at}{name}.emb.timestep_embedder.linear_2", timestep.linear_2),
                    (f"{at}{name}.emb.class_embedder.embedding_table", label.embedding_table),
                    (f"{at}{name}.linear", norm.linear),
                ]
            elif norm is not None:
                found.append((at + name, norm))
        for name, attention in (("attn1", block.attn1), ("attn2", block.attn2)):
            if attention is not None:
                found += [
                    (f"{at}{name}.to_q", attention.to_q),
                    (f"{at}{name}.to_k", attention.to_k),
                    (f"{at}{name}.to_v", attention.to_v),
                    (f"{at}{name}.to_out.0", attention.to_out[0]),
                ]
        found += [(f"{at}ff.net.0.proj", block.ff.net[0].proj), (f"{at}ff.net.2", block.ff.net[2])]
    if hasattr(model, "latent_image_embedding"):
        found += [("norm_out", model.norm_out), ("out", model.out)]
    else:
        found.append(("proj_out", model.proj_out))
    return found


def shells(model):
    """The modules around the parts, by name."""
    found = []
    for layer, block in enumerate(model.transformer_blocks):
        at = f"transformer_blocks.{layer}"
        found += [
            (at, block),
            (f"{at}.attn1", block.attn1),
            (f"{at}.ff", block.ff),
            (f"{at}.ff.net.0", block.ff.net[0]),
        ]
        for name, shell in (("attn2", block.attn2), ("pos_embed", block.pos_embed)):
            if shell is not None:
                found.append((f"{at}.{name}", shell))
    return found


def unwrapped(module):
    """The module inside diffusers' SplitInferenceModule, which computes the same in pieces."""
    return module.module if type(module).__name__ == "SplitInferenceModule" else module


def is_lora(module):
    """Whether PEFT put a LoRA around a Linear."""
    return hasattr(module, "base_layer") and hasattr(module, "get_delta_weight") and hasattr(module, "lora_A")


def tampered(module):
    """Whether somebody wants to hear of this module's forward or backward, or gave it another."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__


def _why_not_lora(name, part):
    if torch.compiler.is_compiling():
        return f"{name} has a LoRA that is not fused, in a compiled graph"
    if any(part.use_dora.values()) or getattr(part, "lora_variant", None) or type(part.base_layer) is not nn.Linear:
        return f"{name} has a LoRA of another kind than W + BA"
    if part.merged or part.disable_adapters:
        return None
    for adapter in part.active_adapters:
        if adapter in part.lora_A:
            dropout = part.lora_dropout[adapter]
            if type(dropout) is nn.Dropout and dropout.training and dropout.p > 0:
                return f"{name} has a LoRA with dropout, in training"
            if part.lora_B[adapter].bias is not None:
                return f"{name} has a LoRA with a bias"
            if tampered(part.lora_A[adapter]) or tampered(part.lora_B[adapter]):
                return f"{name} has hooks"
    return None


def why_not(model):
    """Why a native forward would not stand for `model` as it is built now; None if it does."""
    if len(model.transformer_blocks) == 0:
        return "it has no blocks"
    for name, block in enumerate(model.transformer_blocks):
        if type(block) not in (BasicTransformerBlock, AdaNormBlock):
            return f"transformer_blocks.{name} is a {type(block).__name__}"
    for name, shell in shells(model):
        if type(shell) not in SHELLS:
            return f"{name} is a {type(shell).__name__}"
        if tampered(shell):
            return f"{name} has hooks"
        if type(shell) is Attention and type(shell.processor) not in PROCESSORS:
            return f"{name} has a processor of its own, {type(shell.processor).__name__}"
    for name, wrapped in parts(model):
        part = unwrapped(wrapped)
        if is_lora(part):
            reason = _why_not_lora(name, part)
            if reason is not None:
                return reason
        elif type(part) not in LEAVES:
            return f"{name} is a {type(part).__name__}"
        if tampered(part) or tampered(wrapped):
            return f"{name} has hooks"
        if type(part) is nn.LayerNorm and part.eps != 1e-5 or isinstance(part, nn.GroupNorm) and part.eps != 1e-6:
            return f"{name} has an epsilon of its own, {part.eps}"
    return None


def _dropouts(model):
    """Every module that drops something, by name."""
    found = []
    for layer, block in enumerate(model.transformer_blocks):
        at = f"transformer_blocks.{layer}"
        for name, attention in (("attn1", block.attn1), ("attn2", block.attn2)):
            if attention is not None:
                found.append((f"{at}.{name}.to_out.1", attention.to_out[1]))
        found.append((f"{at}.ff.net.1", block.ff.net[1]))
    return found


def _label_embedders(model):
    """What replaces labels by the unconditional one in training."""
    return [
        block.norm1.emb.class_embedder for block in model.transformer_blocks if type(block.norm1) is AdaLayerNormZero
    ]


def dropout(model):
    """The rate of dropout that the model's modules have in common, training or not. Where they have several, the first."""
    for _, module in _dropouts(model):
        return float(getattr(module, "p", 0.0))
    return 0.0


def training(model):
    """(whether a forward draws dropout or label drops, why it would not be native)."""
    rate, active = dropout(model), False
    modes = []
    for name, module in _dropouts(model):
        if type(module) not in (nn.Dropout, nn.Identity):
            return False, f"{name} is a {type(module).__name__}"
        if tampered(module):
            return False, f"{name} has hooks"
        p = module.p if type(module) is nn.Dropout else 0.0
        if p > 0 and module.training or rate > 0:
            modes.append(module.training and p == rate)
            active = active or module.training and p > 0
    for embedder in _label_embedders(model):
        if embedder.training and embedder.dropout_prob != 0.1:
            return False, f"labels are dropped at a rate of their own, {embedder.dropout_prob}"
        modes.append(embedder.training)
        active = active or embedder.training
    if active and not all(modes):
        return False, "dropout at several rates, or in a part of the module"
    return active, None


def specification(model):
    """All that the native model has to know besides the weights' values, as text: {"config", "names"}."""
    block = model.transformer_blocks[0]
    config = {
        "num_attention_heads": model.num_attention_heads,
        "attention_head_dim": model.attention_head_dim,
        "num_layers": len(model.transformer_blocks),
        "cross_attention_dim": block.cross_attention_dim,
        "attention_bias": block.attention_bias,
        "activation_fn": block.activation_fn,
        "norm_elementwise_affine": block.norm_elementwise_affine,
        "double_self_attention": block.double_self_attention,
        "positional_embeddings": block.positional_embeddings,
        "num_positional_embeddings": block.num_positional_embeddings,
        "norm_type": block.norm_type,
        "dropout": dropout(model),
        "num_embeds_ada_norm": block.num_embeds_ada_norm,
    }
    if hasattr(model, "latent_image_embedding"):
        image = model.latent_image_embedding
        config |= {"num_vector_embeds": image.num_embed, "sample_size": image.height}
    else:
        scope = "frame" if type(model.norm) is FrameGroupNorm else "clip"
        config |= {
            "in_channels": model.in_channels,
            "norm_num_groups": model.norm.num_groups,
            "group_norm_scope": scope,
        }
    names = []
    for name, wrapped in parts(model):
        part = getattr(unwrapped(wrapped), "base_layer", unwrapped(wrapped))
        names += [f"{name}.{kind}" for kind in ("weight", "bias") if getattr(part, kind, None) is not None]
    names += [
        f"transformer_blocks.{layer}.pos_embed.pe"
        for layer, block in enumerate(model.transformer_blocks)
        if block.pos_embed is not None
    ]
    pairs = [f'"{key}": {_json(value)}' for key, value in config.items()]
    return f'{{"config": {{{", ".join(pairs)}}}, "names": [{", ".join(_json(name) for name in names)}]}}'


def _json(value):
    """json.dumps for what configurations hold, which torch.compile cannot trace."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)


def weights(model):
    """The tensors of specification(model)["names"], and the factors of LoRAs that are to be added to some of them:
    [(index of the weight, PEFT's layer)]."""
    tensors, loras = [], []
    for _, wrapped in parts(model):
        part = unwrapped(wrapped)
        if is_lora(part):
            if not part.merged and not part.disable_adapters:
                loras.append((len(tensors), part))
            part = part.base_layer
        if part.weight is not None:
            tensors.append(part.weight)
        bias = getattr(part, "bias", None)
        if bias is not None:
            tensors.append(bias)
    for block in model.transformer_blocks:
        if block.pos_embed is not None:
            tensors.append(block.pos_embed.pe)
    return tensors, loras
