"""The models behind the goldens, all of diffusers' own parts.

The default configuration is diffusers' TransformerTemporalModel itself. What its documentation promises and its
constructor does not build (conditional norms, discrete latents, GroupNorm per frame) is put together here from
BasicTransformerBlock, ImagePositionalEmbeddings, LayerNorm and Linear, and adds no arithmetic of its own.
"""

import inspect

import seeded_weights
import torch
from diffusers import TransformerTemporalModel
from diffusers.models.attention import BasicTransformerBlock, FreeNoiseTransformerBlock
from diffusers.models.embeddings import ImagePositionalEmbeddings
from torch import nn

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(TransformerTemporalModel.__init__).parameters.items()
    if name != "self"
}
EXTRA_DEFAULTS = {
    "norm_type": "layer_norm",
    "num_embeds_ada_norm": None,
    "num_vector_embeds": None,
    "group_norm_scope": "clip",
}


def complete(config):
    """`config` with every key that it leaves out at its default."""
    known = DEFAULTS | EXTRA_DEFAULTS
    if unknown := set(config) - set(known):
        raise KeyError(f"unknown configuration keys: {sorted(unknown)}")
    return known | config


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics span one frame; input (B, C, F, H, W) as TransformerTemporalModel hands it over."""

    def forward(self, x):
        batch, channels, frames, height, width = x.shape
        per_frame = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
        return super().forward(per_frame).reshape(batch, frames, channels, height, width).transpose(1, 2)


class AdaNormBlock(BasicTransformerBlock):
    """A block with AdaLayerNorm, run once per video.

    diffusers' AdaLayerNorm splits scale and shift along axis 0, which is right for a timestep without axes only; so
    every video goes through by itself, with its own timestep.
    """

    def forward(self, hidden_states, encoder_hidden_states=None, timestep=None, **kwargs):
        rows = hidden_states.shape[0] // timestep.shape[0]
        videos = []
        for video, value in enumerate(timestep):
            mine = slice(video * rows, (video + 1) * rows)
            encoder = None if encoder_hidden_states is None else encoder_hidden_states[mine]
            videos.append(super().forward(hidden_states[mine], encoder_hidden_states=encoder, timestep=value, **kwargs))
        return torch.cat(videos)


class RoundedFreeNoiseBlock(FreeNoiseTransformerBlock):
    """A block whose frame weights are those of a model in `weights_dtype`, although it runs in float64."""

    weights_dtype = torch.float32

    def _get_frame_weights(self, *arguments):
        return torch.tensor(super()._get_frame_weights(*arguments), dtype=self.weights_dtype).tolist()


def in_windows(model, config, context, weights_dtype):
    """`model` with FreeNoise's blocks, as AnimateDiffPipeline.enable_free_noise puts them there."""
    c = complete(config)
    length, stride, weighting = context
    from_config = (
        "dropout cross_attention_dim activation_fn attention_bias double_self_attention norm_elementwise_affine "
        "positional_embeddings num_positional_embeddings"
    )
    blocks = nn.ModuleList(
        RoundedFreeNoiseBlock(
            c["num_attention_heads"] * c["attention_head_dim"],
            c["num_attention_heads"],
            c["attention_head_dim"],
            context_length=length,
            context_stride=stride,
            weighting_scheme=weighting,
            **{key: c[key] for key in from_config.split()},
        )
        for _ in range(c["num_layers"])
    )
    for block in blocks:
        block.weights_dtype = DTYPES[weights_dtype]
        if not hasattr(block, "attn2"):
            block.attn2 = None  # its forward reads it
    model.transformer_blocks = blocks
    return model.eval()


def make_blocks(c):
    block = AdaNormBlock if c["norm_type"] == "ada_norm" else BasicTransformerBlock
    from_config = (
        "dropout cross_attention_dim activation_fn num_embeds_ada_norm attention_bias double_self_attention "
        "norm_elementwise_affine norm_type positional_embeddings num_positional_embeddings"
    )
    return nn.ModuleList(
        block(
            c["num_attention_heads"] * c["attention_head_dim"],
            c["num_attention_heads"],
            c["attention_head_dim"],
            **{key: c[key] for key in from_config.split()},
        )
        for _ in range(c["num_layers"])
    )


