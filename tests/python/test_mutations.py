"""Not one silent difference: every change of everything in a module, made to diffusers' module and to ours.

KINEOGRAPH_MUTATIONS=all (`make mutation`) makes every change at every moment, and after compilation each kind of change
once for each class; otherwise a seeded sample in which every kind of attribute is changed at least once.
KINEOGRAPH_MUTATIONS_SEED draws another sample.
"""

import copy
import functools
import os
import random
import warnings
from collections import Counter

import kineograph
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor  # noqa: E402
from mutations import Mutation, mutations  # noqa: E402
from temporal_modules import CROSS, animatediff, answer, clip, difference, lora, temporal, text  # noqa: E402

EVERYTHING = os.environ.get("KINEOGRAPH_MUTATIONS") == "all"
SEED = int(os.environ.get("KINEOGRAPH_MUTATIONS_SEED", "0"))
MOMENTS = ("before", "after", "after a forward", "compiled")
SAMPLED_COMPILED = 3  # a configuration


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


CONFIGURATIONS = {
    "temporal": lambda: temporal(),
    "cross": lambda: temporal(**CROSS, activation_fn="gelu-approximate", norm_elementwise_affine=False),
    "two layers": lambda: temporal(num_layers=2, attention_bias=True, activation_fn="swiglu", dropout=0.1),
    "animatediff": lambda: animatediff(),
    "other processors": lambda: with_processors(animatediff(activation_fn="linear-silu")),
    "lora": lambda: lora(animatediff(), ("a", "b"), ("to_q", "to_out.0", "proj_in")),
    "merged lora": lambda: merged(lora(animatediff(), ("a",), ("to_v", "proj_out"))),
}


def call_of(name, gradients):
    """A call whose answer is the sample, and behind it the input's gradient where those are recorded."""
    encoder = text(32) if name == "cross" else None

    def call(model):
        torch.manual_seed(4)
        given = clip().requires_grad_(gradients)
        found = model(given, encoder_hidden_states=encoder, num_frames=4)
        sample = found if isinstance(found, torch.Tensor) else found.sample
        if not sample.requires_grad or not gradients:
            return sample.detach()
        (sample * clip(seed=9).to(sample.dtype)).sum().backward()
        return torch.cat([sample.detach(), given.grad])

    return call


def drops(model):
    """Whether a forward draws: natively it draws others than torch."""
    return any(isinstance(one, torch.nn.Dropout) and one.training and one.p > 0 for one in model.modules())


def could(mutation, model):
    """Whether a change can be made: dictionaries that refuse to be written to, say, cannot be changed."""
    try:
        mutation.change(model)
    except Exception:
        return False
    return True


def tried(name, made, mutation, moment):
    """(difference or None, what our side did) of one change at one moment."""
    theirs, ours = copy.deepcopy(made), copy.deepcopy(made)
    compiled = moment == "compiled"
    call = call_of(name, gradients=not compiled)
    run = ours
    if moment != "before":
        kineograph.accelerate(ours)
    with warnings.catch_warnings(), torch.set_grad_enabled(not compiled):
        warnings.simplefilter("ignore")
        if compiled:
            torch._dynamo.reset()
            run = torch.compile(ours, backend="eager")
        if moment in ("after a forward", "compiled"):
            answer(call, run)
        made_to_both = [could(mutation, model) for model in (theirs, ours)]
        if not all(made_to_both):
            return None, "cannot be made"
        if moment == "before":
            kineograph.accelerate(ours)
        wanted = answer(call, theirs)
        kineograph.stats(reset=True)
        found = answer(call, run)
        stats = kineograph.stats(reset=True)
        off = difference(wanted, found)
        if off is not None and compiled:
            off = difference_when_compiled(call, made, mutation, found) and off
    did = "raised" if isinstance(found, Exception) else "native" if stats.native else "fell back"
    if off is not None and did == "native" and drops(theirs):
        off = None
    if off is None and did == "fell back" and not stats.fallbacks and not compiled:
        off = "neither native nor counted"
    return off, did


def difference_when_compiled(call, made, mutation, found):
    """torch.compile does not look for some changes, of hooks say: what it makes of diffusers' module is right too."""
    theirs = copy.deepcopy(made)
    torch._dynamo.reset()
    compiled = torch.compile(theirs, backend="eager")
    answer(call, compiled)
    mutation.change(theirs)
    return difference(answer(call, compiled), found)


def by_kind(found):
    kinds = {}
    for mutation in found:
        kinds.setdefault((mutation.kind, mutation.how), []).append(mutation)
    return kinds


@functools.lru_cache(None)
def sampled():
    """Configuration -> [(mutation, moment)]: every kind of attribute in one of the configurations that have it."""
    draw = random.Random(SEED)
    kinds = {name: by_kind(mutations(make())) for name, make in CONFIGURATIONS.items()}
    chosen = {name: [] for name in CONFIGURATIONS}
    for attribute in sorted({kind for found in kinds.values() for kind, _ in found}):
        name = draw.choice([name for name, found in kinds.items() if any(kind == attribute for kind, _ in found)])
        hows = [how for kind, how in kinds[name] if kind == attribute]
        for how in draw.sample(hows, min(len(hows), 2)):
            chosen[name].append((draw.choice(kinds[name][attribute, how]), draw.choice(MOMENTS[:3])))
    for name, found in kinds.items():
        chosen[name] += [
            (draw.choice(same), "compiled") for same in draw.sample(list(found.values()), SAMPLED_COMPILED)
        ]
    return chosen


def plan(name, made):
    """[(mutation, moment)] that are tried."""
    if not EVERYTHING:
        return sampled()[name]
    found = mutations(made)
    eager = [(mutation, moment) for mutation in found for moment in MOMENTS[:3]]
    return eager + [(same[0], "compiled") for same in by_kind(found).values()]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_silent_difference(name, capsys):
    made = CONFIGURATIONS[name]()
    counts, silent = Counter(), []
    untouched = Mutation("", "nothing", "untouched", lambda model: None)
    for moment in MOMENTS:
        fused = name != "lora" or moment != "compiled"  # a LoRA that is not fused falls back in a compiled graph
        assert tried(name, made, untouched, moment) == (None, "native" if fused else "fell back"), moment
    for mutation, moment in plan(name, made):
        off, did = tried(name, made, mutation, moment)
        counts[did] += 1
        if off is not None:
            silent.append(f"{mutation}, {moment}: {did}, {off}")
    with capsys.disabled():
        print(f"\n{name}: {sum(counts.values())} changes: {dict(counts)}, {len(silent)} differ")
        for line in silent[:40]:
            print(" ", line)
    assert not silent


def test_the_walk_finds_what_it_is_for():
    """The walk would not be worth its time if it missed what once went wrong."""
    found = {mutation.kind for mutation in mutations(CONFIGURATIONS["lora"]())}
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
    made = CONFIGURATIONS["temporal"]()
    for mutation in mutations(made):
        if mutation.kind == "Attention.residual_connection" and mutation.how == "flipped":
            off, did = tried("temporal", made, mutation, "after")
            assert off is not None and did == "native"
