#!/usr/bin/env bash
# Builds the Python package as pip does and runs its tests, in a virtual environment of its own under build/.
# usage: test-python.sh [EXTRAS [TESTS...]]: what else is put into that environment, such as "diffusers plot" (see
# pyproject.toml), and which tests run; by default all of tests/python.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=build/python/environment
python="$environment/bin/python"
quiet=(--quiet --disable-pip-version-check)
# Of the versions and hashes of scripts/requirements, whatever the registry offers today.
pinned() { "$python" -m pip install "${quiet[@]}" --require-hashes -r "scripts/requirements/$1.txt"; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "The packages in scripts/requirements are for Python 3.11 and newer; this is $(python3 --version)." >&2; exit 1; }
python3 -m venv "$environment"
echo "Installing into $environment by pip: what builds and tests the Python package${1:+, $1}." >&2
pinned python
# Optional packages of the tests; torch alone is gigabytes, so it is installed on request only.
case " ${1:-} " in *" diffusers "*) pinned diffusers ;; esac
case " ${1:-} " in *" plot "*) pinned plot ;; esac

# The name that cmake finds for the suite: to ccache another name is another compiler, and all is compiled again.
export CXX=${CXX:-c++}
# The long names: pip 23.0, which Debian 12 has, knows no -C.
arguments=(--no-build-isolation --no-deps)
if command -v ccache >/dev/null; then arguments+=(--config-settings=cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
"$python" -m pip install "${quiet[@]}" "${arguments[@]}" .
tests=("${@:2}")
"$python" -m pytest -q -rs "${tests[@]:-tests/python}"
