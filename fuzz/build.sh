#!/usr/bin/env bash
# Builds the fuzz targets as OSS-Fuzz runs them: with its compiler and flags (CXX, CXXFLAGS), its engine
# (LIB_FUZZING_ENGINE), into OUT, each with its corpus. By hand:
#   CXX=clang++ CXXFLAGS="-fsanitize=address,fuzzer-no-link" LIB_FUZZING_ENGINE=-fsanitize=fuzzer OUT=/tmp/out fuzz/build.sh
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
: "${CXX:?the compiler}" "${OUT:?the folder of the targets}" "${LIB_FUZZING_ENGINE:?what targets are linked with}"
build=${WORK:-$OUT}/kineograph
cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER="$CXX" \
  -DCMAKE_CXX_FLAGS="${CXXFLAGS:-} -DKINEOGRAPH_ASSERTIONS" -DLIB_FUZZING_ENGINE="$LIB_FUZZING_ENGINE" \
  -DKINEOGRAPH_FUZZ=ON -DKINEOGRAPH_TESTS=OFF -DKINEOGRAPH_CPU_ENGINE=OFF -DKINEOGRAPH_C=OFF
cmake --build "$build" --parallel "${JOBS:-$(nproc)}" --target fuzzers
for target in "$build"/bin/*_fuzz; do
  name=$(basename "$target")
  cp "$target" "$OUT/"
  python3 -m zipfile -c "$OUT/${name}_seed_corpus.zip" "$source/fuzz/corpus/${name%_fuzz}"/*
done
