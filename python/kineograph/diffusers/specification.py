"""The native model of a record: configuration, names and places of the weights.

Reads records, and nothing of the module itself.
"""

import json
from typing import Any, Optional

from torch import nn

from . import upstream
from .accounts import PROCESSORS, SPLIT_INFERENCE, account_of
from .blocks import AdaNormBlock, FrameGroupNorm
from .records import Binding, Node, NotNative, Record, Weight, class_name, expect, must_be

# The epsilons that the engine has built in: of GroupNorm and AdaLayerNormZero, and of the other LayerNorms.
EPS_FINE, EPS = 1e-6, 1e-5
# The rate at which AdaLayerNormZero's labels are dropped in training.
LABEL_DROP = 0.1


def bind_temporal(record: Record) -> Binding:
    """The Binding of a temporal module's record, whose every attribute is in the account. Raises NotNative for what does
    not fit together: shapes, blocks that differ, numbers that the engine has built in."""
    return _Reader(Node(record, "", [0, 0])).binding()


def _counted(root: Node, name: str) -> "list[Node]":
    """The entries of a list of blocks, as many as there are names from 0 on."""
    blocks = [block for block in root[name].children.values() if block is not None]
    if not blocks:
        raise NotNative("it has no blocks")
    if list(root[name].children) != [str(layer) for layer in range(len(blocks))]:
        raise NotNative(f"{name} are not counted from 0")
    return blocks


