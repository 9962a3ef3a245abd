#!/usr/bin/env bash
# Formats, lints, the public headers' comments and clang-tidy, none of which changes a file. usage: lint.sh all|changed
# `changed` gives clang-tidy the sources that differ from $LINT_BASE (default: origin/main, else the last commit), in the
# working tree too, for at most $LINT_SECONDS (default: 100) seconds; formats and ruff always look at everything.
set -euo pipefail
cd "$(dirname "$0")/.."
scope=${1:-all}
environment=build/lint/environment
failed=0

# Both formatters' output depends on their version, so they come by pip, of the version of scripts/requirements/lint.in.
if ! cmp -s scripts/requirements/lint.txt "$environment/lint.txt"; then
  python3 -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r scripts/requirements/lint.txt
  cp scripts/requirements/lint.txt "$environment/lint.txt"
fi
tracked() { git ls-files -z --cached --others --exclude-standard "$@"; }

echo "clang-format"
tracked '*.cc' '*.h' | xargs -0 "$environment/bin/clang-format" --dry-run --Werror || failed=1
echo "ruff"
"$environment/bin/ruff" check --quiet . || failed=1
"$environment/bin/ruff" format --quiet --check . || failed=1

# A member of the public headers without a comment is an error (docs/Doxyfile).
if command -v doxygen >/dev/null; then
  echo "doxygen"
  mkdir -p build/docs
  doxygen docs/Doxyfile || failed=1
else
  echo "no doxygen here: the public headers' comments were not read"
fi

# clang-tidy reads what the compiler reads: the commands of the release preset.
scripts/configure.sh release -DKINEOGRAPH_TESTS=ON >/dev/null
python3 scripts/lint_database.py build/release/compile_commands.json build/lint/compile_commands.json >build/lint/sources
if [ "$scope" = changed ]; then
  base=${LINT_BASE:-$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse -q --verify HEAD~1 || git rev-parse HEAD)}
  { git diff --name-only "$base"; git ls-files --others --exclude-standard; } | sort -u >build/lint/changed
  grep -Fxf build/lint/changed build/lint/sources >build/lint/selected || true
else
  cp build/lint/sources build/lint/selected
fi
count=$(wc -l <build/lint/selected)
echo "clang-tidy: $count of $(wc -l <build/lint/sources) sources"
rm -rf build/lint/tidied
mkdir -p build/lint/tidied
# One source a process; its findings are printed when it is through.
tidy='out=$(clang-tidy --quiet -p build/lint "$0" 2>build/lint/tidied/errors.$$) || { echo "$out"; grep -v "warnings generated\|^$" build/lint/tidied/errors.$$; exit 1; }
  rm -f build/lint/tidied/errors.$$; touch "build/lint/tidied/${0//\//+}"'
limit=()
[ "$scope" = changed ] && limit=(timeout "${LINT_SECONDS:-100}")
code=0
"${limit[@]}" xargs -r -n 1 -P "${JOBS:-$(nproc)}" bash -c "$tidy" <build/lint/selected || code=$?
if [ $code -eq 124 ]; then
  echo "clang-tidy: the time was up after $(find build/lint/tidied -name '*+*' | wc -l) sources; make lint looks at all"
elif [ $code -ne 0 ]; then
  failed=1
fi
exit $failed
