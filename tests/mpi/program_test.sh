#!/usr/bin/env bash
# The program under mpirun: what one process writes, bit for bit; errors of one rank end all, and nothing is half-written.
# bash program_test.sh PROGRAM PROGRAM_WITH_MPI MPIRUN...
set -euo pipefail
alone=$1 program=$2
shift 2
. "$(dirname "$0")/program.sh"

cat >config.json <<'JSON'
{"_class_name": "TransformerTemporalModel", "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 192,
 "norm_num_groups": 4}
JSON
"$alone" init --config config.json --output model 2>err || fail "init"
{
  printf 'YUV4MPEG2 W40 H24 F25:1 C444\n'
  for frame in 1 2 3 4 5; do printf 'FRAME\n' && head -c 2880 /dev/urandom; done
} >clip.y4m
run=(run --model model --num-frames 3 --threads 1)

# Three rows of latents, two clips of the video, the last of them shorter: of four ranks one has no rows.
"$alone" "${run[@]}" --input clip.y4m --output one.npy 2>err || fail "one process"
"$program" "${run[@]}" --input clip.y4m --output by-itself.npy 2>err || fail "the program with MPI, by itself"
cmp one.npy by-itself.npy || fail "by itself"
for ranks in 2 4; do
  "$@" -n $ranks "$program" "${run[@]}" --input clip.y4m --output "ranks-$ranks.npy" 2>err || fail "$ranks ranks"
  cmp one.npy "ranks-$ranks.npy" || fail "$ranks ranks differ"
  grep -q "$ranks ranks" err || fail "expected the number of ranks"
done

refused "built without, started 2 times" "$@" -n 2 "$alone" "${run[@]}" --input clip.y4m --output out.npy
# Commands that share nothing do the same N times, and say so. Segments of a film are each one's own.
for tool in "$alone" "$program"; do
  "$@" -n 2 "$tool" inspect model >/dev/null 2>err || fail "inspect, twice"
  grep -q "inspect shares no work: each of the 2 processes" err || fail "expected a warning"
  refused "restore shares no work: each of the 3" "$@" -n 3 "$tool" restore --input gone.y4m --output out.y4m
  refused "gone.json" "$@" -n 2 "$tool" restore --plan gone.json --segment 0 --input clip.y4m --output out.y4m
  if grep -q "shares no work" err; then fail "a segment is one's own"; fi
done
"$@" -n 1 "$program" inspect model >/dev/null 2>err || fail "one process"
if grep -q "shares no work" err; then fail "one process is no job"; fi
"$@" -n 2 "$program" restore --help >/dev/null 2>err || fail "help"
refused "rank 0: --input: expected a file" "$@" -n 2 "$program" "${run[@]}" --input - --output out.npy
# The second of two ranks has another input than the first: none, one that never comes, one that is killed.
refused "rank 1: .*gone.y4m" "$@" -n 1 "$program" "${run[@]}" --input clip.y4m --output out.npy \
  : -n 1 "$program" run --model model --input gone.y4m --output out.npy
mkfifo never.y4m
refused "rank 0: MPI: expected values of every rank within 2000 ms" \
  "$@" -n 1 "$program" "${run[@]}" --input clip.y4m --patience 2 --output out.npy \
  : -n 1 "$program" run --model model --input never.y4m --output out.npy
refused "" "$@" -n 1 "$program" "${run[@]}" --input clip.y4m --output out.npy : -n 1 bash -c 'sleep 1; kill -KILL $$'
