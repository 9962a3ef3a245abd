"""Not one silent difference: every change of everything in a spatial transformer, made to both sides, on the
reference engine. KINEOGRAPH_MUTATIONS=all makes every change; otherwise every kind of change once."""

import copy
import os
import random
import warnings
from collections import Counter

import kineograph
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from kineograph.diffusers import native  # noqa: E402
from mutations import mutations  # noqa: E402
from temporal_modules import answer, difference  # noqa: E402
from test_spatial_modules import images, spatial, texts, video, with_ip_adapters  # noqa: E402

EVERYTHING = os.environ.get("KINEOGRAPH_MUTATIONS") == "all"
KEEP = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
CONFIGURATIONS = {
    "spatial": (lambda: spatial(), lambda model: model(images(), texts(), encoder_attention_mask=KEEP)),
    "linear": (
        lambda: spatial(use_linear_projection=True, num_layers=2, activation_fn="gelu", attention_bias=True),
        lambda model: model(images(), texts()),
    ),
    "ip adapters": (
        lambda: with_ip_adapters(spatial()),
        lambda model: model(images(), (texts(), [texts(2, 4), texts(2, 3)])),
    ),
    "video": (
        lambda: video(),
        lambda model: model(images(4), texts(4), torch.tensor([[0, 0], [1, 0]])),
    ),
}


@pytest.fixture(autouse=True)
def _on_the_reference_engine(monkeypatch):
    monkeypatch.setattr(native, "ENGINE", "reference")
    with torch.no_grad():
        yield


def tried(made, call, mutation, after_a_forward):
    theirs, ours = copy.deepcopy(made), copy.deepcopy(made)
    kineograph.accelerate(ours)
    if after_a_forward:
        answer(call, ours)
    for model in (theirs, ours):
        try:
            mutation.change(model)
        except Exception:  # a dictionary that refuses to be written to cannot be changed
            return None, "cannot be made"
    kineograph.stats(reset=True)
    wanted, found = answer(call, theirs), answer(call, ours)
    stats = kineograph.stats(reset=True)
    off = difference(wanted, found)
    did = "raised" if isinstance(found, Exception) else "native" if stats.native else "fell back"
    if off is None and did == "fell back" and not stats.fallbacks:
        off = "neither native nor counted"
    return off, did


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_silent_difference(name):
    make, call = CONFIGURATIONS[name]
    made, draw = make(), random.Random(0)
    chosen = mutations(made)
    if not EVERYTHING:
        kinds = {}
        for mutation in chosen:
            kinds.setdefault(mutation.kind, []).append(mutation)
        chosen = [draw.choice(same) for same in kinds.values()]
    did, silent = Counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, mutation in enumerate(chosen):
            off, what = tried(made, call, mutation, after_a_forward=i % 2 == 1)
            did[what] += 1
            if off is not None:
                silent.append(f"{mutation}: {what}, {off}")
    assert did["native"] > 0 and did["fell back"] > 0, did
    assert not silent, "\n".join(silent)
