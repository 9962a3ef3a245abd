"""The package is typed: mypy's strictest finds nothing in it, nor in the README's Python; pyright knows every type."""

import json
import os
import pathlib
import re
import shutil
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
    """A module's program, which takes the first `python` of PATH for the one whose packages it reads."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PATH": path})


def test_mypy(tmp_path):
    """The package, and in the same run its users: reading torch is what takes the time."""
    pytest.importorskip("mypy")
    (tmp_path / "uses.py").write_text(USES)
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert readme
    (tmp_path / "readme.py").write_text("\n".join(readme).replace("pipe = ...", "pipe: object = ...") + "\n")
    # Beside them: mypy takes the folder of what it is given for source, and would take the whole environment's.
    shutil.copytree(pathlib.Path(kineograph.__file__).parent, tmp_path / "kineograph")
    # Untyped calls of diffusers are not for this package to mend.
    strict = ("--strict", "--untyped-calls-exclude=diffusers", "--cache-dir", os.devnull)
    done = run("mypy", *strict, "kineograph", "uses.py", "readme.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_pyright():
    """basedpyright is pyright with all that it runs on in its wheel; pyright itself asks a registry for its program."""
    pytest.importorskip("basedpyright")
    done = run("basedpyright", "--verifytypes", "kineograph", "--ignoreexternal", "--outputjson")
    report = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert not unknown and report["completenessScore"] == 1, unknown
