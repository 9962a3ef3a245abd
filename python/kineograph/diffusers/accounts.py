"""The account of the state: for every class that a native forward stands for, what its forward reads.

Every attribute, parameter, buffer and submodule of such a class is one of three things:

- *read*: its value goes into the specification of the native model, or into its weights;
- *required*: a native forward stands for this one value only;
- *without effect* on the numbers, with the reason.

What an instance has besides makes its module fall back, counted under that name. A class that is not in the table does
the same: a subclass, a quantised layer, a module of someone's own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any

import torch
from torch import nn

from . import upstream
from .blocks import AdaNormBlock, FrameGroupNorm


@dataclass(frozen=True, eq=False)
class Account:
    """The account of one class.

    Attributes:
        read: attributes whose values go into the specification.
        required: attribute -> the value it must have where it is there.
        without_effect: attribute -> why its value changes no number.
        parameters: names of parameters and buffers, which are weights of the native model, or of a LoRA.
        children: submodules that are called; None for a container, whose every entry is one.
        unread: submodule -> why it changes no number.
        methods: functions of the class that a forward goes through.
        either: attributes that a submodule may take the place of.
        around: whether hooks and a forward of its own run around the native forward, not inside of it.
    """

    read: "tuple[str, ...]" = ()
    required: "Mapping[str, Any]" = field(default_factory=dict)
    without_effect: "Mapping[str, str]" = field(default_factory=dict)
    parameters: "tuple[str, ...]" = ()
    children: "tuple[str, ...] | None" = ()
    unread: "Mapping[str, str]" = field(default_factory=dict)
    methods: "tuple[str, ...]" = ("forward",)
    either: "tuple[str, ...]" = ()
    around: bool = False


def _all(names: "Iterable[str]", reason: str) -> "dict[str, str]":
    return dict.fromkeys(names, reason)


_MADE = "read by the constructor alone; the modules it made are what counts"
_STORED = "runs when a state dict is saved or loaded, not in a forward"

# Every nn.Module has these. Hooks that a forward or a backward calls must be empty, where they are inside of the module.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CONTENT = ("_parameters", "_buffers", "_modules")  # looked at entry by entry
MODULE = {
    "training": "read where something is dropped, and there alone",
    "_is_full_backward_hook": "of backward hooks, of which there are none",
    **_all(
        ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
        "how hooks are called, of which there are none",
    ),
    **_all(
        (
            "_state_dict_hooks",
            "_state_dict_pre_hooks",
            "_load_state_dict_pre_hooks",
            "_load_state_dict_post_hooks",
            "_non_persistent_buffers_set",
        ),
        _STORED,
    ),
    "_compiled_call_impl": "what torch.compile made of the forward gives the forward's numbers",
    "_is_torch_compile": "torch.compile's note that it saw the module",
    "_is_hf_initialized": "whether weights were drawn or loaded",
    "_diffusers_hook": "diffusers' register of hooks, which work by replacing the forward",
    "_version": "of the state dict's format",
}

_TEMPORAL = Account(
    children=(
        *("norm", "proj_in", "transformer_blocks", "proj_out"),
        *("latent_image_embedding", "norm_out", "out"),  # of discrete latents, kineograph's own
    ),
    without_effect=_all(("num_attention_heads", "attention_head_dim", "in_channels"), _MADE)
    | _all(
        (
            "_internal_dict",
            "_gradient_checkpointing_func",
            "_hf_peft_config_loaded",
            "peft_config",
            "_name_or_path",
            "_use_default_values",
        ),
        "what diffusers notes of the whole model; its forward reads none of it",
    )
    | _all(("_hf_hook", "_old_forward", "forward"), "runs around the native forward")
    | _all(("_kineograph_accelerated", "_kineograph_checkpointing", "_kineograph_exchange"), "kineograph's own note"),
    around=True,
)

_SPATIAL = replace(
    _TEMPORAL,
    read=("use_linear_projection",),
    required={"is_input_continuous": True, "is_input_vectorized": False, "is_input_patches": False},
    children=("norm", "proj_in", "transformer_blocks", "proj_out"),
    without_effect={
        **_TEMPORAL.without_effect,
        **_all(("inner_dim", "out_channels"), _MADE),
        **_all(("caption_channels", "interpolation_scale", "use_additional_conditions"), "of patched input"),
        "gradient_checkpointing": "of gradients, which are diffusers' own",
    },
)
_SPATIO_TEMPORAL = replace(
    _SPATIAL,
    read=(),
    required={},
    children=(
        *("norm", "proj_in", "transformer_blocks", "temporal_transformer_blocks"),
        *("time_pos_embed", "time_proj", "time_mixer", "proj_out"),
    ),
)

_BLOCK = Account(
    read=("norm_type", "_chunk_size", "_chunk_dim"),
    required={"only_cross_attention": False},
    without_effect=_all(
        (
            "dim",
            "num_attention_heads",
            "attention_head_dim",
            "dropout",
            "cross_attention_dim",
            "activation_fn",
            "attention_bias",
            "double_self_attention",
            "norm_elementwise_affine",
            "positional_embeddings",
            "num_positional_embeddings",
            "num_embeds_ada_norm",
            "use_ada_layer_norm_zero",
            "use_ada_layer_norm",
            "use_ada_layer_norm_single",
            "use_layer_norm",
            "use_ada_layer_norm_continuous",
        ),
        _MADE,
    ),
    children=("pos_embed", "norm1", "attn1", "norm2", "attn2", "norm3", "ff"),
)

_ATTENTION = Account(
    read=("heads", "scale", "processor"),
    required={
        "residual_connection": False,
        "rescale_output_factor": 1.0,
        "spatial_norm": None,
        "group_norm": None,
        "norm_cross": None,
        "norm_q": None,
        "norm_k": None,
    },
    without_effect=_all(
        (
            "inner_dim",
            "inner_kv_dim",
            "query_dim",
            "use_bias",
            "is_cross_attention",
            "cross_attention_dim",
            "dropout",
            "out_dim",
            "out_context_dim",
            "context_pre_only",
            "pre_only",
            "scale_qk",
            "sliceable_head_dim",
            "added_kv_proj_dim",
            "only_cross_attention",
            "added_proj_bias",
            "_from_deprecated_attn_block",
        ),
        _MADE,
    )
    | _all(("upcast_attention", "upcast_softmax"), "softmax is f32 in any case")
    | _all(("is_causal", "fused_projections"), "the processors of the table do not read it")
    | _all(
        ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k"),
        "the processors of the table do not call it",
    ),
    children=("to_q", "to_k", "to_v", "to_out", "to_qkv", "to_kv"),
    either=("processor",),  # an IP-Adapter's has layers of its own
    methods=(
        "forward",
        "prepare_attention_mask",
        "head_to_batch_dim",
        "batch_to_head_dim",
        "get_attention_scores",
    ),
)

_GATED = Account(children=("proj", "activation"))
# In place, some inputs are views that autograd refuses to see written to.
_NOT_IN_PLACE = {"inplace": False}

ACCOUNTS: "dict[type, Account]" = {
    upstream.TransformerTemporalModel: _TEMPORAL,
    upstream.AnimateDiffTransformer3D: _TEMPORAL,
    upstream.Transformer2DModel: _SPATIAL,
    upstream.TransformerSpatioTemporalModel: _SPATIO_TEMPORAL,
    upstream.TemporalBasicTransformerBlock: Account(
        read=("_chunk_size", "_chunk_dim"),
        required={"is_res": True},
        children=("norm_in", "ff_in", "norm1", "attn1", "norm2", "attn2", "norm3", "ff"),
    ),
    upstream.AlphaBlender: Account(
        required={"merge_strategy": "learned_with_images", "switch_spatial_to_temporal_mix": False},
        parameters=("mix_factor",),
        methods=("forward", "get_alpha"),
    ),
    upstream.BasicTransformerBlock: _BLOCK,
    AdaNormBlock: _BLOCK,
    upstream.Attention: _ATTENTION,
    upstream.FeedForward: Account(children=("net",)),
    upstream.GEGLU: Account(children=("proj",), methods=("forward", "gelu")),
    upstream.GELU: Account(read=("approximate",), children=("proj",), methods=("forward", "gelu")),
    upstream.ApproximateGELU: Account(children=("proj",)),
    upstream.SwiGLU: _GATED,
    upstream.SinusoidalPositionalEmbedding: Account(parameters=("pe",)),
    upstream.AdaLayerNorm: Account(required={"chunk_dim": 0}, children=("emb", "silu", "linear", "norm")),
    upstream.AdaLayerNormZero: Account(children=("emb", "silu", "linear", "norm")),
    upstream.CombinedTimestepLabelEmbeddings: Account(children=("time_proj", "timestep_embedder", "class_embedder")),
    upstream.TimestepEmbedding: Account(
        required={"cond_proj": None, "post_act": None}, children=("linear_1", "act", "linear_2")
    ),
    upstream.Timesteps: Account(read=("num_channels", "flip_sin_to_cos", "downscale_freq_shift", "scale")),
    upstream.LabelEmbedding: Account(
        read=("num_classes", "dropout_prob", "training"),
        children=("embedding_table",),
        methods=("forward", "token_drop"),
    ),
    upstream.ImagePositionalEmbeddings: Account(
        read=("height", "width"),
        without_effect=_all(("num_embed", "embed_dim"), _MADE),
        children=("emb", "height_emb", "width_emb"),
    ),
    nn.Linear: Account(without_effect=_all(("in_features", "out_features"), _MADE), parameters=("weight", "bias")),
    nn.Conv2d: Account(
        required={
            "kernel_size": (1, 1),
            "stride": (1, 1),
            "padding": (0, 0),
            "dilation": (1, 1),
            "transposed": False,
            "groups": 1,
            "padding_mode": "zeros",
        },
        without_effect={
            **_all(("in_channels", "out_channels"), _MADE),
            **_all(("output_padding", "_reversed_padding_repeated_twice"), "of other paddings than zeros"),
        },
        parameters=("weight", "bias"),
        methods=("forward", "_conv_forward"),
    ),
    nn.LayerNorm: Account(
        read=("eps", "normalized_shape"),
        without_effect={"elementwise_affine": _MADE},
        parameters=("weight", "bias"),
    ),
    nn.GroupNorm: Account(
        read=("eps", "num_groups"),
        without_effect=_all(("num_channels", "affine"), _MADE),
        parameters=("weight", "bias"),
    ),
    nn.Embedding: Account(
        required={"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False},
        without_effect=_all(("num_embeddings", "embedding_dim"), _MADE) | {"norm_type": "of max_norm, which is None"},
        parameters=("weight",),
    ),
    nn.Dropout: Account(read=("p", "training"), required=_NOT_IN_PLACE),
    nn.Identity: Account(),
    nn.SiLU: Account(required=_NOT_IN_PLACE),
    nn.ModuleList: Account(children=None, methods=()),
}
ACCOUNTS[upstream.IPAdapterAttnProcessor2_0] = Account(
    read=("scale",),
    without_effect=_all(("hidden_size", "cross_attention_dim"), _MADE)
    | {"num_tokens": "of images that come in one tensor with the text, which are no tuple"},
    children=("to_k_ip", "to_v_ip"),
    methods=(),
)
ACCOUNTS[FrameGroupNorm] = ACCOUNTS[nn.GroupNorm]
if upstream.FreeNoiseTransformerBlock is not None:
    ACCOUNTS[upstream.FreeNoiseTransformerBlock] = replace(
        _BLOCK,
        read=(*_BLOCK.read, "context_length", "context_stride", "weighting_scheme"),
        methods=("forward", "_get_frame_indices", "_get_frame_weights"),
    )
if upstream.LinearActivation is not None:
    ACCOUNTS[upstream.LinearActivation] = _GATED

# Around a Linear; its adapters are looked at by peft_state, those that are active and no others.
PEFT_LINEAR = Account(
    read=("_disable_adapters", "merged_adapters", "_active_adapter"),
    required={"fan_in_fan_out": False},
    without_effect=_all(
        ("r", "lora_alpha", "use_rslora", "in_features", "out_features", "kwargs", "is_target_conv_1d_layer"), _MADE
    )
    | _all(
        ("adapter_layer_names", "other_param_names", "frozen_peft_weight_names"),
        "PEFT's lists of names, for saving and freezing",
    )
    | {
        "lora_variant": "looked at adapter by adapter",
        "scaling": "looked at adapter by adapter",
        "use_dora": "looked at adapter by adapter",
        "lora_bias": "the factors' own bias is what counts",
        "_caches": "emptied within the calls that fill it",
        "ephemeral_gpu_offload": "of merging",
        "cast_input_dtype_enabled": "casts the input to the factors' dtype, and both are multiplied in f32",
    },
    children=("base_layer",),
    unread={
        "lora_A": "looked at adapter by adapter",
        "lora_B": "looked at adapter by adapter",
        "lora_dropout": "looked at adapter by adapter",
        "lora_embedding_A": "of embeddings",
        "lora_embedding_B": "of embeddings",
        "lora_magnitude_vector": "of variants, which are looked at adapter by adapter",
    },
)
# In front of a module that AnimateDiff calls by keyword, a projection or a block: its rows in pieces.
SPLIT_INFERENCE = Account(
    read=("split_size", "input_kwargs_to_split"),
    required={"split_dim": 0},
    children=("module",),
)


def stands_for(kind: type) -> None:
    """Gives a class of kineograph the account of the class of diffusers that it is made from."""
    ACCOUNTS[kind] = next(ACCOUNTS[base] for base in kind.__mro__ if base in ACCOUNTS)


def account_of(kind: type) -> "Account | None":
    """The account of a class, or None."""
    account = ACCOUNTS.get(kind)
    if account is None:
        if kind is upstream.peft_linear():
            account = ACCOUNTS[kind] = PEFT_LINEAR
        elif kind is upstream.split_inference():
            account = ACCOUNTS[kind] = SPLIT_INFERENCE
    return account


@dataclass(frozen=True)
class Processor:
    """The account of an attention processor.

    Attributes:
        read: attributes that are looked at.
        without_effect: attribute -> why its value changes no number.
        reads_scale: whether Attention.scale is what it multiplies by; else 1/sqrt(head_dim).
        fused: whether to_qkv and to_kv take the place of to_q, to_k and to_v.
    """

    read: "tuple[str, ...]" = ()
    without_effect: "Mapping[str, str]" = field(default_factory=dict)
    reads_scale: bool = True
    fused: bool = False


PROCESSORS: "dict[type, Processor]" = {
    upstream.AttnProcessor2_0: Processor(reads_scale=False),
    upstream.AttnProcessor: Processor(),
    upstream.SlicedAttnProcessor: Processor(read=("slice_size",)),
    upstream.FusedAttnProcessor2_0: Processor(reads_scale=False, fused=True),
    upstream.IPAdapterAttnProcessor2_0: Processor(
        without_effect=_all((*CONTENT, *HOOKS), "looked at as a module")
        | MODULE
        | _all(("hidden_size", "cross_attention_dim", "num_tokens", "scale"), "looked at as a module"),
        reads_scale=False,
    ),
    upstream.XFormersAttnProcessor: Processor(without_effect={"attention_op": "which kernel computes the same"}),
}


def _functions() -> "list[tuple[Any, str, Any]]":
    """(owner, name, what is there now) of every function that diffusers' forward of these classes goes through."""
    found: list[tuple[Any, str, Any]] = [
        (kind, name, kind.__dict__[name])
        for kind, account in ACCOUNTS.items()
        for name in account.methods
        if name in kind.__dict__ and not account.around
    ]
    found += [(kind, "__call__", kind.__dict__["__call__"]) for kind in PROCESSORS]
    found += [(nn.Module, name, nn.Module.__dict__[name]) for name in ("__call__", "_call_impl", "__getattr__")]
    names = ("linear", "layer_norm", "group_norm", "gelu", "silu", "softmax", "scaled_dot_product_attention")
    found += [(torch.nn.functional, name, getattr(torch.nn.functional, name)) for name in names]
    found += [(torch, name, getattr(torch, name)) for name in ("baddbmm", "bmm", "sigmoid")]
    return found


FUNCTIONS = _functions()


def replaced_function() -> "str | None":
    """The name of a function of torch or diffusers that is another one than when this module was imported, or than in
    the file of its class: libraries that replace attention do so."""
    if torch.compiler.is_compiling():
        return None  # tracers put functions of their own in place of nn.Module's
    for owner, name, function in FUNCTIONS:
        if owner.__dict__.get(name) is not function:
            return f"{owner.__name__}.{name}"
    return None if not _FOREIGN else _FOREIGN[0]


def _foreign() -> "list[str]":
    """Functions that were replaced before this module was imported: Python code of another file than their class's."""
    import sys

    found = []
    for owner, name, function in FUNCTIONS:
        file = getattr(sys.modules.get(getattr(owner, "__module__", "")), "__file__", None)
        if isinstance(function, FunctionType) and file is not None and function.__code__.co_filename != file:
            found.append(f"{owner.__name__}.{name}")
    return found


_FOREIGN = _foreign()
