"""Not one silent difference: every change of everything in a temporal module, made to diffusers' module and to ours."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor  # noqa: E402
from mutation_trials import PARTS, Configuration, Plans, check  # noqa: E402
from mutations import mutations  # noqa: E402
from temporal_modules import CROSS, animatediff, clip, in_pieces, in_windows, lora, temporal, text  # noqa: E402


def merged(model):
    for layer in model.modules():
        if hasattr(layer, "merge") and hasattr(layer, "lora_A"):
            layer.merge()
    return model


def with_processors(model):
    block = model.transformer_blocks[0]
    block.attn1.set_processor(AttnProcessor())
    block.attn2.set_processor(SlicedAttnProcessor(2))
    return model


MODULES = {
    "temporal": lambda: temporal(),
    "cross": lambda: temporal(**CROSS, activation_fn="gelu-approximate", norm_elementwise_affine=False),
    "two layers": lambda: temporal(num_layers=2, attention_bias=True, activation_fn="swiglu", dropout=0.1),
    "animatediff": lambda: animatediff(),
    "other processors": lambda: with_processors(animatediff(activation_fn="linear-silu")),
    "lora": lambda: lora(temporal(), ("a", "b"), ("to_q", "to_out.0", "proj_in")),
    "free noise": lambda: in_windows(animatediff(num_layers=2)),
    "free noise in pieces": lambda: in_pieces(in_windows(animatediff(), 2, 1, "flat")),
    "merged lora": lambda: merged(lora(animatediff(), ("a",), ("to_v", "net.2"))),
}


def _call(name):
    encoder = text(32) if name == "cross" else None

    def call(model, gradients):
        """The sample, and behind it the input's gradient where those are recorded."""
        torch.manual_seed(4)
        given = clip().requires_grad_(gradients)
        found = model(given, encoder_hidden_states=encoder, num_frames=4)
        sample = found if isinstance(found, torch.Tensor) else found.sample
        if not sample.requires_grad or not gradients:
            return sample.detach()
        (sample * clip(seed=9).to(sample.dtype)).sum().backward()
        return torch.cat([sample.detach(), given.grad])

    return call


PLANS = Plans(
    {
        name: Configuration(make, _call(name), gradients=not name.startswith("free noise"))
        for name, make in MODULES.items()
    }
)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", MODULES)
def test_no_silent_difference(name, part, capsys):
    check(PLANS, name, part, capsys)


def test_the_walk_finds_what_it_is_for():
    """The walk would not be worth its time if it missed what once went wrong."""
    found = {mutation.kind for name in ("lora", "animatediff") for mutation in mutations(MODULES[name]())}
    for kind in (
        "Attention.residual_connection",
        "Attention.rescale_output_factor",
        "Attention.scale",
        "BasicTransformerBlock.pos_embed",
        "BasicTransformerBlock.attn2",
        "SinusoidalPositionalEmbedding.pe",
        "Linear._disable_adapters",
        "Linear.scaling[]",
        "Attention.get_attention_scores()",
        "Attention.processor",
        "ModuleDict.a",
    ):
        assert kind in found, kind


def test_a_difference_is_seen(monkeypatch):
    """With one attribute less in the account the walk has to find what that lets through."""
    from kineograph.diffusers import accounts, eligibility, upstream

    blind = copy.copy(accounts.ACCOUNTS[upstream.Attention])
    required = {key: value for key, value in blind.required.items() if key != "residual_connection"}
    object.__setattr__(blind, "required", required)
    object.__setattr__(blind, "without_effect", blind.without_effect | {"residual_connection": "a mistake"})
    monkeypatch.setitem(accounts.ACCOUNTS, upstream.Attention, blind)
    monkeypatch.setattr(eligibility, "_layouts", {})
    monkeypatch.setattr(eligibility, "_bindings", {})
    trials = PLANS.trials("temporal")
    flipped = [one for one in trials.mutations if str(one).endswith("Attention.residual_connection, flipped")]
    assert flipped
    for mutation in flipped:
        off, did = trials.tried(mutation, "after")
        assert off is not None and did == "native"
