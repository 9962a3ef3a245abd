#!/usr/bin/env bash
# Builds the Python package as pip does and runs its tests, in a virtual environment of its own under build/.
# usage: test-python.sh [EXTRAS [TESTS...]]: what else is put into that environment, such as "diffusers plot" (see
# pyproject.toml), and which tests run; by default all of tests/python.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=build/python/environment
python="$environment/bin/python"
quiet=(--quiet --disable-pip-version-check)

python3 -m venv "$environment"
"$python" -m pip install "${quiet[@]}" "scikit-build-core>=0.10" "nanobind>=2.4" ninja numpy pytest
# Packages that the tests use where they are there; torch alone is gigabytes, so nobody gets it unasked.
case " ${1:-} " in *" diffusers "*)
  "$python" -m pip install "${quiet[@]}" "torch>=2.4" "diffusers>=0.30" transformers accelerate peft safetensors hypothesis ;;
esac
case " ${1:-} " in *" plot "*) "$python" -m pip install "${quiet[@]}" matplotlib ;; esac

arguments=(--no-build-isolation --no-deps)
if command -v ccache >/dev/null; then arguments+=(-Ccmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
"$python" -m pip install "${quiet[@]}" "${arguments[@]}" .
tests=("${@:2}")
"$python" -m pytest -q -rs "${tests[@]:-tests/python}"
