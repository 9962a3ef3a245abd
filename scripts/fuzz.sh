#!/usr/bin/env bash
# Runs every fuzz target that the `fuzz` preset built, from the committed corpus. usage: fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
targets=("$@")
# keys runs by name only: it soon finds invented names whose place is spelled in another way than it is found.
[ ${#targets[@]} -gt 0 ] || targets=(archive config index lora npy safetensors torch y4m)
for target in "${targets[@]}"; do
  # New inputs are kept under build/, not in the tree.
  mkdir -p "build/fuzz/corpus/$target"
  echo "$target: $seconds s"
  "build/fuzz/bin/${target}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$target-" "build/fuzz/corpus/$target" "fuzz/corpus/$target" 2>&1 |
    grep -E "ERROR|SUMMARY|Test unit|number_of_executed_units|DONE"
done
