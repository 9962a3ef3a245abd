"""The goldens of Transformer2DModel and TransformerSpatioTemporalModel: one line per case, and every configuration key
and argument matters in some of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A configuration of Transformer2DModel and the call made with it.

    `shape` is (N, H, W). `encoder` is (rows, S, D): fewer rows than N are each read by N / rows rows in turn.
    `attention_mask` and `encoder_attention_mask` are shapes: (N, K) is drawn as zeros and ones, three axes as a bias.
    `images` has (T, scales) for each IP-Adapter, a scale a layer. `timestep` and `class_labels` are one value a row or
    one for all. Inputs are `mean` + `std` times a bell-shaped variable of variance 1.
    """

    name: str
    config: dict
    shape: tuple
    encoder: tuple | None = None
    encoder_std: float = 1.0
    attention_mask: tuple | None = None
    encoder_attention_mask: tuple | None = None
    images: tuple = ()
    timestep: list | None = None
    class_labels: list | None = None
    mean: float = 0.0
    std: float = 1.0
    inputs_dtype: str = "f32"
    weights_dtype: str = "f32"


@dataclass(frozen=True)
class VideoCase:
    """The same of TransformerSpatioTemporalModel. `shape` is (B, F, H, W); `image_only` has rows of zeros and ones."""

    name: str
    config: dict
    shape: tuple
    encoder: tuple | None
    image_only: tuple | None = None
    encoder_std: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    inputs_dtype: str = "f32"
    weights_dtype: str = "f32"


def narrow(**changes):
    """A small module: C = 16 in 8 groups, I = 2 x 8, no second attention."""
    return dict(in_channels=16, norm_num_groups=8, num_attention_heads=2, attention_head_dim=8) | changes


def cross(dim, **changes):
    """The second attention reads encoder_hidden_states of width `dim`."""
    return narrow(cross_attention_dim=dim, **changes)


def ada(count=50, **changes):
    return cross(12, norm_type="ada_norm", num_embeds_ada_norm=count, **changes)


def ada_zero(count=7, **changes):
    return narrow(norm_type="ada_norm_zero", num_embeds_ada_norm=count, **changes)


def svd(width=32, heads=2, dim=10, **changes):
    """in_channels = I, in 32 groups."""
    return dict(in_channels=width, num_attention_heads=heads, attention_head_dim=width // heads) | (
        dict(cross_attention_dim=dim) | changes
    )