class DiscreteTemporalModel(nn.Module):
    """Class indices in, log-probabilities out; begins and ends as diffusers' vectorised Transformer2DModel."""

    def __init__(self, c):
        super().__init__()
        inner, size, classes = (
            c["num_attention_heads"] * c["attention_head_dim"],
            c["sample_size"],
            c["num_vector_embeds"],
        )
        self.latent_image_embedding = ImagePositionalEmbeddings(classes, size, size, inner)
        self.transformer_blocks = make_blocks(c)
        self.norm_out = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, classes - 1)

    def forward(self, hidden_states, num_frames, **conditioning):
        x = self.latent_image_embedding(hidden_states)  # (B*F, L, I)
        rows, pixels, inner = x.shape
        x = x.reshape(-1, num_frames, pixels, inner).transpose(1, 2).reshape(-1, num_frames, inner)
        for block in self.transformer_blocks:
            x = block(x, **conditioning)
        x = x.reshape(-1, pixels, num_frames, inner).transpose(1, 2).reshape(rows, pixels, inner)
        logits = self.out(self.norm_out(x)).permute(0, 2, 1)
        return (nn.functional.log_softmax(logits.double(), dim=1).to(logits.dtype),)


def build(config):
    """The model of `config`, in evaluation mode, float32, with whatever weights its constructor gave it."""
    c = complete(config)
    if c["num_vector_embeds"] is not None:
        return DiscreteTemporalModel(c).eval()
    model = TransformerTemporalModel(**{key: c[key] for key in DEFAULTS})
    if c["norm_type"] != "layer_norm":
        model.transformer_blocks = make_blocks(c)
    if c["group_norm_scope"] == "frame":
        model.norm = FrameGroupNorm(c["norm_num_groups"], c["in_channels"], eps=model.norm.eps)
    return model.eval()


def set_weights(model, seed, weights_dtype, pe):
    """Draws every parameter and rounds it to `weights_dtype`; the values are kept as float32."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, value in model.state_dict().items():
        if name.endswith(".pe") and pe == "formula":
            drawn = value.float()
        else:
            drawn = torch.from_numpy(seeded_weights.draw(seed, name, shapes))
        value.copy_(drawn.to(DTYPES[weights_dtype]))


def run(model, config, inputs, num_frames):
    """The model's output for tensors named as in a golden, in the dtype that its weights have."""
    with torch.no_grad():
        return forward(model, config, inputs, num_frames)


def gradients(model, config, inputs, num_frames, sample_gradient):
    """Name -> gradient of sum(sample * sample_gradient): every parameter in the state dict's order, then the inputs."""
    leaves = {
        name: inputs[name].to(torch.float64).requires_grad_()
        for name in ("hidden_states", "encoder_hidden_states")
        if name in inputs and inputs[name].is_floating_point()
    }
    model.double().zero_grad()
    sample = forward(model, config, inputs | leaves, num_frames)
    (sample.double() * sample_gradient).sum().backward()
    found = dict(model.named_parameters()) | leaves
    return {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in found.items()}


def forward(model, config, inputs, num_frames):
    c = complete(config)
    dtype = next(model.parameters()).dtype
    hidden = inputs["hidden_states"]
    discrete = c["num_vector_embeds"] is not None
    videos = hidden.shape[0] // num_frames
    pixels = hidden.shape[1] if discrete else hidden.shape[2] * hidden.shape[3]

    encoder = inputs.get("encoder_hidden_states")
    if encoder is not None:
        encoder = encoder.to(dtype)
        if encoder.shape[0] != videos * pixels:  # a row per video: diffusers wants it once per pixel
            encoder = encoder.repeat_interleave(pixels, dim=0)

    timestep, labels = inputs.get("timestep"), inputs.get("class_labels")
    if c["norm_type"] != "layer_norm":
        timestep = timestep.reshape(-1).expand(videos)
    if c["norm_type"] == "ada_norm_zero":
        timestep = timestep.repeat_interleave(pixels)
        labels = labels.reshape(-1).expand(videos).repeat_interleave(pixels)

    return model(
        hidden if discrete else hidden.to(dtype),
        encoder_hidden_states=encoder,
        timestep=timestep,
        class_labels=labels,
        num_frames=num_frames,
        **({} if discrete else {"return_dict": False}),
    )[0]
