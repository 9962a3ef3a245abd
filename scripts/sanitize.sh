#!/usr/bin/env bash
# Builds the engines with sanitizers and runs random configurations, gradients and concurrent calls on them. Everything
# is kept in build/sanitize. usage: sanitize.sh [quick] [address] [thread]; without one, the last two.
#   quick    AddressSanitizer and UBSan, a few cases of forwards and of gradients on AVX-512 alone, which CI runs
#   address  AddressSanitizer and UBSan, on AVX-512 and on AVX-512 with bf16 dot products, if this processor has them
#   thread   ThreadSanitizer, with a oneTBB that is built for it: without, it does not see who waits for whom. Its source
#            is the distribution's (apt-get source), or the folder in TBB_SOURCE
# CASES: how many random cases each test takes (default 200; 20 where it is quick and under ThreadSanitizer, whose four
# tests take four minutes with that). No report is suppressed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/build/sanitize
jobs=${JOBS:-$(nproc)}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(address thread)
# Kernels take minutes to compile with sanitizers. With AVX-512 as the least that is there, elder sets are not compiled.
if grep -qw avx512vl /proc/cpuinfo 2>/dev/null; then
  least=-march=skylake-avx512
else
  echo "This processor has no AVX-512: its best instruction set is checked instead."
  least=-march=native
fi
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi

# The distribution's source of oneTBB, fetched with the machine's own apt sources, in a folder of their own.
tbb_source() {
  if [ -n "${TBB_SOURCE:-}" ]; then echo "$TBB_SOURCE"; return; fi
  local apt=$root/apt source=$root/tbb-source
  if [ ! -f "$source/CMakeLists.txt" ]; then
    mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/cache/archives/partial" "$source"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
      [ -f "$file" ] && sed 's/^Types:.*/Types: deb-src/; s/^deb /deb-src /' "$file" >"$apt/sources/$(basename "$file" .list)${file#"${file%.*}"}"
    done
    local options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$apt/sources"
      -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache")
    apt-get "${options[@]}" -qq update >&2 || true  # sources of other people may have none
    (cd "$apt" && apt-get "${options[@]}" -qq source --download-only onetbb >&2)
    tar -xf "$apt"/onetbb_*.orig.tar.* --strip-components=1 -C "$source"
  fi
  echo "$source"
}

build_tbb() {
  [ ! -d "$root/tbb" ] || return 0
  local source
  source=$(tbb_source)
  cmake "${generator[@]}" "${launcher[@]}" -S "$source" -B "$root/tbb-build" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_INSTALL_PREFIX="$root/tbb" -DCMAKE_INSTALL_LIBDIR=lib -DTBB_SANITIZE=thread -DTBB_TEST=OFF -DTBB_STRICT=OFF \
    -DTBBMALLOC_BUILD=OFF >/dev/null
  cmake --build "$root/tbb-build" --parallel "$jobs"
  cmake --install "$root/tbb-build" >/dev/null
}

# build PART PRESET TARGETS... -- OPTIONS OF CMAKE...
build() {
  local folder=$root/$1 preset=$2 targets=()
  shift 2
  while [ "$1" != -- ]; do targets+=("$1"); shift; done
  shift
  [ -f "$folder/CMakeCache.txt" ] ||
    cmake "${generator[@]}" "${launcher[@]}" --preset "$preset" -B "$folder" "$@" >/dev/null
  cmake --build "$folder" --parallel "$jobs" --target "${targets[@]}"
}

run() {
  echo "$1 ${2:-}"
  "$1" --gtest_brief=1 ${2:+"--gtest_filter=$2"} | tee "$root/said"
  grep -q 'PASSED  . [1-9]' "$root/said" || { echo "$1: no test is called $2"; exit 1; }
}

random=(cpu_engine_test cpu_gradient_test cpu_rows_test)
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=second_deadlock_stack=1:halt_on_error=1
for part in "${parts[@]}"; do
  bin=$root/$part/bin
  case $part in
    quick)
      export KINEOGRAPH_CASES=${CASES:-20}
      build quick asan "${random[@]}" -- -DCMAKE_CXX_FLAGS="$least -DKINEOGRAPH_DISABLED_TARGETS=HWY_AVX3_DL"
      for test in "${random[@]}"; do run "$bin/$test" '*RandomCases*'; done
      ;;
    address)
      export KINEOGRAPH_CASES=${CASES:-200}
      build address asan "${random[@]}" concurrency_test -- -DCMAKE_CXX_FLAGS="$least"
      for test in "${random[@]}"; do run "$bin/$test" '-*Grid*'; done
      run "$bin/concurrency_test"
      ;;
    thread)
      export KINEOGRAPH_CASES=${CASES:-20}
      build_tbb
      build thread tsan "${random[@]}" concurrency_test -- -DCMAKE_CXX_FLAGS="$least" -DTBB_DIR="$root/tbb/lib/cmake/TBB"
      export LD_LIBRARY_PATH=$root/tbb/lib
      for test in "${random[@]}"; do run "$bin/$test" '*SameBits*:*Threads*:*Concurrency*'; done
      run "$bin/concurrency_test"
      ;;
    *) echo "sanitize.sh: expected quick, address or thread, found $part" >&2; exit 2 ;;
  esac
done
