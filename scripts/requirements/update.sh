#!/usr/bin/env bash
# Pins what each .in file asks for, with everything it needs and the hashes of all files, for Python 3.11 and newer.
# Needs uv (PyPI). usage: update.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")"
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(*.in)
for name in "${names[@]%.in}"; do
  arguments=(--universal --generate-hashes --no-annotate --no-header --python-version 3.11 --quiet --upgrade)
  # The demo wants one package's data, not what its code needs.
  if [ "$name" = demo ]; then arguments+=(--no-deps); fi
  uv pip compile "${arguments[@]}" "$name.in" -o "$name.txt"
done
