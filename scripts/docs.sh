#!/usr/bin/env bash
# Makes build/docs: cpp/ from the public headers by Doxygen, for which an undocumented member is an error, and python/ from
# the docstrings by pdoc. usage: docs.sh
set -euo pipefail
cd "$(dirname "$0")/.."
environment=build/python/environment
mkdir -p build/docs
doxygen docs/Doxyfile
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" pdoc "scikit-build-core>=0.10" "nanobind>=2.4" hatch-fancy-pypi-readme ninja numpy
"${pip[@]}" --no-build-isolation --no-deps .
modules=(kineograph)
# The drop-in classes import torch, which is gigabytes: their pages are made where it is there.
if "$environment/bin/python" -c 'import torch, diffusers' 2>/dev/null; then modules+=(kineograph.diffusers); fi
"$environment/bin/python" -m pdoc --docformat google -o build/docs/python "${modules[@]}"
echo "build/docs/cpp/index.html, build/docs/python/index.html"
