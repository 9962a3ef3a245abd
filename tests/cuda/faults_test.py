"""Plants faults in kernels, one at a time, and expects kernels_test to fail: the emulated device finds their kinds.

usage: faults_test.py ROOT COMPILER [all]: one of each kind (a wait, a barrier, a mask, an address), or all of them.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT, COMPILER = pathlib.Path(sys.argv[1]), sys.argv[2]

# Name, file of src/engine/cuda, what stands there, what stands there instead. The first ones are of one kind each.
FAULTS = [
    ("none", "linear.h", "", ""),
    (
        "a wait for one group too few",
        "linear.h",
        "cp_async_wait<kLinearStages - 2>();",
        "cp_async_wait<kLinearStages - 1>();",
    ),
    ("no barrier between the stages", "linear.h", "    block_sync();\n", ""),
    ("no mask of absent keys", "attention.h", "key + column(n, e) < p.keys ?", "true ?"),
    ("an address that is not aligned", "attention.h", "return width + 8;", "return width + 4;"),
    ("a load into the stage in use", "linear.h", "next % kLinearStages)", "step % kLinearStages)"),
    ("no mask of columns behind a head", "attention.h", "r < count && column < p.head_dim", "r < count"),
    ("a wrong fragment of the weights", "linear.h", "2 * kk + lane / 8 % 2", "2 * kk + lane / 16 % 2"),
    ("no wait for the keys", "attention.h", "    cp_async_wait<0>();\n", ""),
    ("no barrier in a sum", "norms.h", "  block_sync();\n  float sum", "  float sum"),
    (
        "a barrier that some threads do not reach",
        "norms.h",
        "  block_sync();\n  float sum",
        "  if (v > 0) block_sync();\n  float sum",
    ),
]


def fails(folder, file, old, new):
    """Whether kernels_test, compiled with the replacement, fails."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "src/engine/cuda", folder / "engine/cuda")
    source = folder / "engine/cuda" / file
    (folder / "engine/cuda/instructions.h").unlink()  # the emulated one stands in
    text = source.read_text()
    assert not old or text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
    source.write_text(text.replace(old, new) if old else text)
    here = ROOT / "tests/cuda"
    include = [folder, here / "emulated", ROOT / "src", ROOT / "include"]
    program = folder / "kernels_test"
    subprocess.run(
        [COMPILER, "-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-w", *(f"-I{path}" for path in include)]
        + [here / "kernels_test.cc", "-o", program],
        check=True,
    )
    return subprocess.run([program], capture_output=True, timeout=100).returncode != 0


def main():
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, file, old, new in FAULTS if sys.argv[3:] == ["all"] else FAULTS[:5]:
            found = fails(pathlib.Path(scratch) / "faulty", file, old, new)
            wrong += found != (name != "none")
            print(f"{name}: {'found' if found else 'not found'}", flush=True)
    return wrong


sys.exit(main())
