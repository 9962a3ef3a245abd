"""The table of goldens: one line per case, and every configuration key and argument matters in some of them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A configuration and the call made with it.

    `clip` is (B, F, H, W), or (B, F) for discrete latents. `encoder` is (rows, S, D) with rows "pixel" (B*H*W of them)
    or "video" (B). `timestep` and `class_labels` are stored as given: a list is one value per video or one for all, a
    bare number has no axes. `context` is (length, stride, weighting) of FreeNoise's windows. Inputs are `mean` + `std`
    times a bell-shaped variable of variance 1.
    """

    name: str
    config: dict
    clip: tuple
    encoder: tuple | None = None
    encoder_std: float = 1.0
    timestep: list | int | float | None = None
    class_labels: list | int | None = None
    context: tuple | None = None
    mean: float = 0.0
    std: float = 1.0
    inputs_dtype: str = "f32"
    weights_dtype: str = "f32"
    pe: str = "formula"


def narrow(**changes):
    """A small module: C = 24 in 8 groups, I = 2 x 10."""
    return dict(in_channels=24, norm_num_groups=8, num_attention_heads=2, attention_head_dim=10) | changes


def single(**changes):
    """No second attention."""
    return narrow(double_self_attention=False, **changes)


def cross(dim, **changes):
    """The second attention reads encoder_hidden_states of width `dim`."""
    return narrow(double_self_attention=False, cross_attention_dim=dim, **changes)


def positional(length, **changes):
    return narrow(positional_embeddings="sinusoidal", num_positional_embeddings=length, **changes)


def ada(count=50, **changes):
    return narrow(norm_type="ada_norm", num_embeds_ada_norm=count, **changes)


def ada_zero(count=7, **changes):
    return narrow(norm_type="ada_norm_zero", num_embeds_ada_norm=count, **changes)


def discrete(classes, size, **changes):
    return dict(num_vector_embeds=classes, sample_size=size, num_attention_heads=2, attention_head_dim=12, **changes)


def heads(count, dim, channels, groups, **changes):
    return dict(
        num_attention_heads=count, attention_head_dim=dim, in_channels=channels, norm_num_groups=groups, **changes
    )