CASES = [
    # Shapes: heads, channels, groups, pixels, rows.
    Case("self_only", narrow(), (2, 5, 7)),
    Case("pixels_1x1", cross(12), (3, 1, 1), encoder=(3, 4, 12)),
    Case("pixels_1x13", cross(12), (1, 1, 13), encoder=(1, 5, 12)),
    Case("pixels_11x1", cross(12), (2, 11, 1), encoder=(2, 5, 12)),
    Case("pixels_9x8", cross(12), (1, 9, 8), encoder=(1, 3, 12)),
    Case("rows_17", cross(6), (17, 2, 3), encoder=(17, 2, 6)),
    Case(
        "heads_8x40",
        dict(in_channels=32, num_attention_heads=8, attention_head_dim=40, cross_attention_dim=24),
        (1, 3, 4),
        encoder=(1, 7, 24),
    ),
    Case("heads_1x80", narrow(num_attention_heads=1, attention_head_dim=80), (1, 4, 4)),
    Case("heads_1x160", narrow(num_attention_heads=1, attention_head_dim=160), (1, 3, 3)),
    Case("heads_5x64", dict(in_channels=64, num_attention_heads=5, attention_head_dim=64), (1, 3, 3)),
    Case("heads_3x5", narrow(num_attention_heads=3, attention_head_dim=5), (2, 4, 3)),
    Case("heads_6x1", narrow(num_attention_heads=6, attention_head_dim=1), (1, 4, 5)),
    Case("defaults_16x88", dict(in_channels=32), (1, 2, 2)),
    Case("groups_5_of_15", narrow(in_channels=15, norm_num_groups=5), (2, 3, 4)),
    Case("groups_1", narrow(norm_num_groups=1), (2, 3, 4)),
    Case("out_channels_equal", narrow(out_channels=16), (1, 3, 3)),
    Case("layers_2", cross(12, num_layers=2), (2, 3, 5), encoder=(2, 6, 12)),
    Case("layers_3", narrow(num_layers=3), (1, 4, 3)),
    Case("layers_0", narrow(num_layers=0, attention_head_dim=9), (2, 3, 3)),
    # Projections.
    Case("linear_projection", cross(12, use_linear_projection=True), (2, 3, 5), encoder=(2, 6, 12)),
    Case(
        "linear_projection_wider",
        cross(12, use_linear_projection=True, attention_head_dim=13),
        (1, 4, 3),
        encoder=(1, 6, 12),
    ),
    Case("convolution_narrower", narrow(attention_head_dim=5), (1, 4, 3)),
    # Attentions.
    Case("attention_bias", cross(12, attention_bias=True), (2, 3, 3), encoder=(2, 4, 12)),
    Case("only_cross_attention", cross(12, only_cross_attention=True), (2, 3, 3), encoder=(2, 4, 12)),
    Case(
        "only_cross_attention_masks",
        cross(12, only_cross_attention=True),
        (2, 3, 3),
        encoder=(2, 4, 12),
        attention_mask=(2, 4),
        encoder_attention_mask=(2, 1, 4),
    ),
    Case("only_cross_no_attn2", narrow(only_cross_attention=True), (2, 3, 3), encoder=(2, 4, 16)),
    Case("only_cross_own_tokens", cross(16, only_cross_attention=True), (2, 3, 3)),
    Case("double_self", narrow(double_self_attention=True), (2, 3, 4)),
    Case("double_self_encoder", narrow(double_self_attention=True), (2, 3, 4), encoder=(2, 5, 16)),
    Case("double_self_cross_dim", cross(12, double_self_attention=True), (1, 3, 4)),
    Case("cross_own_tokens", cross(16), (2, 3, 4)),
    Case("upcast_attention", cross(12, upcast_attention=True), (1, 3, 4), encoder=(1, 5, 12)),
    Case("one_token", cross(12), (2, 3, 3), encoder=(2, 1, 12)),
    Case("tokens_77", cross(8), (1, 3, 3), encoder=(1, 77, 8)),
    Case("large_logits", cross(12), (1, 3, 3), encoder=(1, 9, 12), encoder_std=12.0),
    Case("texts_shared_by_4", cross(12), (8, 2, 3), encoder=(2, 5, 12)),
    Case("one_text_for_all", cross(12, num_layers=2), (3, 2, 3), encoder=(1, 5, 12)),
    # Masks.
    Case("mask", cross(12), (3, 3, 3), encoder=(3, 6, 12), encoder_attention_mask=(3, 6)),
    Case("mask_shared_text", cross(12), (4, 3, 3), encoder=(2, 6, 12), encoder_attention_mask=(4, 6)),
    Case("bias_row", cross(12), (2, 3, 3), encoder=(2, 6, 12), encoder_attention_mask=(2, 1, 6)),
    Case("bias_query", cross(12), (2, 2, 3), encoder=(2, 6, 12), encoder_attention_mask=(2, 6, 6)),
    Case("bias_head", cross(12), (2, 2, 3), encoder=(2, 4, 12), encoder_attention_mask=(4, 1, 4)),
    Case("bias_head_query", cross(12), (2, 2, 3), encoder=(2, 4, 12), encoder_attention_mask=(4, 6, 4)),
    Case("self_mask", narrow(), (2, 3, 4), attention_mask=(2, 12)),
    Case("self_bias", cross(12), (2, 2, 3), encoder=(2, 4, 12), attention_mask=(2, 6, 6)),
    Case(
        "both_masks_layers_2",
        cross(12, num_layers=2),
        (2, 2, 3),
        encoder=(2, 4, 12),
        attention_mask=(2, 6),
        encoder_attention_mask=(2, 4),
    ),
    # IP-Adapter.
    Case("ip_adapter", cross(12, num_ip_adapters=1), (2, 3, 3), encoder=(2, 5, 12), images=((4, (0.7,)),)),
    Case(
        "ip_adapters_2_layers_2",
        cross(12, num_ip_adapters=2, num_layers=2),
        (2, 2, 3),
        encoder=(2, 5, 12),
        images=((4, (1.0, 0.25)), (3, (-0.5, 0.5))),
    ),
    Case(
        "ip_adapter_mask",
        cross(12, num_ip_adapters=1),
        (2, 3, 3),
        encoder=(2, 5, 12),
        encoder_attention_mask=(2, 5),
        images=((1, (1.0,)),),
    ),
    # Norms.
    Case("norm_eps", cross(12, norm_eps=0.1), (1, 3, 3), encoder=(1, 4, 12)),
    Case("no_affine", cross(12, norm_elementwise_affine=False), (1, 3, 3), encoder=(1, 4, 12)),
    Case("ada_norm", ada(), (2, 3, 3), encoder=(2, 4, 12), timestep=[7, 49]),
    Case("ada_norm_one_for_all", ada(), (3, 3, 3), encoder=(3, 4, 12), timestep=[11]),
    Case("ada_norm_eps", ada(norm_eps=0.1), (1, 3, 3), encoder=(1, 4, 12), timestep=[11]),
    Case("ada_norm_outdated", cross(12, num_embeds_ada_norm=20), (1, 3, 3), encoder=(1, 4, 12), timestep=[3]),
    Case("ada_norm_zero", ada_zero(), (2, 3, 3), timestep=[3, 999], class_labels=[2, 7]),
    Case(
        "ada_norm_zero_cross",
        ada_zero(cross_attention_dim=12, norm_eps=0.05, num_layers=2),
        (2, 3, 3),
        encoder=(2, 4, 12),
        timestep=[500, 20],
        class_labels=[0, 6],
    ),
    # Activations, unused keys.
    *(
        Case(f"activation_{kind.replace('-', '_')}", cross(12, activation_fn=kind), (1, 3, 3), encoder=(1, 4, 12))
        for kind in ("gelu", "gelu-approximate", "geglu-approximate", "swiglu", "linear-silu")
    ),
    Case(
        "unused_keys",
        cross(
            12, dropout=0.3, sample_size=64, caption_channels=9, interpolation_scale=2.0, use_additional_conditions=True
        ),
        (1, 3, 3),
        encoder=(1, 4, 12),
    ),
    # Numbers.
    Case("large_mean", cross(12), (1, 3, 4), encoder=(1, 4, 12), mean=1000.0),
    Case("tiny_input", cross(12), (1, 3, 4), encoder=(1, 4, 12), std=1e-4),
    Case("constant_input", narrow(), (1, 3, 4), mean=3.0, std=0.0),
    Case("inputs_bf16", cross(12), (2, 3, 4), encoder=(2, 4, 12), inputs_dtype="bf16"),
    Case("inputs_f16", cross(12), (2, 3, 4), encoder=(2, 4, 12), inputs_dtype="f16"),
    Case("all_bf16", cross(12), (1, 3, 4), encoder=(1, 4, 12), inputs_dtype="bf16", weights_dtype="bf16"),
    Case(
        "all_f16",
        cross(12, use_linear_projection=True),
        (1, 3, 4),
        encoder=(1, 4, 12),
        inputs_dtype="f16",
        weights_dtype="f16",
    ),
]

