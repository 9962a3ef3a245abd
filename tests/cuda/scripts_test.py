"""bench/gpu_peers.py and scripts/device_check.sh where there is no device: both say so and write nothing else.

usage: scripts_test.py ROOT
"""

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(sys.argv[1]).resolve()
PEERS = [sys.executable, ROOT / "bench/gpu_peers.py", "--output", "peers.json"]
NO_DEVICE = "import types\ncuda = types.SimpleNamespace(is_available=lambda: False)\n"

# Command, exit code, what it says, what it does not say.
CASES = [
    ([*PEERS, "--help"], 0, "--shapes", ""),
    ([*PEERS, "--shapes", "AD-0", "XL-0", "--dtypes", "f16"], 1, "no CUDA device that PyTorch can use", "Traceback"),
    ([*PEERS, "--shapes", "AD-9"], 2, "invalid choice: 'AD-9'", "Traceback"),
    ([*PEERS, "--dtypes", "f32"], 2, "invalid choice: 'f32'", "Traceback"),
    ([*PEERS, "--repeats", "0"], 2, "--repeats: expected a whole number from 1, found 0", "Traceback"),
    ([ROOT / "scripts/device_check.sh", "{scratch}/results"], 1, "no CUDA device, or no driver for it", "cmake"),
]


def problems(scratch):
    """A torch and an nvidia-smi that find no device stand in front of those of the machine."""
    stand_in = scratch / "stand_in"
    stand_in.mkdir()
    (stand_in / "torch.py").write_text(NO_DEVICE)
    (stand_in / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (stand_in / "nvidia-smi").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(stand_in), "PATH": f"{stand_in}:{os.environ['PATH']}"}
    for command, code, said, unsaid in CASES:
        command = [str(part).format(scratch=scratch) for part in command]
        run = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=60)
        text = run.stdout + run.stderr
        if run.returncode != code or said not in text or (unsaid and unsaid in text):
            yield f"{command}: expected {code} and {said!r}, found {run.returncode}:\n{text}"
    if (scratch / "peers.json").exists():
        yield "gpu_peers.py wrote results without a device"


def main():
    with tempfile.TemporaryDirectory() as folder:
        found = list(problems(pathlib.Path(folder)))
    print("\n".join(found) or f"{len(CASES)} commands without a device")
    return bool(found)


sys.exit(main())
