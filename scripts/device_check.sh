#!/usr/bin/env bash
# Builds with the CUDA engine and tests it on this machine's device, in one go: the engine's tests, compute-sanitizer's four
# tools on some of them, and bench/gpu_peers.py where PyTorch is there. usage: device_check.sh [FOLDER of the results]
set -euo pipefail
cd "$(dirname "$0")/.."
results=${1:-build/device_check}
mkdir -p "$results"
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >"$results/device.txt" 2>&1; then
  echo "device_check: this machine has no CUDA device, or no driver for it" >&2
  exit 1
fi
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
cmake -S . -B build/cuda -DCMAKE_BUILD_TYPE=Release -DKINEOGRAPH_CUDA_ENGINE=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture"
cmake --build build/cuda --parallel --target kineograph_program cuda_device_test
build/cuda/bin/kineograph --version | tee "$results/version.txt"
failed=0
KINEOGRAPH_CASES=300 build/cuda/bin/cuda_device_test >"$results/tests.txt" 2>&1 || failed=1
tail -3 "$results/tests.txt"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    KINEOGRAPH_CASES=3 compute-sanitizer --tool "$tool" --error-exitcode 1 build/cuda/bin/cuda_device_test \
      --gtest_filter='*RandomCases*' >"$results/$tool.txt" 2>&1 || failed=1
    tail -1 "$results/$tool.txt"
  done
else
  echo "device_check: there is no compute-sanitizer; its four checks did not run" >&2
fi
if python3 -c "import torch, kineograph" 2>/dev/null; then
  python3 bench/gpu_peers.py --repeats 10 --output "$results/gpu_peers.json" | tee "$results/gpu_peers.txt" || failed=1
else
  echo "device_check: torch and kineograph are not both installed; nothing was timed" >&2
fi
exit $failed
