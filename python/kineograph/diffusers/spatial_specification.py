"""The Binding of a native spatial model, of a Transformer2DModel's or a TransformerSpatioTemporalModel's record."""

import json
from typing import Any

from torch import nn

from . import upstream
from .records import Binding, Node, NotNative, Record, must_be
from .specification import (
    EPS,
    _counted,
    _linear_inside,
    _processors,
    _Reader,
    _timesteps,
    bind_temporal,
)


def bind(record: Record) -> Binding:
    """The Binding of a record of any class. Raises NotNative for what does not fit together, or the engine has not built
    in."""
    if not issubclass(record.kind, (upstream.Transformer2DModel, upstream.TransformerSpatioTemporalModel)):
        return bind_temporal(record)
    root = Node(record, "", [0, 0])
    return (_VideoReader if root.get("temporal_transformer_blocks") is not None else _ImageReader)(root).binding()


class _ImageReader(_Reader):
    """Transformer2DModel over continuous latents."""

    kind = "Model2D"

    def __init__(self, root: Node):
        super().__init__(root)
        self.scales: list[tuple[float, ...]] = []

    def binding(self) -> Binding:
        root = self.root
        config = self._in(root)
        inner, channels = config.pop("inner"), config["in_channels"]
        blocks, first = self._blocks(root, inner)
        if first["context"] is not None:
            raise NotNative("its blocks have windows of frames")
        if first["norm_type"] != "layer_norm":
            raise NotNative(f"its blocks have norm_type {first['norm_type']}")
        context = first["context_dim"]
        config |= {
            "num_attention_heads": first["num_attention_heads"],
            "attention_head_dim": first["attention_head_dim"],
            "num_layers": len(blocks),
            "cross_attention_dim": context,
        }
        config |= self._rest(root, blocks, first, inner)
        self._project(root["proj_out"], (channels, inner))
        rate, draws = self._dropout(blocks)
        self._encoder_of_fused(blocks, context, inner)
        return Binding(
            spec=json.dumps({"kind": self.kind, "config": config, "names": self.names}),
            weights=tuple(self.weights),
            loras=tuple(self.loras),
            unmerge=tuple(self.unmerge),
            draws=draws,
            norm_type="layer_norm",
            discrete=False,
            in_channels=channels,
            inner_dim=inner,
            context_dim=context,
            encoder=self.encoder,
            positions=None,
            position_weights=(),
            chunks=self._all_chunks(blocks),
            processors=tuple(_processors(block) for block in blocks),
            temporal_chunks=self._all_chunks(self._temporal()),
            ip_scales=tuple(self.scales),
        )

    def _attention(self, attention: Node, inner: int, fixed_width: "int | None") -> "tuple[int, bool, int]":
        found = super()._attention(attention, inner, fixed_width)
        adapter = attention.get("processor")
        if adapter is not None:
            self._ip_adapter(attention, adapter, inner, found[2])
        return found

    def _ip_adapter(self, attention: Node, adapter: Node, inner: int, width: int) -> None:
        """Takes the layers of an attention's IP-Adapters, and notes their scales."""
        must_be(adapter, upstream.IPAdapterAttnProcessor2_0)
        scales = adapter.values["scale"]
        if not attention.path.endswith("attn2") or not isinstance(scales, tuple):
            raise NotNative(f"{attention.path} has IP-Adapters of another kind")
        for name in ("to_k_ip", "to_v_ip"):
            layers = list(adapter[name].children.values())
            if len(layers) != len(scales) or not all(isinstance(scale, (int, float)) for scale in scales):
                raise NotNative(f"{adapter.path} has scales that are no numbers, or not one for each adapter")
            for layer in layers:
                if layer is None:
                    raise NotNative(f"{adapter.path}.{name} lacks a layer")
                self._linear(layer, (inner, width), bias=False)
        self.scales.append(tuple(float(scale) for scale in scales))

    def _temporal(self) -> "list[Node]":
        return []

    def _rest(self, root: Node, blocks: "list[Node]", first: "dict[str, Any]", inner: int) -> "dict[str, Any]":
        """The rest of the configuration, after the blocks."""
        shared = ("attention_bias", "activation_fn", "norm_elementwise_affine")
        adapters = {len(scales) for scales in self.scales} or {0}
        if len(adapters) != 1 or self.scales and len(self.scales) != len(blocks):
            raise NotNative("its blocks have different IP-Adapters")
        own = {"use_linear_projection": self.linear, "num_ip_adapters": adapters.pop()}
        return {key: first[key] for key in shared} | own

    def _in(self, root: Node) -> "dict[str, Any]":
        norm, proj_in = root["norm"], root["proj_in"]
        must_be(norm, nn.GroupNorm)
        channels, groups = self._group_norm(norm)
        self.linear = proj_in.kind is not nn.Conv2d  # use_linear_projection
        inner = (self._inside(proj_in).shapes.get("weight") or (0,))[0]
        self._project(proj_in, (inner, channels))
        return {"inner": inner, "in_channels": channels, "norm_num_groups": groups}

    def _project(self, node: Node, shape: "tuple[int, int]") -> None:
        """proj_in or proj_out: a Linear, or a convolution of single pixels, as use_linear_projection has it."""
        if (node.kind is not nn.Conv2d) != self.linear or self.root.values.get(
            "use_linear_projection", self.linear
        ) != self.linear:
            raise NotNative(f"{node.path} is a {node.kind.__name__}")
        if self.linear:
            self._linear(node, shape)
            return
        self._tensor(node, "weight", (*shape, 1, 1))
        self._tensor(node, "bias", shape[:1])

    def _inside(self, node: Node) -> Node:
        return node if node.kind is nn.Conv2d else _linear_inside(node, self.root)


