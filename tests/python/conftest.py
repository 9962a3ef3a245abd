"""Shared by the tests of the Python package."""

import os
import pathlib
import sys

import pytest

# The layouts of published checkpoints are written by one piece of code, for these tests and for the committed files.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "checkpoints"))

# Files that need torch are skipped without it; KINEOGRAPH_REQUIRE_TORCH=1 (CI) makes its absence an error.
if os.environ.get("KINEOGRAPH_REQUIRE_TORCH"):
    import diffusers  # noqa: F401
    import torch  # noqa: F401


def pytest_report_header(config):
    try:
        import diffusers
        import torch

        return f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    except ImportError as error:
        return f"without diffusers' part: {error}"


@pytest.fixture(autouse=True)
def fresh_statistics():
    import kineograph

    kineograph.stats(reset=True)
    if "torch" in sys.modules:
        sys.modules["torch"]._dynamo.reset()
