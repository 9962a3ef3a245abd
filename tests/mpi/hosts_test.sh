#!/usr/bin/env bash
# Ranks on three hosts, which are network namespaces with a name and an address each, joined by a bridge: a rank is
# killed, one is stopped, and a link is cut. The job ends with an error within a stated time, wherever its ranks run, and
# what rank 0 has saved is whole. Half a minute: with KINEOGRAPH_ALL_MESHES only. Exit code 77 without it, and without the
# rights for namespaces. OpenMPI only, whose mpirun takes a program for ssh.
# bash hosts_test.sh PROGRAM PROGRAM_WITH_MPI MPIRUN...
set -euo pipefail
alone=$1 program=$2
shift 2
[ -n "${KINEOGRAPH_ALL_MESHES:-}" ] || { echo "skipped: KINEOGRAPH_ALL_MESHES is not set" && exit 77; }
. "$(dirname "$0")/program.sh"

# Seconds that ranks wait for each other, and that the end of a job may take beyond that.
patience=3 more=12
name=kg$$

clean() {
  for host in 1 2 3 b; do
    ip netns pids $name-$host 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
    ip netns del $name-$host 2>/dev/null || true
  done
  rm -rf "$folder"
}
trap clean EXIT
ip netns add $name-b 2>err && unshare --uts true 2>>err || { echo "skipped: $(cat err)" && exit 77; }
ip -n $name-b link add bridge type bridge
ip -n $name-b link set bridge up
for host in 1 2 3; do
  ip netns add $name-$host
  ip -n $name-$host link set lo up
  ip link add e0 netns $name-$host type veth peer name port$host netns $name-b
  ip -n $name-b link set port$host master bridge up
  ip -n $name-$host address add 10.77.0.$host/24 dev e0
  ip -n $name-$host link set e0 up
done

# What mpirun takes for ssh: agent HOST COMMAND...
cat >agent <<SH
#!/bin/sh
host=\${1##*.}
shift
exec ip netns exec $name-\$host unshare --uts sh -c "hostname host\$host; cd $folder; \$*"
SH
chmod +x agent
run=(ip netns exec $name-1 unshare --uts sh -c 'hostname host1; exec "$@"' sh "$@" -H 10.77.0.1,10.77.0.2,10.77.0.3 -n 3
     --mca plm_rsh_agent "$folder/agent" --mca btl tcp,self --mca btl_tcp_if_include e0 --mca oob_tcp_if_include e0)

cat >config.json <<'JSON'
{"num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 48, "norm_num_groups": 1,
 "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 3, "double_self_attention": false, "_prediction_type": "epsilon"}
JSON
train=(train --clips drawn --config config.json --batch 3 --frames 3 --crop 12 --patches 4 --warmup 1 --threads 1
       --patience $patience)

# The process of the program on a host.
rank_on() {
  for pid in $(ip netns pids $name-$1); do
    [ "$(readlink /proc/$pid/exe)" = "$(readlink -f "$program")" ] && echo $pid && return
  done
  return 1
}
now() { date +%s%N | cut -c1-13; }

# lost FOLDER COMMAND...: a run that never ends, to which something happens.
lost() {
  local to=$1
  shift
  "${run[@]}" "$program" "${train[@]}" --steps 1000000 --checkpoint-every 5 --output "$to" >said 2>err &
  local job=$!
  for _ in $(seq 400); do
    [ -e "$to/log.csv" ] && [ "$(wc -l <"$to/log.csv")" -gt 8 ] && break
    sleep 0.05
  done
  local start
  start=$(now)
  "$@" || fail "$to: the run ended before"
  local limit=$(((patience + more) * 1000))
  for host in 1 2 3; do
    while rank_on $host >pid && [ "$(cut -d' ' -f3 /proc/"$(cat pid)"/stat 2>/dev/null)" != T ]; do
      [ $(($(now) - start)) -le $limit ] || fail "$to: the rank of host $host goes on"
      sleep 0.05
    done
  done
  local took=$(($(now) - start))
  echo "$to: all ranks have ended after $took ms"
  # mpirun itself may wait for a host that it cannot reach.
  timeout $more tail --pid=$job -f /dev/null || kill -KILL $job
  if wait $job; then fail "$to: expected an error of the job"; fi
  "$alone" inspect "$to" >/dev/null 2>said || fail "$to: the model is not whole: $(cat said)"
  "$alone" train --resume --output "$to" --patience 1 >/dev/null 2>said & local resumed=$!
  sleep 1
  kill -TERM $resumed
  wait $resumed && fail "$to: expected 143" || [ $? = 143 ] || fail "$to: the run cannot be resumed: $(cat said)"
}

kill_rank() { kill -KILL "$(rank_on 3)"; }
stop_rank() { kill -STOP "$(rank_on 3)"; }
cut_link() { ip -n $name-b link set port3 down; }
lost killed kill_rank
lost stopped stop_rank
lost cut cut_link
grep -q "A rank has ended or hangs" err || fail "expected the words of the survivors"