VIDEO_CASES = [
    # Shapes.
    VideoCase("frames_5", svd(), (1, 5, 3, 4), (5, 4, 10)),
    VideoCase("frames_1", svd(), (1, 1, 3, 4), (1, 4, 10)),
    VideoCase("frames_2", svd(), (2, 2, 3, 3), (4, 4, 10)),
    VideoCase("frames_14", svd(), (1, 14, 1, 2), (14, 1, 10)),
    VideoCase("frames_25", svd(), (1, 25, 1, 1), (25, 1, 10)),
    VideoCase("frames_33", svd(), (1, 33, 1, 1), (33, 2, 10)),
    VideoCase("pixels_1x1", svd(), (2, 3, 1, 1), (6, 3, 10)),
    VideoCase("pixels_7x5", svd(), (1, 2, 7, 5), (2, 3, 10)),
    VideoCase("pixels_1x13", svd(), (1, 2, 1, 13), (2, 3, 10)),
    VideoCase("pixels_17x1", svd(), (1, 2, 17, 1), (2, 3, 10)),
    VideoCase("videos_3", svd(), (3, 2, 2, 2), (6, 3, 10)),
    VideoCase("videos_4_shared_frames", svd(), (4, 3, 1, 2), (4, 3, 10)),
    # Heads and widths.
    VideoCase("heads_1", svd(heads=1), (1, 3, 2, 2), (3, 3, 10)),
    VideoCase("heads_4", svd(heads=4), (1, 3, 2, 2), (3, 3, 10)),
    VideoCase("heads_8x4", svd(heads=8), (1, 3, 2, 2), (3, 3, 10)),
    VideoCase("heads_32x1", svd(heads=32), (1, 3, 2, 2), (3, 3, 10)),
    VideoCase("heads_1x64", svd(64, 1), (1, 2, 2, 2), (2, 3, 10)),
    VideoCase("heads_5x32", svd(160, 5), (1, 2, 1, 2), (2, 3, 10)),
    VideoCase("heads_2x80", svd(160, 2), (1, 2, 1, 2), (2, 3, 10)),
    VideoCase("heads_8x40", svd(320, 8, 12), (1, 2, 1, 1), (2, 1, 12)),
    VideoCase("width_96", svd(96, 3), (1, 2, 2, 1), (2, 3, 10)),
    VideoCase("out_channels_unused", svd(out_channels=7), (1, 2, 2, 2), (2, 3, 10)),
    # Layers.
    VideoCase("layers_2", svd(num_layers=2), (1, 3, 2, 3), (3, 3, 10)),
    VideoCase("layers_3", svd(num_layers=3), (2, 2, 2, 1), (4, 3, 10)),
    VideoCase("layers_0", svd(num_layers=0), (1, 2, 2, 2), (2, 3, 10)),
    # Texts.
    VideoCase("one_token", svd(), (1, 4, 2, 2), (4, 1, 10)),
    VideoCase("tokens_33", svd(dim=4), (1, 2, 2, 2), (2, 33, 4)),
    VideoCase("large_logits", svd(), (1, 3, 2, 2), (3, 5, 10), encoder_std=12.0),
    VideoCase("row_a_video", svd(num_layers=2), (2, 3, 2, 2), (2, 3, 10)),
    VideoCase("row_for_all", svd(), (3, 2, 2, 2), (1, 3, 10)),
    VideoCase("no_cross_attention", svd(dim=None), (2, 3, 2, 2), None),
    VideoCase("no_cross_attention_layers_2", svd(dim=None, num_layers=2), (1, 3, 2, 2), None),
    VideoCase("width_of_text_is_inner", svd(dim=32), (1, 3, 2, 2), (3, 4, 32)),
    # Images among frames.
    VideoCase("image_only", svd(), (2, 3, 2, 2), (6, 3, 10), image_only=((0, 1, 0), (1, 1, 0))),
    VideoCase("image_only_all", svd(num_layers=2), (1, 3, 2, 2), (3, 3, 10), image_only=((1, 1, 1),)),
    VideoCase("image_only_for_all", svd(), (2, 3, 2, 2), (6, 3, 10), image_only=((0, 0, 1),)),
    # Numbers.
    VideoCase("large_mean", svd(), (1, 3, 2, 2), (3, 3, 10), mean=1000.0),
    VideoCase("tiny_input", svd(), (1, 3, 2, 2), (3, 3, 10), std=1e-4),
    VideoCase("inputs_bf16", svd(), (1, 3, 2, 2), (3, 3, 10), inputs_dtype="bf16"),
    VideoCase("inputs_f16", svd(), (1, 3, 2, 2), (3, 3, 10), inputs_dtype="f16"),
    VideoCase("all_bf16", svd(), (1, 3, 2, 2), (3, 3, 10), inputs_dtype="bf16", weights_dtype="bf16"),
    VideoCase("all_f16", svd(), (1, 3, 2, 2), (3, 3, 10), inputs_dtype="f16", weights_dtype="f16"),
]