class _Reader:
    """Reads a tree of nodes once, front to back."""

    def __init__(self, root: Node):
        self.root = root
        self.names: list[str] = []
        self.weights: list[Weight] = []
        self.loras: list[tuple[int, int]] = []
        self.unmerge: list[int] = []
        self.drops: list[Node] = []
        self.encoder: bool | None = None

    def binding(self) -> Binding:
        root = self.root
        discrete = root.get("latent_image_embedding") is not None
        config: dict[str, Any] = self._discrete_in(root) if discrete else self._projection_in(root)
        inner = config.pop("inner")
        blocks, first = self._blocks(root, inner)
        if discrete:
            self._norm(root["norm_out"], inner, EPS, affine=True)
            self._linear(root["out"], (config["num_vector_embeds"] - 1, inner))
        else:
            self._linear(root["proj_out"], (config["in_channels"], inner))
        position_weights = self._positions(blocks, inner, first["num_positional_embeddings"])
        rate, draws = self._dropout(blocks)
        context, positions = first.pop("context_dim"), first["num_positional_embeddings"]
        windows = first.pop("context")
        config |= first | {"num_layers": len(blocks), "dropout": rate}
        config["positional_embeddings"] = None if positions is None else "sinusoidal"
        self._encoder_of_fused(blocks, context, inner)
        return Binding(
            spec=json.dumps({"config": config, "names": self.names}),
            weights=tuple(self.weights),
            loras=tuple(self.loras),
            unmerge=tuple(self.unmerge),
            draws=draws,
            norm_type=first["norm_type"],
            discrete=discrete,
            in_channels=config.get("in_channels"),
            inner_dim=inner,
            context_dim=context,
            encoder=self.encoder,
            positions=positions,
            position_weights=position_weights,
            chunks=self._all_chunks(blocks),
            processors=tuple(_processors(block) for block in blocks),
            context=windows,
        )

    def _blocks(self, root: Node, inner: int) -> "tuple[list[Node], dict[str, Any]]":
        """The blocks, and what they have in common."""
        blocks = [_whole_block(block, root) for block in _counted(root, "transformer_blocks")]
        shared = [self._block(block, inner) for block in blocks]
        for block, one in zip(blocks, shared):
            for key, value in one.items():
                if value != shared[0][key]:
                    raise NotNative(f"{block.path} differs from the first block in {key}")
        return blocks, shared[0]

    def _all_chunks(self, blocks: "list[Node]") -> "tuple[tuple[int, int], ...]":
        return tuple(self._chunks(block) for block in blocks if block.values.get("_chunk_size") is not None)

    # In and out.

    def _group_norm(self, norm: Node) -> "tuple[int, int]":
        """Reads the model's GroupNorm. Returns its channels and groups."""
        channels = (norm.shapes.get("weight") or (0,))[0]
        self._tensor(norm, "weight", (channels,))
        self._tensor(norm, "bias", (channels,))
        expect(norm, "eps", EPS_FINE)
        groups = norm.values["num_groups"]
        if channels == 0 or channels % groups != 0:
            raise NotNative(f"norm has {groups} groups of {channels} channels")
        return channels, groups

    def _projection_in(self, root: Node) -> "dict[str, Any]":
        norm, proj_in = root["norm"], root["proj_in"]
        if norm.kind not in (nn.GroupNorm, FrameGroupNorm):
            raise NotNative(f"norm is a {class_name(norm.kind)}")
        channels, groups = self._group_norm(norm)
        inner = (_linear_inside(proj_in, self.root).shapes.get("weight") or (0,))[0]
        self._linear(proj_in, (inner, channels))
        scope = "frame" if norm.kind is FrameGroupNorm else "clip"
        return {"inner": inner, "in_channels": channels, "norm_num_groups": groups, "group_norm_scope": scope}

    def _discrete_in(self, root: Node) -> "dict[str, Any]":
        image = root["latent_image_embedding"]
        shape = image["emb"].shapes["weight"] or (0, 0)
        side = image.values["height"]
        if image.values["width"] != side:
            raise NotNative("latent_image_embedding is not square")
        self._tensor(image["emb"], "weight", shape)
        self._tensor(image["height_emb"], "weight", (side, shape[1]))
        self._tensor(image["width_emb"], "weight", (side, shape[1]))
        return {"inner": shape[1], "num_vector_embeds": shape[0], "sample_size": side}

    # A block.

    def _block(self, block: Node, inner: int) -> "dict[str, Any]":
        """Takes a block's weights. Returns the configuration that all blocks of one model share."""
        if block.kind not in (upstream.BasicTransformerBlock, AdaNormBlock, upstream.FreeNoiseTransformerBlock):
            raise NotNative(f"{block.path} is a {class_name(block.kind)}")
        attn2 = block.none_or("attn2")
        norm_type = block.values.get("norm_type", "layer_norm")
        if norm_type not in ("layer_norm", "ada_norm", "ada_norm_zero"):
            raise NotNative(f"{block.path} has norm_type {norm_type}")
        affine = block["norm3"].shapes.get("weight") is not None
        classes = self._conditioned_norm(block["norm1"], norm_type, inner, affine)
        if attn2 is not None:
            second = "layer_norm" if norm_type == "ada_norm_zero" else norm_type
            if self._conditioned_norm(block["norm2"], second, inner, affine) not in (None, classes):
                raise NotNative(f"{block.path}.norm2 has other timesteps than norm1")
        self._norm(block["norm3"], inner, EPS, affine)
        heads, bias, width = self._attention(block["attn1"], inner, fixed_width=inner)
        context = None
        if attn2 is not None:
            heads2, bias2, context = self._attention(attn2, inner, fixed_width=None)
            if (heads2, bias2) != (heads, bias):
                raise NotNative(f"{attn2.path} has other heads or biases than attn1")
        crosses = context is not None and context != inner
        pos_embed = block.none_or("pos_embed")
        positions = None
        if pos_embed is not None:
            positions = (pos_embed.shapes.get("pe") or (0, 0))[1:2] or (0,)
        return {
            "num_attention_heads": heads,
            "attention_head_dim": inner // heads,
            "cross_attention_dim": context if crosses else None,
            "attention_bias": bias,
            "activation_fn": self._feed_forward(block["ff"], inner),
            "norm_elementwise_affine": affine,
            "double_self_attention": context is not None and not crosses,
            "num_positional_embeddings": None if positions is None else positions[0],
            "norm_type": norm_type,
            "num_embeds_ada_norm": classes,
            "context_dim": context,
            "context": _windows(block),
        }

    def _conditioned_norm(self, norm: Node, norm_type: str, inner: int, affine: bool) -> "int | None":
        """Takes norm1 or norm2. Returns how many timesteps or classes it knows, None for a plain one."""
        if norm_type == "layer_norm":
            self._norm(norm, inner, EPS, affine)
            return None
        if norm_type == "ada_norm":
            if norm.kind is not upstream.AdaLayerNorm:
                raise NotNative(f"{norm.path} is a {class_name(norm.kind)}")
            timesteps = (norm["emb"].shapes.get("weight") or (0,))[0]
            self._tensor(norm["emb"], "weight", (timesteps, inner))
            self._linear(norm["linear"], (2 * inner, inner))
            self._norm(norm["norm"], inner, EPS, affine=False)
            return timesteps
        if norm.kind is not upstream.AdaLayerNormZero:
            raise NotNative(f"{norm.path} is a {class_name(norm.kind)}")
        emb = norm["emb"]
        timestep, labels = emb["timestep_embedder"], emb["class_embedder"]
        self._linear(timestep["linear_1"], (inner, 256))
        self._linear(timestep["linear_2"], (inner, inner))
        rows = (labels["embedding_table"].shapes.get("weight") or (0,))[0]
        self._tensor(labels["embedding_table"], "weight", (rows, inner))
        if labels.values["num_classes"] != rows - 1:
            raise NotNative(f"{labels.path} has {rows} rows for {labels.values['num_classes']} classes")
        self._linear(norm["linear"], (6 * inner, inner))
        self._norm(norm["norm"], inner, EPS_FINE, affine=False)
        for one in (timestep["act"], norm["silu"]):
            must_be(one, nn.SiLU)
        _timesteps(emb["time_proj"], channels=256, shift=1)
        return int(rows - 1)

    def _attention(self, attention: Node, inner: int, fixed_width: "int | None") -> "tuple[int, bool, int]":
        """Takes an attention's weights. Returns (heads, whether q, k and v have a bias, width that k and v read)."""
        must_be(attention, upstream.Attention)
        heads = attention.values["heads"]
        if not isinstance(heads, int) or heads < 1 or inner % heads != 0:
            raise NotNative(f"{attention.path} has {heads} heads for {inner} channels")
        processor = _processor(attention)
        scale = attention.values.get("scale")
        if processor.reads_scale and scale != (inner // heads) ** -0.5:
            raise NotNative(f"{attention.path} has a scale of its own")
        places = self._projections(attention, processor.fused)
        insides = [_linear_inside(node, self.root) for _, node, _, _ in places]
        width = fixed_width or (insides[1].shapes.get("weight") or (0, 0))[-1]
        biases = [inside.shapes.get("bias") is not None for inside in insides]
        for name, node, part, parts in places:
            wanted = (inner, width if name != "to_q" else inner)
            self._linear(node, wanted, bias=biases[0], path=f"{attention.path}.{name}", part=part, parts=parts)
        if any(bias != biases[0] for bias in biases):
            raise NotNative(f"{attention.path} has biases in a part of its projections")
        out = attention["to_out"]
        self._linear(out["0"], (inner, inner), path=f"{attention.path}.to_out.0")
        self.drops.append(out["1"])
        return heads, biases[0], width

    def _projections(self, attention: Node, fused: bool) -> "list[tuple[str, Node, int, int]]":
        """(name, where it is, part, of how many) of q, k and v."""
        names = ("to_q", "to_k", "to_v")
        if not fused:
            return [(name, attention[name], 0, 1) for name in names]
        together, two = attention.get("to_qkv"), attention.get("to_kv")
        if (together is None) == (two is None):
            raise NotNative(f"{attention.path} has a fused processor and no fused projections")
        if together is not None:
            must_be(together, nn.Linear)
            return [(name, together, part, 3) for part, name in enumerate(names)]
        assert two is not None
        must_be(two, nn.Linear)
        return [("to_q", attention["to_q"], 0, 1), ("to_k", two, 0, 2), ("to_v", two, 1, 2)]

    def _encoder_of_fused(self, blocks: "list[Node]", context: "int | None", inner: int) -> None:
        """Fused projections serve attention with encoder_hidden_states, or without, and never both."""
        if context is not None and context != inner:
            self.encoder = True
        for block in blocks:
            for name in ("attn1", "attn2"):
                attention = block.get(name)
                if attention is None or not _processor(attention).fused:
                    continue
                with_encoder = attention.get("to_kv") is not None
                if name == "attn1" and with_encoder or self.encoder not in (None, with_encoder) and name == "attn2":
                    raise NotNative(f"{attention.path} has projections that were fused for another use")
                if name == "attn2":
                    self.encoder = with_encoder

    def _feed_forward(self, ff: Node, inner: int) -> str:
        must_be(ff, upstream.FeedForward)
        net = ff["net"]
        act = net["0"]
        name = _activation(act)
        hidden = 4 * inner
        self._linear(act["proj"], (2 * hidden if name in ("geglu", "swiglu") else hidden, inner))
        self._linear(net["2"], (inner, hidden))
        self.drops.append(net["1"])
        for extra in list(net.children.values())[3:]:
            if extra is not None and (
                extra.kind is not nn.Dropout or _drop_rate(extra) > 0 and extra.values["training"]
            ):
                raise NotNative(f"{extra.path} is a {class_name(extra.kind)} behind the feed-forward")
        return name

    def _positions(self, blocks: "list[Node]", inner: int, rows: "int | None") -> "tuple[int, ...]":
        indices = []
        for block in blocks:
            pos_embed = block.get("pos_embed")
            if pos_embed is not None:
                must_be(pos_embed, upstream.SinusoidalPositionalEmbedding)
                indices.append(len(self.weights))
                self._tensor(pos_embed, "pe", (1, rows, inner))
        return tuple(indices)

    def _chunks(self, block: Node) -> "tuple[int, int]":
        size, dim = block.values["_chunk_size"], block.values["_chunk_dim"]
        if not isinstance(size, int) or size < 1 or not isinstance(dim, int) or not -3 <= dim <= 1:
            raise NotNative(f"{block.path} has a feed-forward in chunks of {size} along {dim}")
        return size, dim

    # Dropout and label drops.

    def _dropout(self, blocks: "list[Node]") -> "tuple[float, bool]":
        """(the rate that all dropout has in common, training or not; whether a forward draws anything)."""
        rate, active = _drop_rate(self.drops[0]), False
        modes = []
        for node in self.drops:
            p, training = _drop_rate(node), bool(node.values.get("training", False))
            if p > 0 and training or rate > 0:
                modes.append(training and p == rate)
                active = active or training and p > 0
        for block in blocks:
            if block["norm1"].kind is upstream.AdaLayerNormZero:
                labels = block["norm1"]["emb"]["class_embedder"]
                if labels.values["training"] and labels.values["dropout_prob"] != LABEL_DROP:
                    raise NotNative(f"labels are dropped at a rate of their own, {labels.values['dropout_prob']}")
                modes.append(labels.values["training"])
                active = active or labels.values["training"]
        if active and not all(modes):
            raise NotNative("dropout at several rates, or in a part of the module")
        return rate, active

    # Weights.

    def _tensor(
        self, node: Node, name: str, shape: "tuple[Any, ...]", path: str = "", part: int = 0, parts: int = 1
    ) -> None:
        """Takes one tensor, or rows of it."""
        found = node.shapes.get(name)
        where = f"{path or node.path}.{name}"
        if found != (shape[0] * parts, *shape[1:]):
            raise NotNative(f"{where} is {'missing' if found is None else f'of shape {found}'}")
        self.names.append(where)
        self.weights.append(Weight(node.indices[name], part, parts))

    def _norm(self, node: Node, inner: int, eps: float, affine: bool) -> None:
        must_be(node, nn.LayerNorm)
        expect(node, "eps", eps)
        expect(node, "normalized_shape", (inner,))
        for name in ("weight", "bias"):
            if affine:
                self._tensor(node, name, (inner,))
            elif node.shapes.get(name) is not None:
                raise NotNative(f"{node.path} has a {name}")

    def _linear(
        self, node: Node, shape: "tuple[int, int]", bias: bool = True, path: str = "", part: int = 0, parts: int = 1
    ) -> None:
        """Takes a Linear's weight and bias, and notes the LoRA around it."""
        linear = _linear_inside(node, self.root)
        layer = node if node.layer is not None else self._wrapped_lora(node)
        path = path or node.path
        if layer is not None and _called_by_keyword(node, self.root):
            raise NotNative(f"{path} has a LoRA, and PEFT's takes no argument of the name input")
        if layer is not None:
            disabled, merged, adapters = layer.values["state"]
            if disabled and merged:
                assert layer.layer is not None
                self.unmerge.append(layer.layer)
            if adapters:
                assert layer.layer is not None
                _check_adapters(layer, adapters, shape)
                self.loras.append((len(self.weights), layer.layer))
        self._tensor(linear, "weight", shape, path, part, parts)
        if bias:
            self._tensor(linear, "bias", shape[:1], path, part, parts)
        elif linear.shapes.get("bias") is not None:
            raise NotNative(f"{path} has a bias")

    def _wrapped_lora(self, node: Node) -> "Optional[Node]":
        inside = node.get("module")
        return inside if inside is not None and inside.layer is not None else None


def _called_by_keyword(node: Node, root: Node) -> bool:
    """Whether diffusers passes a projection its rows as `input=`."""
    return node.path in ("proj_in", "proj_out") and issubclass(root.kind, upstream.AnimateDiffTransformer3D)


def _windows(block: Node) -> "tuple[int, int, str] | None":
    """FreeNoise's windows. Those that leave frames out, or that diffusers fails at, are its own to see to."""
    if block.kind is not upstream.FreeNoiseTransformerBlock:
        return None
    length, stride, weighting = (
        block.values[name] for name in ("context_length", "context_stride", "weighting_scheme")
    )
    known = weighting in ("flat", "pyramid") or weighting == "delayed_reverse_sawtooth" and length % 2 == 0
    if not (known and type(length) is type(stride) is int and 1 <= stride <= length):
        raise NotNative(f"{block.path} has windows of {length} frames every {stride}, {weighting}")
    return length, stride, weighting


def _pieces(node: Node, root: Node, names: "tuple[str, ...]") -> Node:
    """The module that SplitInferenceModule calls with pieces of the named arguments' rows: the numbers are the same as
    all at once."""
    size, split = node.values["split_size"], node.values["input_kwargs_to_split"]
    named = issubclass(root.kind, upstream.AnimateDiffTransformer3D) and split == names
    if not named or not isinstance(size, int) or size < 1:
        raise NotNative(f"{node.path} is a {class_name(node.kind)}")
    return node["module"]


def _whole_block(block: Node, root: Node) -> Node:
    """A block itself, of one that is computed in pieces."""
    if account_of(block.kind) is not SPLIT_INFERENCE:
        return block
    inside = _pieces(block, root, ("encoder_hidden_states", "hidden_states"))
    # A timestep a row, and chunks of rows, would be cut into other pieces.
    if inside.values.get("norm_type") != "layer_norm" or inside.values.get("_chunk_size") is not None:
        raise NotNative(f"{block.path} is a {class_name(block.kind)}")
    return inside


def _linear_inside(node: Node, root: Node) -> Node:
    """The Linear itself, of one with a LoRA around it, or computed in pieces."""
    account = account_of(node.kind)
    if account is SPLIT_INFERENCE:
        if not _called_by_keyword(node, root):
            raise NotNative(f"{node.path} is a {class_name(node.kind)}")
        node = _pieces(node, root, ("input",))
    if node.kind is upstream.peft_linear():
        node = node["base_layer"]
    must_be(node, nn.Linear)
    return node


def _check_adapters(layer: Node, adapters: "tuple[Any, ...]", shape: "tuple[int, int]") -> None:
    for name, one_number, variant in adapters:
        if variant:
            raise NotNative(f"{layer.path} has a LoRA of another kind than W + BA")
        if not one_number:
            raise NotNative(f"{layer.path} has a LoRA whose scaling is not one number")
        dropout = layer[f"lora_dropout.{name}"]
        if dropout.kind not in (nn.Dropout, nn.Identity):
            raise NotNative(f"{dropout.path} is a {class_name(dropout.kind)}")
        if dropout.values.get("training", False) and _drop_rate(dropout) > 0:
            raise NotNative(f"{layer.path} has a LoRA with dropout, in training")
        a, b = layer[f"lora_A.{name}"], layer[f"lora_B.{name}"]
        for factor in (a, b):
            must_be(factor, nn.Linear)
            if factor.shapes.get("bias") is not None:
                raise NotNative(f"{layer.path} has a LoRA with a bias")
        rank = (a.shapes.get("weight") or (0,))[0]
        if a.shapes.get("weight") != (rank, shape[1]) or b.shapes.get("weight") != (shape[0], rank):
            raise NotNative(f"{layer.path} has a LoRA of shapes that do not fit")


def _activation(node: Node) -> str:
    """diffusers' name of a feed-forward's activation."""
    if node.kind is upstream.GELU:
        approximate = node.values.get("approximate", "none")
        if approximate not in ("none", "tanh"):
            raise NotNative(f"{node.path} has approximate {approximate}")
        return "gelu" if approximate == "none" else "gelu-approximate"
    if node.kind in (upstream.SwiGLU, upstream.LinearActivation):
        must_be(node["activation"], nn.SiLU)
        return "swiglu" if node.kind is upstream.SwiGLU else "linear-silu"
    names = {upstream.GEGLU: "geglu", upstream.ApproximateGELU: "geglu-approximate"}
    if node.kind not in names:
        raise NotNative(f"{node.path} is a {class_name(node.kind)}")
    return names[node.kind]


def _processor(attention: Node) -> Any:
    """The account of an attention's processor."""
    kind, attributes, values = attention.values.get("processor", (None, (), ()))
    known = PROCESSORS.get(kind)
    if known is None:
        raise NotNative(f"{attention.path} has a processor of its own, {getattr(kind, '__name__', kind)}")
    for name in attributes:
        if name not in (*known.read, *known.without_effect):
            raise NotNative(f"{attention.path} has a processor with an attribute of its own, {name}")
    if kind is upstream.XFormersAttnProcessor and not upstream.xformers_is_there():
        raise NotNative(f"{attention.path} has a processor for xformers, which is not installed")
    if kind is upstream.SlicedAttnProcessor and not (values and isinstance(values[0], int) and values[0] > 0):
        raise NotNative(f"{attention.path} has slices of {values}")
    return known


def _processors(block: Node) -> "tuple[type, ...]":
    attentions = (block.get("attn1"), block.get("attn2"))
    return tuple(attention.values["processor"][0] for attention in attentions if attention is not None)


def _timesteps(node: Node, channels: int, shift: int) -> None:
    """The sinusoid of a timestep or a frame: so many channels, cosines first."""
    must_be(node, upstream.Timesteps)
    wanted = {"num_channels": channels, "flip_sin_to_cos": True, "downscale_freq_shift": shift, "scale": 1}
    for name, value in wanted.items():
        expect(node, name, value)


def _drop_rate(node: Node) -> float:
    if node.kind not in (nn.Dropout, nn.Identity):
        raise NotNative(f"{node.path} is a {class_name(node.kind)}")
    rate = float(node.values.get("p", 0.0))
    if not 0 <= rate <= 1:
        raise NotNative(f"{node.path} drops at a rate of {rate}")
    return rate