CASES = [
    # Shapes: heads, channels, groups, frames, pixels, videos.
    Case("defaults_16x88", dict(in_channels=64), (1, 3, 1, 2)),
    Case("heads_8x40", heads(8, 40, 320, 32), (1, 8, 1, 2)),
    Case("heads_5x64", heads(5, 64, 96, 32), (1, 8, 2, 3)),
    Case("heads_8x64_c320", heads(8, 64, 320, 32), (1, 4, 1, 3)),
    Case("heads_4x80", heads(4, 80, 64, 32), (1, 7, 3, 3)),
    Case("heads_2x160", heads(2, 160, 96, 32), (1, 6, 2, 3)),
    Case("heads_3x5", heads(3, 5, 24, 8), (2, 7, 3, 5)),
    Case("heads_5x7", heads(5, 7, 21, 7), (1, 9, 3, 5)),
    Case("heads_4x12", heads(4, 12, 40, 8), (1, 5, 4, 3)),
    Case("heads_1x33", heads(1, 33, 18, 6), (1, 6, 5, 3)),
    Case("heads_6x1", heads(6, 1, 12, 3), (2, 4, 3, 3)),
    Case("inner_equals_channels", heads(4, 8, 32, 32), (1, 6, 3, 5)),
    Case("inner_below_channels", heads(1, 4, 64, 16), (1, 5, 3, 3)),
    Case("groups_1", heads(2, 10, 24, 1), (2, 5, 3, 3)),
    Case("groups_32_of_32", heads(2, 10, 32, 32), (2, 5, 3, 3)),
    Case("groups_5_of_15", heads(2, 10, 15, 5), (2, 5, 5, 3)),
    Case("frames_1", narrow(), (3, 1, 5, 3)),
    Case("frames_2", narrow(), (2, 2, 5, 5)),
    Case("frames_17", narrow(), (1, 17, 3, 3)),
    Case("frames_24", narrow(), (1, 24, 1, 5)),
    Case("frames_32", narrow(), (1, 32, 3, 2)),
    Case("frames_33", narrow(), (1, 33, 2, 3)),
    Case("pixels_1x1", narrow(), (3, 8, 1, 1)),
    Case("pixels_1x13", narrow(), (1, 6, 1, 13)),
    Case("pixels_11x1", narrow(), (1, 6, 11, 1)),
    Case("pixels_7x5_batch_3", narrow(), (3, 3, 7, 5)),
    # Activations (geglu is the default everywhere else), depth, biases, affine-less norms.
    Case("activation_geglu", narrow(activation_fn="geglu"), (1, 5, 3, 3)),
    Case("activation_gelu", narrow(activation_fn="gelu"), (1, 5, 3, 3)),
    Case("activation_gelu_approximate", narrow(activation_fn="gelu-approximate"), (1, 5, 3, 3)),
    Case("activation_geglu_approximate", narrow(activation_fn="geglu-approximate"), (1, 5, 3, 3)),
    Case("activation_swiglu", narrow(activation_fn="swiglu"), (1, 5, 3, 3)),
    Case("activation_linear_silu", narrow(activation_fn="linear-silu"), (1, 5, 3, 3)),
    Case("layers_2", narrow(num_layers=2), (1, 6, 3, 3)),
    Case("layers_3_swiglu", narrow(num_layers=3, activation_fn="swiglu"), (2, 4, 3, 3)),
    Case("attention_bias", narrow(attention_bias=True), (1, 6, 3, 5)),
    Case("no_affine", narrow(norm_elementwise_affine=False), (1, 6, 3, 5)),
    Case(
        "no_affine_bias_layers_2",
        single(norm_elementwise_affine=False, attention_bias=True, num_layers=2),
        (1, 6, 3, 3),
    ),
    # The second attention and what it reads.
    Case("single_attention", single(), (1, 6, 3, 5)),
    Case("single_attention_encoder_ignored", single(), (1, 6, 3, 3), encoder=("video", 4, 20)),
    Case("double_self_cross_dim_unused", narrow(cross_attention_dim=13), (1, 6, 3, 3)),
    Case("double_self_encoder_pixel", narrow(), (1, 6, 3, 3), encoder=("pixel", 4, 20)),
    Case("double_self_encoder_video", narrow(cross_attention_dim=13), (2, 5, 3, 3), encoder=("video", 9, 20)),
    Case("cross_pixel", cross(13), (2, 4, 3, 3), encoder=("pixel", 5, 13)),
    Case("cross_video", cross(48), (1, 6, 3, 3), encoder=("video", 5, 48)),
    Case("cross_video_batch_3", cross(30, attention_bias=True), (3, 3, 3, 3), encoder=("video", 7, 30)),
    Case("cross_video_77_tokens", cross(32), (1, 6, 3, 3), encoder=("video", 77, 32)),
    Case("cross_one_token", cross(13), (2, 4, 3, 3), encoder=("pixel", 1, 13)),
    Case("cross_without_encoder", cross(20), (1, 6, 3, 5)),
    Case("cross_layers_2", cross(20, num_layers=2), (2, 3, 3, 3), encoder=("video", 6, 20)),
    Case("cross_large_logits", cross(13), (1, 6, 3, 3), encoder=("video", 6, 13), encoder_std=60.0),
    # Positions: as many as frames, more than frames, the table that the checkpoint holds.
    Case("positions_exact", positional(8), (1, 8, 3, 3)),
    Case("positions_longer", positional(32), (1, 16, 2, 3)),
    Case("positions_seeded", positional(16), (1, 9, 3, 3), pe="seeded"),
    Case("positions_seeded_layers_2", positional(12, num_layers=2), (2, 5, 3, 3), pe="seeded"),
    Case(
        "positions_cross",
        positional(33, double_self_attention=False, cross_attention_dim=13),
        (1, 33, 1, 3),
        encoder=("video", 5, 13),
    ),
    Case("positions_single", positional(16, double_self_attention=False), (2, 6, 3, 3)),
    Case("positions_f16", positional(24), (1, 24, 1, 5), weights_dtype="f16"),
    Case(
        "animatediff",
        heads(8, 40, 320, 32, positional_embeddings="sinusoidal", num_positional_embeddings=24),
        (1, 16, 1, 1),
    ),
    # GroupNorm per frame, and inputs that make a careless variance or epsilon show.
    Case("frame_scope", narrow(group_norm_scope="frame"), (2, 5, 3, 3)),
    Case("frame_scope_positions", positional(16, group_norm_scope="frame"), (1, 16, 3, 3)),
    Case("frame_scope_large_mean", narrow(group_norm_scope="frame"), (1, 6, 3, 3), mean=1000.0),
    Case("large_mean", narrow(), (1, 8, 3, 5), mean=1000.0),
    Case("large_mean_small_std", narrow(norm_num_groups=1), (1, 6, 3, 3), mean=-4096.0, std=0.25),
    Case("tiny_input", heads(2, 10, 64, 8), (1, 6, 3, 3), std=1e-4),
    Case("constant_input", narrow(), (1, 4, 3, 3), mean=3.0, std=0.0),
    # Conditional norms.
    Case("ada_norm", ada(), (3, 4, 3, 3), timestep=[0, 49, 17]),
    Case("ada_norm_one_for_all", ada(), (2, 5, 3, 3), timestep=[31]),
    Case("ada_norm_scalar", ada(1000), (2, 5, 3, 3), timestep=999),
    Case("ada_norm_single", ada(double_self_attention=False), (2, 5, 3, 3), timestep=[3, 42]),
    Case(
        "ada_norm_cross",
        ada(double_self_attention=False, cross_attention_dim=13),
        (2, 4, 3, 3),
        encoder=("pixel", 5, 13),
        timestep=[8, 21],
    ),
    Case(
        "ada_norm_positions_layers_2",
        ada(positional_embeddings="sinusoidal", num_positional_embeddings=9, num_layers=2),
        (2, 6, 3, 3),
        timestep=[8, 21],
    ),
    Case(
        "ada_norm_no_affine_bias",
        ada(norm_elementwise_affine=False, attention_bias=True),
        (2, 4, 3, 3),
        timestep=[5, 6],
    ),
    Case("ada_norm_tiny_input", ada() | dict(in_channels=64), (1, 5, 3, 3), std=1e-4, timestep=[12]),
    Case(
        "ada_norm_frame_scope_bf16", ada(group_norm_scope="frame"), (2, 4, 3, 3), timestep=[12, 1], weights_dtype="bf16"
    ),
    Case("ada_norm_zero", ada_zero(), (3, 4, 3, 3), timestep=[0, 999, 250], class_labels=[0, 6, 3]),
    Case("ada_norm_zero_unconditional", ada_zero(), (2, 5, 3, 3), timestep=[981, 981], class_labels=[2, 7]),
    Case("ada_norm_zero_one_for_all", ada_zero(1000), (2, 5, 3, 3), timestep=[500], class_labels=[281]),
    Case("ada_norm_zero_scalars", ada_zero(), (2, 4, 3, 3), timestep=7, class_labels=7),
    Case("ada_norm_zero_one_timestep", ada_zero(), (3, 3, 3, 3), timestep=[61], class_labels=[1, 7, 4]),
    Case("ada_norm_zero_fractional", ada_zero(), (2, 4, 3, 3), timestep=[37.25, 0.5], class_labels=[5, 1]),
    Case(
        "ada_norm_zero_single",
        ada_zero(double_self_attention=False),
        (2, 5, 3, 3),
        timestep=[3, 42],
        class_labels=[4, 2],
    ),
    Case(
        "ada_norm_zero_cross_layers_2",
        ada_zero(double_self_attention=False, cross_attention_dim=13, num_layers=2),
        (2, 4, 3, 3),
        encoder=("video", 5, 13),
        timestep=[8, 21],
        class_labels=[7, 0],
    ),
    Case(
        "ada_norm_zero_positions",
        ada_zero(positional_embeddings="sinusoidal", num_positional_embeddings=9),
        (2, 6, 3, 3),
        timestep=[8, 21],
        class_labels=[1, 2],
        pe="seeded",
    ),
    Case(
        "ada_norm_zero_no_affine_bias",
        ada_zero(norm_elementwise_affine=False, attention_bias=True),
        (2, 4, 3, 3),
        timestep=[700, 1],
        class_labels=[1, 2],
    ),
    Case(
        "ada_norm_zero_tiny_input",
        ada_zero() | dict(in_channels=64),
        (1, 5, 3, 3),
        std=1e-4,
        timestep=[12],
        class_labels=[6],
    ),
    Case(
        "ada_norm_zero_gelu_f16",
        ada_zero(activation_fn="gelu"),
        (2, 4, 3, 3),
        timestep=[3, 77],
        class_labels=[1, 2],
        weights_dtype="f16",
    ),
    # Discrete latents.
    Case("discrete", discrete(17, 3), (2, 4)),
    Case(
        "discrete_layers_2_positions",
        discrete(33, 3, num_layers=2, positional_embeddings="sinusoidal", num_positional_embeddings=16),
        (1, 6),
    ),
    Case(
        "discrete_cross",
        discrete(20, 4, double_self_attention=False, cross_attention_dim=13),
        (2, 3),
        encoder=("video", 5, 13),
    ),
    Case(
        "discrete_cross_pixel",
        discrete(9, 3, double_self_attention=False, cross_attention_dim=6),
        (2, 3),
        encoder=("pixel", 4, 6),
    ),
    Case("discrete_ada_norm", discrete(65, 3, norm_type="ada_norm", num_embeds_ada_norm=100), (2, 3), timestep=[99, 4]),
    Case(
        "discrete_ada_norm_zero",
        discrete(12, 5, norm_type="ada_norm_zero", num_embeds_ada_norm=10),
        (2, 3),
        timestep=[640, 20],
        class_labels=[10, 9],
    ),
    Case("discrete_two_classes_bias", discrete(3, 5, attention_bias=True, activation_fn="linear-silu"), (1, 5)),
    Case("discrete_no_affine_bf16", discrete(17, 3, norm_elementwise_affine=False), (1, 7), weights_dtype="bf16"),
    # FreeNoise: windows that end with the clip and that do not, weightings, attn2 of both kinds, depth, conditioning.
    Case("context", positional(8), (2, 12, 2, 3), context=(8, 2, "pyramid")),
    Case("context_flush", positional(8), (1, 15, 3, 3), context=(8, 4, "pyramid")),
    Case("context_flat", narrow(), (1, 14, 3, 2), context=(6, 4, "flat")),
    Case("context_flat_flush", positional(6), (2, 13, 1, 3), context=(6, 3, "flat"), pe="seeded"),
    Case("context_sawtooth", narrow(), (1, 16, 3, 2), context=(8, 4, "delayed_reverse_sawtooth")),
    Case("context_sawtooth_flush", positional(9), (1, 17, 1, 3), context=(6, 5, "delayed_reverse_sawtooth")),
    Case("context_odd", positional(7), (1, 17, 3, 2), context=(7, 3, "pyramid")),
    Case("context_of_all_frames", positional(9), (1, 9, 3, 2), context=(9, 4, "pyramid")),
    Case("context_of_all_but_one", positional(9), (2, 9, 2, 2), context=(8, 4, "pyramid")),
    Case("context_apart", positional(5), (1, 17, 3, 2), context=(5, 5, "pyramid")),
    Case("context_stride_1", narrow(), (1, 9, 1, 3), context=(4, 1, "pyramid")),
    Case("context_length_1", narrow(), (1, 4, 1, 3), context=(1, 1, "pyramid")),
    Case("context_single", single(), (1, 11, 3, 2), context=(4, 2, "pyramid")),
    Case("context_layers_2", positional(8, num_layers=2), (1, 13, 2, 3), context=(8, 3, "pyramid"), pe="seeded"),
    Case("context_cross_pixel", cross(13), (2, 10, 1, 3), encoder=("pixel", 5, 13), context=(4, 3, "pyramid")),
    Case(
        "context_cross_video_layers_2",
        cross(13, num_layers=2, positional_embeddings="sinusoidal", num_positional_embeddings=6),
        (2, 11, 2, 2),
        encoder=("video", 5, 13),
        context=(6, 4, "pyramid"),
    ),
    Case("context_discrete", discrete(17, 3), (1, 7), context=(4, 2, "pyramid")),
    Case("context_bf16", positional(8), (1, 18, 2, 3), context=(8, 4, "pyramid"), weights_dtype="bf16"),
    Case("context_frames_64", positional(32), (1, 64, 1, 2), context=(16, 4, "pyramid")),
    # Given and without effect, as in diffusers.
    Case("ignored_conditioning", narrow(), (2, 5, 3, 3), timestep=[5, 900], class_labels=[1, 3]),
    Case(
        "ignored_keys",
        narrow(dropout=0.5, sample_size=64, out_channels=7, num_positional_embeddings=2, num_embeds_ada_norm=10),
        (1, 6, 3, 3),
    ),
    # Sixteen-bit weights and inputs.
    Case("weights_f16", narrow(), (1, 8, 3, 3), weights_dtype="f16"),
    Case("weights_bf16", narrow(num_layers=2), (1, 8, 3, 3), weights_dtype="bf16"),
    Case("inputs_f16", narrow(), (1, 8, 3, 5), inputs_dtype="f16"),
    Case("inputs_bf16", cross(13), (1, 8, 3, 5), encoder=("video", 6, 13), inputs_dtype="bf16"),
    Case("all_f16", cross(13), (1, 8, 3, 3), encoder=("pixel", 4, 13), inputs_dtype="f16", weights_dtype="f16"),
    Case("all_bf16", positional(8, group_norm_scope="frame"), (1, 8, 3, 3), inputs_dtype="bf16", weights_dtype="bf16"),
]


