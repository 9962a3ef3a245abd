#!/usr/bin/env bash
# Runs fuzz targets, all that are built or those named, from the committed corpus. BUILD is the folder of the build
# (default build/fuzz; build/fuzz-engine is the `fuzz-engine` preset's). usage: fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build/fuzz}
seconds=$1
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for target in "$build"/bin/*_fuzz; do
    target=$(basename "$target")
    targets+=("${target%_fuzz}")
  done
fi
one() {
  # New inputs are kept under build/, not in the tree.
  mkdir -p "$build/corpus/$1"
  "$build/bin/${1}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/$1-" "$build/corpus/$1" "fuzz/corpus/$1" 2>&1 |
    grep -E "ERROR|SUMMARY|Test unit|number_of_executed_units|DONE|other bits|differs" | sed "s/^/$1: /"
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
