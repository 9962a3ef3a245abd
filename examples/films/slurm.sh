#!/usr/bin/env bash
# A film restored by a SLURM array, a job for every segment that is missing, and a last one that joins them.
# usage: slurm.sh FILM OUTPUT FOLDER [SBATCH OPTIONS...]
set -euo pipefail
film=$(realpath "$1") output=$(realpath -m "$2") folder=$3
shift 3
mkdir -p "$folder"
folder=$(realpath "$folder")
plan=$folder/plan.json
[ -f "$plan" ] || kineograph restore "$film" --plan "$plan"
missing=$(kineograph restore --plan "$plan" --join "$folder" --list | paste -sd,)
dependency=()
if [ -n "$missing" ]; then
  array=$(sbatch --parsable "$@" --array="$missing" --requeue --output="$folder/segment-%a.log" --job-name=restore \
    --wrap="kineograph restore '$film' '$folder' --plan '$plan' --segment \$SLURM_ARRAY_TASK_ID")
  dependency=(--dependency="afterany:$array")
fi
sbatch "$@" "${dependency[@]}" --output="$folder/join.log" --job-name=join \
  --wrap="kineograph restore '$film' '$output' --plan '$plan' --join '$folder'"
