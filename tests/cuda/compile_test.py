"""Compiles the kernels with nvcc, all warnings errors: no register may be spilled. And a program that asks for a device
runs without a driver. Exit code 77: there is no nvcc.

usage: compile_test.py ROOT [all]: for the newest instruction set, whose compiler spills soonest, or for all of them.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(sys.argv[1])
ARCHITECTURES = [80, 86, 89, 90, 120]
KERNELS = 45
PROBE = """
#include <cstdio>
#include "engine/cuda/runtime.h"
int main() {
  using namespace kineograph::engine::cuda;
  const bool there = !architecture().empty();
  std::printf("%s\\n", there ? architecture().c_str() : why_no_device().c_str());
  return there == why_no_device().empty() ? 0 : 1;
}
"""


def compile_kernels(nvcc, architecture, scratch):
    """Error texts of one architecture."""
    command = [nvcc, "-std=c++20", f"-arch=sm_{architecture}", "-cubin", "-Werror", "all-warnings", "-Xptxas", "-v"]
    command += [
        f"-I{ROOT / 'src'}",
        f"-I{ROOT / 'include'}",
        ROOT / "src/engine/cuda/launch.cu",
        "-o",
        scratch / "kernels",
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        yield run.stdout + run.stderr
        return
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", run.stderr)
    used = max(int(count) for count in re.findall(r"Used (\d+) registers", run.stderr))
    print(f"sm_{architecture}: {len(spills)} kernels, at most {used} registers", flush=True)
    if len(spills) != KERNELS:
        yield f"sm_{architecture}: expected {KERNELS} kernels, found {len(spills)}"
    if any(set(spill) != {"0"} for spill in spills):
        spilled = re.findall(r"properties for (\S+)\n.*, [1-9]\d* bytes spill stores", run.stderr)
        yield f"sm_{architecture}: registers are spilled in {spilled}"


def run_without_driver(nvcc, scratch):
    (scratch / "probe.cc").write_text(PROBE)
    sources = [scratch / "probe.cc", ROOT / "src/engine/cuda/runtime.cc", ROOT / "src/base/error.cc"]
    sources += [ROOT / "src/base/printable.cc"]
    command = [nvcc, "-std=c++20", "-cudart", "static", f"-I{ROOT / 'src'}", f"-I{ROOT / 'include'}", *sources]
    subprocess.run([*command, "-o", scratch / "probe"], check=True)
    run = subprocess.run([scratch / "probe"], capture_output=True, text=True)
    print("device:", run.stdout.strip())
    if run.returncode != 0 or not run.stdout.strip():
        yield f"the program that asks for a device: {run.returncode}, {run.stderr}"
    linked = subprocess.run(["ldd", scratch / "probe"], capture_output=True, text=True).stdout
    if "cuda" in linked:
        yield f"a library of CUDA is needed to run:\n{linked}"


def main():
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("skipped: there is no nvcc")
        return 77
    wanted = ARCHITECTURES if sys.argv[2:] == ["all"] else ARCHITECTURES[-1:]
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        errors = list(run_without_driver(nvcc, scratch))
        for architecture in wanted:
            errors += compile_kernels(nvcc, architecture, scratch)
    print("\n".join(errors))
    return bool(errors)


sys.exit(main())