@dataclass(frozen=True)
class SavedCase:
    """A model folder written by diffusers' save_pretrained; `save` are that method's arguments."""

    case: Case
    save: dict = field(default_factory=dict)


def tiny(**changes):
    """C = 32, I = 16."""
    return heads(2, 8, 32, 8, **changes)


SAVED = [
    SavedCase(Case("f32", tiny(positional_embeddings="sinusoidal", num_positional_embeddings=12), (1, 6, 3, 3))),
    SavedCase(
        Case(
            "f16",
            tiny(double_self_attention=False, cross_attention_dim=24),
            (2, 3, 3, 3),
            encoder=("pixel", 4, 24),
            weights_dtype="f16",
        )
    ),
    SavedCase(
        Case("bf16", tiny(attention_bias=True, norm_elementwise_affine=False), (1, 6, 3, 3), weights_dtype="bf16")
    ),
    SavedCase(Case("sharded", tiny(num_layers=2), (1, 6, 3, 3)), dict(max_shard_size="24KB")),
    SavedCase(Case("variant", tiny(activation_fn="gelu"), (1, 6, 3, 3), weights_dtype="f16"), dict(variant="fp16")),
    SavedCase(
        Case("sharded_variant", tiny(double_self_attention=False), (1, 6, 3, 3), weights_dtype="f16"),
        dict(variant="fp16", max_shard_size="8KB"),
    ),
]
