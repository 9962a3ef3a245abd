#!/usr/bin/env bash
# Builds the engines with sanitizers and runs random configurations, gradients and concurrent calls on them. Everything
# is kept in build/sanitize. usage: sanitize.sh [address] [thread]; without one, both.
#   address  AddressSanitizer and UBSan, on AVX-512 and on AVX-512 with bf16 dot products; a set that this processor
#            lacks has no cases
#   thread   ThreadSanitizer, with a oneTBB that is built for it: without, it does not see who waits for whom. Its source
#            is the distribution's (apt-get source), or the folder in TBB_SOURCE
# CASES: how many random cases each test takes (default 200; 20 under ThreadSanitizer, whose four tests take four minutes
# with that). No report is suppressed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/build/sanitize
jobs=${JOBS:-$(nproc)}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(address thread)
# What takes long to compile and has no code of its own beside AVX-512's.
few_targets='-DHWY_DISABLED_TARGETS="(HWY_SSSE3|HWY_SSE4|HWY_AVX2|HWY_AVX3|HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)"'
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

# build PART PRESET TARGETS... -- CMAKE OPTIONS...
build() {
  local folder=$root/$1 preset=$2 targets=()
  shift 2
  while [ "$1" != -- ]; do targets+=("$1"); shift; done
  shift
  [ -f "$folder/CMakeCache.txt" ] || cmake "${generator[@]}" "${launcher[@]}" --preset "$preset" -B "$folder" \
    -DCMAKE_CXX_FLAGS="$few_targets" "$@" >/dev/null
  cmake --build "$folder" --parallel "$jobs" --target "${targets[@]}"
}

run() {
  echo "$1 ${2:-}"
  "$1" --gtest_brief=1 ${2:+"--gtest_filter=$2"}
}

for part in "${parts[@]}"; do
  bin=$root/$part/bin
  case $part in
    address)
      export KINEOGRAPH_CASES=${CASES:-200}
      build address asan cpu_engine_test cpu_gradient_test cpu_rows_test concurrency_test --
      export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
      for test in cpu_engine_test cpu_gradient_test cpu_rows_test; do run "$bin/$test" '*avx512*:*Threads*:*Frozen*'; done
      run "$bin/concurrency_test"
      ;;
    thread)
      export KINEOGRAPH_CASES=${CASES:-20}
      build_tbb
      build thread tsan cpu_engine_test cpu_gradient_test cpu_rows_test concurrency_test -- -DTBB_DIR="$root/tbb/lib/cmake/TBB"
      export TSAN_OPTIONS=second_deadlock_stack=1:halt_on_error=1 LD_LIBRARY_PATH=$root/tbb/lib
      for test in cpu_engine_test cpu_gradient_test cpu_rows_test; do run "$bin/$test" '*SameBits*avx512*:*Threads*:*Concurrency*'; done
      run "$bin/concurrency_test"
      ;;
    *) echo "sanitize.sh: expected address or thread, found $part" >&2; exit 2 ;;
  esac
done
