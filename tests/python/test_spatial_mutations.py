"""Not one silent difference: every change of everything in a spatial transformer, made to both sides, on the reference
engine."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from kineograph.diffusers import native  # noqa: E402
from mutation_trials import PARTS, Configuration, Plans, check  # noqa: E402
from test_spatial_modules import images, spatial, texts, video, with_ip_adapters  # noqa: E402

KEEP = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
MODULES = {
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
PLANS = Plans(
    {
        name: Configuration(make, lambda model, gradients, call=call: call(model).sample, gradients=False)
        for name, (make, call) in MODULES.items()
    }
)


@pytest.fixture(autouse=True)
def _on_the_reference_engine(monkeypatch):
    monkeypatch.setattr(native, "ENGINE", "reference")


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", MODULES)
def test_no_silent_difference(name, part, capsys):
    with torch.no_grad():
        check(PLANS, name, part, capsys)
