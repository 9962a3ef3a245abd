#!/usr/bin/env bash
# Builds Highway and oneTBB, as cmake/Dependencies.cmake pins them, and installs them for the wheels of every Python.
# usage: libraries.sh PREFIX
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(mktemp -d)
# The system's own would be taken where they are: they are too old here, or for another system version.
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DKINEOGRAPH_FETCH=ON -DKINEOGRAPH_CLI=OFF -DKINEOGRAPH_C=OFF \
  -DKINEOGRAPH_TESTS=OFF -DCMAKE_DISABLE_FIND_PACKAGE_hwy=ON -DCMAKE_DISABLE_FIND_PACKAGE_TBB=ON
cmake --build "$build" --parallel --target hwy tbb
for name in highway onetbb; do cmake --install "$build/_deps/$name-build" --prefix "$1"; done
