#!/usr/bin/env bash
# Configures build/PRESET: with ninja and ccache where they are there. A folder configured before keeps its generator.
# usage: configure.sh [PRESET [ARGUMENTS OF CMAKE...]]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
arguments=()
if [ ! -f "build/$preset/CMakeCache.txt" ]; then
  if command -v ninja >/dev/null; then arguments+=(-G Ninja); else arguments+=(-G "Unix Makefiles"); fi
  if command -v ccache >/dev/null; then arguments+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
fi
cmake --preset "$preset" "${arguments[@]}" "${@:2}"
