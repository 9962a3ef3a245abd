#!/usr/bin/env bash
# Training under mpirun: the same checkpoint, bit for bit, for any number of ranks; errors of one rank end all of them.
# bash train_test.sh PROGRAM PROGRAM_WITH_MPI MPIRUN...
set -euo pipefail
alone=$1 program=$2
shift 2
. "$(dirname "$0")/program.sh"

cat >config.json <<'JSON'
{"num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 48, "norm_num_groups": 1,
 "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 3, "double_self_attention": false, "dropout": 0.1,
 "_prediction_type": "epsilon"}
JSON
train=(train --clips drawn --config config.json --batch 5 --frames 3 --crop 12 --patches 4 --warmup 4 --steps 6 --threads 1)

"$alone" "${train[@]}" --micro-batch 1 --output one 2>err || fail "one process"
for ranks in 1 2 3; do
  "$@" -n $ranks "$program" "${train[@]}" --output "ranks-$ranks" 2>err || fail "$ranks ranks"
  for file in checkpoint.safetensors diffusion_pytorch_model.safetensors; do
    cmp "one/$file" "ranks-$ranks/$file" || fail "$ranks ranks: $file"
  done
  cmp <(cut -d, -f1-4 one/log.csv) <(cut -d, -f1-4 "ranks-$ranks/log.csv") || fail "$ranks ranks: losses"
done
[ "$(grep -c trained err)" = 1 ] || fail "expected the sentence of one rank"

refused "mpirun: expected the same run on every rank, found another on rank 1" \
  "$@" -n 1 "$program" "${train[@]}" --output out : -n 1 "$program" "${train[@]}" --seed 1 --output out
refused "found 6 ranks for a step's 5 windows" "$@" -n 6 "$program" "${train[@]}" --output out

# A rank is killed in the middle; what rank 0 has saved is whole, and goes on with another number
# of ranks to the same end.
train[${#train[@]}-3]=400
"$alone" "${train[@]}" --micro-batch 2 --output whole 2>err || fail "a long run"
if "$@" -n 2 bash -c 'echo $$ >"pid.$$"; exec "$0" "$@"' \
  "$program" "${train[@]}" --micro-batch 2 --checkpoint-every 5 --output cut 2>err &
then :; fi
job=$!
for _ in $(seq 300); do
  [ -e cut/log.csv ] && [ "$(wc -l <cut/log.csv)" -gt 12 ] && break
  sleep 0.05
done
kill -KILL "$(cat pid.* | tail -1)" || fail "it ended before it was killed"
if wait $job; then fail "expected an error of the job"; fi
"$@" -n 3 "$program" train --resume --output cut 2>err || fail "to resume"
cmp whole/checkpoint.safetensors cut/checkpoint.safetensors || fail "a run that was cut"