class _VideoReader(_ImageReader):
    """TransformerSpatioTemporalModel."""

    kind = "SpatioTemporalModel"

    def _temporal(self) -> "list[Node]":
        return _counted(self.root, "temporal_transformer_blocks")

    def _rest(self, root: Node, blocks: "list[Node]", first: "dict[str, Any]", inner: int) -> "dict[str, Any]":
        if self.scales:
            raise NotNative("it has IP-Adapters")
        if first["attention_bias"] or first["activation_fn"] != "geglu" or not first["norm_elementwise_affine"]:
            raise NotNative("its blocks have biases, an activation or norms of their own")
        temporal = self._temporal()
        if len(temporal) != len(blocks):
            raise NotNative(f"it has {len(blocks)} blocks and {len(temporal)} temporal ones")
        for block in temporal:
            self._temporal_block(block, inner, first)
        channels = (root["norm"].shapes.get("weight") or (0,))[0]
        if channels != inner:
            raise NotNative(f"it is {inner} wide inside, of {channels} channels")
        embed, proj = root["time_pos_embed"], root["time_proj"]
        self._linear(embed["linear_1"], (4 * channels, channels))
        self._linear(embed["linear_2"], (channels, 4 * channels))
        must_be(embed["act"], nn.SiLU)
        _timesteps(proj, channels, shift=0)
        must_be(root["time_mixer"], upstream.AlphaBlender)
        self._tensor(root["time_mixer"], "mix_factor", (1,))
        if root["norm"].values["num_groups"] != 32:
            raise NotNative(f"norm has {root['norm'].values['num_groups']} groups")
        return {}

    def _in(self, root: Node) -> "dict[str, Any]":
        config = super()._in(root)
        if not self.linear:
            raise NotNative("proj_in is a Conv2d")
        config.pop("norm_num_groups")
        return config

    def _temporal_block(self, block: Node, inner: int, first: "dict[str, Any]") -> None:
        must_be(block, upstream.TemporalBasicTransformerBlock)
        self._norm(block["norm_in"], inner, EPS, affine=True)
        activations = [self._feed_forward(block["ff_in"], inner)]
        self._norm(block["norm1"], inner, EPS, affine=True)
        found = [self._attention(block["attn1"], inner, fixed_width=inner)]
        attn2 = block.none_or("attn2")
        if (attn2 is None) != (first["context_dim"] is None):
            raise NotNative(f"{block.path} has another kind of attn2 than its spatial block")
        if attn2 is not None:
            self._norm(block["norm2"], inner, EPS, affine=True)
            found.append(self._attention(attn2, inner, fixed_width=first["context_dim"]))
        self._norm(block["norm3"], inner, EPS, affine=True)
        activations.append(self._feed_forward(block["ff"], inner))
        if activations != ["geglu", "geglu"]:
            raise NotNative(f"{block.path} has activations {activations}")
        for heads, bias, _ in found:
            if heads != first["num_attention_heads"] or bias:
                raise NotNative(f"{block.path} has other heads or biases than its spatial block")
