#!/usr/bin/env bash
# Makes build/wheels/*.whl for this machine's Python: the package with oneTBB and Highway inside, which installs where nothing
# but Python is. On Python 3.12 and newer it is an abi3 wheel, for all of them. The workflow wheels.yml makes those for every
# Python on manylinux. usage: wheels.sh
set -euo pipefail
cd "$(dirname "$0")/.."
environment=build/wheels/environment
python="$environment/bin/python"
most_bytes=10000000  # without the model
python3 -m venv "$environment"
quiet=(--quiet --disable-pip-version-check)
for name in python wheels; do
  "$python" -m pip install "${quiet[@]}" --require-hashes -r "scripts/requirements/$name.txt"
done
rm -rf build/wheels/plain build/wheels/*.whl
export CXX=${CXX:-c++}  # as scripts/test-python.sh names it
arguments=(--no-build-isolation --no-deps)
if command -v ccache >/dev/null; then arguments+=(--config-settings=cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
"$python" -m pip wheel "${quiet[@]}" "${arguments[@]}" --wheel-dir build/wheels/plain .
PATH="$PWD/$environment/bin:$PATH" "$python" -m auditwheel repair --wheel-dir build/wheels build/wheels/plain/*.whl
for wheel in build/wheels/*.whl; do
  "$python" - "$wheel" $most_bytes <<'PYTHON'
import sys
import zipfile

wheel, most = sys.argv[1], int(sys.argv[2])
sizes = {entry.filename: entry.compress_size for entry in zipfile.ZipFile(wheel).infolist()}
model = sum(size for name, size in sizes.items() if name.endswith("diffusion_pytorch_model.safetensors"))
code = sum(sizes.values()) - model
print(f"{wheel}: {code / 1e6:.1f} MB and a model of {model / 1e6:.1f} MB")
sys.exit(f"expected at most {most / 1e6:.0f} MB beside the model" if code > most else 0)
PYTHON
done
