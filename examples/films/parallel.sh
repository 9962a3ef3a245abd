#!/usr/bin/env bash
# A film restored by GNU parallel, on this machine or over ssh on several that see the same files under the same names.
# Run again after a failure, it makes only what is missing. usage: parallel.sh FILM OUTPUT FOLDER [HOSTS]
#   HOSTS   as parallel's --sshlogin has them: jobs/host,jobs/host,... such as 1/node1,1/node2; ":" is this machine
set -euo pipefail
film=$(realpath "$1") output=$2 folder=$3 hosts=${4:-:}
mkdir -p "$folder"
folder=$(realpath "$folder")
plan=$folder/plan.json
[ -f "$plan" ] || kineograph restore "$film" --plan "$plan"
# GNU parallel writes its commands for one shell, which it guesses where SHELL is not set or is no shell, and guesses
# wrong: every job then ends well and nothing was run.
PARALLEL_SHELL=$(command -v bash)
export PARALLEL_SHELL
# A segment that fails is tried on up to three hosts. What fails for good is told by the join.
kineograph restore --plan "$plan" --join "$folder" --list |
  parallel --will-cite --sshlogin "$hosts" --env PATH --joblog "$folder/joblog" --retries 3 --quote \
    kineograph restore "$film" "$folder" --plan "$plan" --segment {} || true
kineograph restore "$film" "$output" --plan "$plan" --join "$folder"
