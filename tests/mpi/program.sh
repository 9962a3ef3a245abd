# For tests of the program under mpirun: a folder of one's own, and what is expected of a command.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

fail() {
  echo "failed: $*" >&2
  cat err >&2 || true
  exit 1
}

# refused WORDS COMMAND...: the command fails with the words and leaves no output.
refused() {
  local words=$1
  shift
  if "$@" >said 2>err; then fail "expected an error: $*"; fi
  [ -z "$words" ] || grep -q -- "$words" err || fail "expected the words '$words'"
  [ -z "$(ls | grep '^out' || true)" ] || fail "something is written: $(ls)"
}
