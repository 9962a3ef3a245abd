"""The package is typed: mypy's strictest finds nothing in it, nor in the README's Python; pyright knows every type."""

import json
import pathlib
import re
import subprocess
import sys

import kineograph
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

ROOT = pathlib.Path(__file__).parents[2]

USES = """
import kineograph
import torch
from kineograph.diffusers import Acceleration, TransformerTemporalModel

report: Acceleration = kineograph.accelerate(torch.nn.Linear(1, 1))
undone: int = kineograph.revert(torch.nn.Linear(1, 1))
module = TransformerTemporalModel(num_attention_heads=2, attention_head_dim=8, in_channels=16)
(sample,) = module.forward(torch.zeros(1), return_dict=False)
shape: torch.Size = sample.shape
model = kineograph.TransformerTemporalModel(num_attention_heads=2, attention_head_dim=8, in_channels=16)
whole = model([1.0], num_frames=1).sample
(part,) = model([1.0], num_frames=1, return_dict=False)
"""


def run(module, *arguments, cwd=None):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=cwd)


def test_mypy(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "uses.py").write_text(USES)
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert readme
    (tmp_path / "readme.py").write_text("\n".join(readme).replace("pipe = ...", "pipe: object = ...") + "\n")
    package = pathlib.Path(kineograph.__file__).parent
    for what in ([str(package)], ["uses.py", "readme.py"]):
        done = run("mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *what, cwd=tmp_path)
        assert done.returncode == 0, done.stdout


def test_pyright():
    pytest.importorskip("pyright")
    done = run("pyright", "--verifytypes", "kineograph", "--ignoreexternal", "--outputjson")
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {done.stderr[:200]}")
    report = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert not unknown, unknown
