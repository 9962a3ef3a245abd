#!/usr/bin/env bash
# Builds the Python package as pip does and runs its tests, in a virtual environment of its own under build/.
# usage: test-python.sh [EXTRAS]: what else is put into that environment, such as "diffusers plot" (see pyproject.toml).
set -euo pipefail
cd "$(dirname "$0")/.."
environment=build/python/environment
python="$environment/bin/python"
quiet=(--quiet --disable-pip-version-check)

python3 -m venv "$environment"
"$python" -m pip install "${quiet[@]}" "scikit-build-core>=0.10" "nanobind>=2.4" ninja numpy pytest hypothesis
# Packages that the tests use where they are there; torch alone is gigabytes, so nobody gets it unasked.
case " ${1:-} " in *" diffusers "*)
  "$python" -m pip install "${quiet[@]}" "torch>=2.4" "diffusers>=0.30" transformers accelerate peft safetensors ;;
esac
case " ${1:-} " in *" plot "*) "$python" -m pip install "${quiet[@]}" matplotlib ;; esac

arguments=(--no-build-isolation --no-deps)
if command -v ccache >/dev/null; then arguments+=(-Ccmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
"$python" -m pip install "${quiet[@]}" "${arguments[@]}" .
"$python" -m pytest -q -rs tests/python
