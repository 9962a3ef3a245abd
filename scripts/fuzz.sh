#!/usr/bin/env bash
# Runs every fuzz target that the `fuzz` preset built, from the committed corpus; the target engine is the `fuzz-engine`
# preset's and runs by name. usage: fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(archive config index keys lora npy resume safetensors torch y4m)
one() {
  # New inputs are kept under build/, not in the tree.
  local build=build/fuzz
  if [ "$1" = engine ]; then build=build/fuzz-engine; fi
  mkdir -p "build/fuzz/corpus/$1"
  "$build/bin/${1}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$1-" "build/fuzz/corpus/$1" "fuzz/corpus/$1" 2>&1 |
    grep -E "ERROR|SUMMARY|Test unit|number_of_executed_units|DONE" | sed "s/^/$1: /"
}
# As many at a time as there are cores; the first failure is told when all have ended.
pids=() failed=0
for target in "${targets[@]}"; do
  while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do sleep 0.2; done
  one "$target" &
  pids+=($!)
done
for i in "${!pids[@]}"; do wait "${pids[i]}" || { echo "${targets[i]} failed" >&2; failed=1; }; done
exit $failed
