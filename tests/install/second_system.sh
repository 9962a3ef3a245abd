#!/usr/bin/env bash
# CI's second system: Debian 13 (GCC 14, Highway 1.2, oneTBB 2022), made by debootstrap in a folder that goes when this ends.
# There the goldens run as built for x86-64, and some of them as built for Arm, under qemu-user; a warning is an error. Few
# instruction sets and -O1 keep it short: install-tests has the rest. A machine that cannot make the system (no root, no
# debootstrap, no mounts, no mirror) says "skipped: reason" and succeeds. usage: second_system.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
patience=${KINEOGRAPH_PATIENCE:-120}  # seconds for the system and its packages; two cores and a near mirror take a third

# A process of its own, which a mirror that does not answer cannot hold. qemu has half a gigabyte of programs; one is used.
prepare() {
  fresh trixie
  printf 'path-%s\n' exclude=/usr/share/{doc,man}/'*' exclude=/usr/bin/qemu-'*' include=/usr/bin/qemu-aarch64 \
    >"$root/etc/dpkg/dpkg.cfg.d/less"
  inside "dpkg --add-architecture arm64; apt-get update -qq"
  install_in_root g++ g++-aarch64-linux-gnu cmake ninja-build nlohmann-json3-dev qemu-user \
    {libhwy,libtbb,zlib1g,libgtest}-dev{,:arm64}
}

# build FOLDER "TARGETS" FLAGS ARGUMENTS...: configures and compiles.
build() {
  cmake -G Ninja -S . -B "$1" -DKINEOGRAPH_CLI=OFF -DKINEOGRAPH_C=OFF -DKINEOGRAPH_TESTS=ON "${@:4}" \
    -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG' -DCMAKE_CXX_FLAGS="-Werror $3"
  # shellcheck disable=SC2086
  cmake --build "$1" --parallel "$(nproc)" --target $2
}

# In the system.
check() {
  local test least=
  # AVX2 as the least that is there is one instruction set to compile, in place of two.
  if grep -qw avx2 /proc/cpuinfo; then least="-march=haswell -maes -mpclmul"; fi
  build build/native "golden_test spatial_golden_test" \
    "$least '-DKINEOGRAPH_DISABLED_TARGETS=(HWY_SSE4|HWY_AVX3|HWY_AVX3_DL)'"
  for test in golden_test spatial_golden_test; do build/native/bin/$test --gtest_brief=1; done
  build build/arm golden_test "'-DKINEOGRAPH_DISABLED_TARGETS=(HWY_NEON|HWY_NEON_BF16)'" \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CROSSCOMPILING_EMULATOR=/usr/bin/qemu-aarch64
  qemu-aarch64 -cpu cortex-a53 build/arm/bin/golden_test --gtest_brief=1 --gtest_filter='All/GoldenTest.*/a*' | tee build/arm/said
  grep -q 'PASSED  . [1-9]' build/arm/said
}

skipped() {
  echo "skipped: $*"
  exit 0
}

# What a program that was stopped still has mounted or writes stays behind, which is no fault of what was checked.
leave() {
  for root in "$KINEOGRAPH_ROOTS"/copy.*; do gone || true; done
  rm -rf --one-file-system "$KINEOGRAPH_ROOTS" || echo "left behind: $KINEOGRAPH_ROOTS"
}

case "${1:-}" in
  prepare)
    . tests/install/roots.sh
    prepare
    exit
    ;;
  check)
    check
    exit
    ;;
esac
[ "$(id -u)" -eq 0 ] || skipped "a second system is made as root"
command -v debootstrap >/dev/null || skipped "no debootstrap here"
unshare --mount mount -t tmpfs none /mnt 2>/dev/null || skipped "no mounts here"
KINEOGRAPH_ROOTS=$(mktemp -d -p "${TMPDIR:-/var/tmp}" kineograph-second.XXXXXX)
export KINEOGRAPH_ROOTS
. tests/install/roots.sh
trap leave EXIT
log=$KINEOGRAPH_ROOTS/log
code=0
timeout "$patience" tests/install/second_system.sh prepare >"$log" 2>&1 || code=$?
[ $code -ne 124 ] || skipped "Debian 13 and its packages did not come within $patience s"
if [ $code -ne 0 ]; then
  # What debootstrap and apt cannot fetch is the mirror's; a package that is not known, and all else, is a fault here.
  if ! grep -qE '^(E|Err):|^E ' "$log" || grep -qE 'Unable to locate package|no installation candidate' "$log"; then
    cat "$log"
    exit 1
  fi
  skipped "Debian 13 and its packages cannot be had: $(tail -n 1 "$log")"
fi
root=$(echo "$KINEOGRAPH_ROOTS"/copy.*)
echo "Debian 13 with its packages in $SECONDS s"
inside "tests/install/second_system.sh check"
echo "goldens on Debian 13 and on Arm passed, $SECONDS s in all"
