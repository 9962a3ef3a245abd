"""The package as pip installed it: what it holds, what it exports, what an index shows of it."""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess

import kineograph
import pytest
from kineograph import _native, film

PACKAGE = pathlib.Path(kineograph.__file__).parent


def test_program_and_model_lie_in_the_package(monkeypatch):
    monkeypatch.delenv("KINEOGRAPH_MODELS", raising=False)
    assert film._program() == str(PACKAGE / "bin/kineograph")
    assert film._shipped_model() == PACKAGE / "share/kineograph/models/restore"
    assert (film._shipped_model() / "diffusion_pytorch_model.safetensors").stat().st_size > 1e6


def test_extension_exports_one_symbol():
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", _native.__file__], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == ["PyInit__native"]


def test_metadata():
    metadata = importlib.metadata.metadata("kineograph")
    assert metadata["Version"] == kineograph.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "video" in metadata["Keywords"].split(",")
    assert metadata["Author"] and metadata.get_all("Project-URL")
    # An index shows the README by itself: a picture or a link that leads into the tree would be broken there.
    page = metadata.get_payload()
    assert page.startswith("# kineograph\n")
    broken = [target for target in re.findall(r"\]\(([^)]*)\)", page) if not target.startswith(("https://", "#"))]
    assert not broken
