#!/usr/bin/env bash
# Installs kineograph as newcomers and packagers do, in bare systems. Needs root, debootstrap and a network; says what is
# skipped without. usage: run.sh [TEST...]; all of them take most of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/install/roots.sh

# The block of commands in README.md below a heading.
readme_block() {
  python3 - "$1" <<'PYTHON'
import re
import sys

section = open("README.md").read().split(f"\n## {sys.argv[1]}\n")[1]
print(re.search(r"```sh[^\n]*\n(.*?)```", section, re.S)[1])
PYTHON
}

# The README's two first blocks, as they stand, without a compiler's warning; then the goldens and the exact messages of wrong
# command lines from the same build, and the Python tests in the same environment. `make test` has tests of its own; torch is
# gigabytes, so that it and the tests that need it are for those who ask.
readme() {
  local log
  fresh "$1"
  log=$root/log
  install_in_root make ca-certificates
  inside "$(readme_block Build | grep -v '^make test')" 2>&1 | tee "$log"
  if grep 'warning: .*\[-W' "$log"; then return 1; fi
  local block
  block=$(readme_block 'In diffusers')
  if [ -z "${KINEOGRAPH_INSTALL_TORCH:-}" ]; then block=${block//.\[diffusers\]/.}; fi
  inside "$block
    kineograph restore demo/damaged.y4m /tmp/restored.y4m --frames 2
    cd /; python -c 'import kineograph; print(kineograph.__file__)'"
  install_in_root libgtest-dev
  inside "scripts/configure.sh release -DKINEOGRAPH_TESTS=ON
    cmake --build build/release --parallel $(nproc) --target golden_test spatial_golden_test usage_test" 2>&1 | tee "$log"
  if grep 'warning: .*\[-W' "$log"; then return 1; fi
  inside "for test in golden_test spatial_golden_test usage_test; do build/release/bin/\$test --gtest_brief=1; done
    . kineograph-env/bin/activate
    pip install --quiet pytest hypothesis
    python -m pytest -q -p no:cacheprovider tests/python"
  gone
}
# The compiler and libraries that this is written with: GCC 12, Highway 1.0.3, oneTBB 2021.8, Python 3.11.
bookworm() { readme bookworm; }
# Newer ones: GCC 14, Highway 1.2, oneTBB 2022, CLI11 2.4, Python 3.13.
trixie() { readme trixie; }

# Arm, built across and run under qemu-user: goldens, random configurations, video, checkpoints. No processor that qemu plays
# is without AES (Raspberry Pi 3 and 4 are), so the code is searched for AES's instructions.
aarch64() {
  fresh bookworm
  install_in_root ca-certificates python3
  inside "dpkg --add-architecture arm64; apt-get update -qq"
  install_in_root g++-aarch64-linux-gnu cmake ninja-build qemu-user-static libhwy-dev:arm64 libtbb-dev:arm64 \
    zlib1g-dev:arm64 libgtest-dev:arm64 nlohmann-json3-dev libcli11-dev libxxhash-dev:arm64
  inside "cmake --preset release -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
      -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CXX_FLAGS=-Werror -DCMAKE_CROSSCOMPILING_EMULATOR=/usr/bin/qemu-aarch64-static
    tests='golden_test spatial_golden_test cpu_engine_test y4m_test safetensors_test checkpoint_files_test torch_archive_test'
    cmake --build build/release --parallel $(nproc) --target kineograph_program \$tests
    if aarch64-linux-gnu-objdump -d build/release/bin/kineograph | grep -wE 'aes(e|d|mc|imc)|pmull2?\s.*\.1q'; then exit 1; fi
    export KINEOGRAPH_CASES=100
    for processor in cortex-a53 cortex-a76; do
      qemu-aarch64-static -cpu \$processor build/release/bin/kineograph --version | grep 'engine cpu: neon'
      for test in \$tests; do qemu-aarch64-static -cpu \$processor build/release/bin/\$test --gtest_brief=1; done
    done"
  gone
}

# gcc 12 to 14 and clang 14 to 19, as far as the two Debians have them: all that is compiled, read with warnings as errors, and
# the goldens of KINEOGRAPH_GOLDENS_OF. KINEOGRAPH_COMPILERS="g++-13 clang++-19" takes some.
compilers() {
  compilers_of bookworm g++-12 clang++-14 clang++-15 clang++-16
  compilers_of trixie g++-13 g++-14 clang++-17 clang++-18 clang++-19
}

compilers_of() {
  local suite=$1 compiler some=()
  for compiler in "${@:2}"; do
    case " ${KINEOGRAPH_COMPILERS:-$compiler} " in *" $compiler "*) some+=("$compiler") ;; esac
  done
  [ ${#some[@]} -gt 0 ] || return 0
  fresh "$suite"
  install_in_root g++ cmake ninja-build python3 nlohmann-json3-dev zlib1g-dev lib{cli11,hwy,tbb,gtest,xxhash}-dev \
    "${some[@]/#clang++/clang}"
  # Of the instruction sets the one with most in it; a debug build reads the assertions too.
  local sets='"-DKINEOGRAPH_DISABLED_TARGETS=(HWY_SSE4|HWY_AVX2|HWY_AVX3)"'
  inside "cmake -G Ninja -S . -B build/read '-DCMAKE_CXX_FLAGS=$sets' -DCMAKE_BUILD_TYPE=Debug >/dev/null
    for compiler in ${some[*]}; do python3 tests/install/compile.py build/read \$compiler; done"
  for compiler in "${some[@]}"; do
    case " ${KINEOGRAPH_GOLDENS_OF:-g++-13 clang++-14 clang++-19} " in *" $compiler "*) ;; *) continue ;; esac
    inside "cmake -G Ninja -S . -B build/$compiler -DCMAKE_CXX_COMPILER=$compiler '-DCMAKE_CXX_FLAGS=-Werror $sets' \
        -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG' -DKINEOGRAPH_CLI=OFF -DKINEOGRAPH_C=OFF >/dev/null
      cmake --build build/$compiler --parallel $(nproc) --target golden_test spatial_golden_test
      for test in golden_test spatial_golden_test; do build/$compiler/bin/\$test --gtest_brief=1; done"
  done
  gone
}

# A wheel works where nothing but Python is, the shipped model and the program in it.
wheel() {
  scripts/wheels.sh
  fresh bookworm
  install_in_root python3-venv
  mkdir "$root/wheels"
  cp build/wheels/*.whl "$root/wheels"
  cp tests/install/wheel_check.py "$root/wheels"
  inside "rm -rf /source/*; cd /; python3 -m venv /environment
    /environment/bin/pip install --quiet /wheels/*.whl
    /environment/bin/python /wheels/wheel_check.py /environment/bin/kineograph"
  gone
}

# Debian packages: made, installed with what they depend on, used, taken away whole.
deb() {
  make deb
  fresh bookworm
  cp build/release/packages/*.deb "$root"
  install_in_root /kineograph_*.deb
  inside "kineograph --version
    kineograph init --preset modelscope-320 -o /tmp/module
    kineograph inspect /tmp/module | grep TransformerTemporalModel"
  install_in_root g++ pkg-config /libkineograph-dev_*.deb
  inside "g++ -std=c++20 examples/embed/main.cc -o /tmp/embed \$(pkg-config --cflags --libs kineograph); /tmp/embed
    gcc examples/c/main.c -o /tmp/c \$(pkg-config --cflags --libs kineograph_c); /tmp/c
    apt-get purge -y -qq kineograph libkineograph-dev >/dev/null
    [ -z \"\$(find /usr -name '*kineograph*')\" ]"
  gone
}

# KINEOGRAPH_FETCH with Debian's source packages in place of the network: a project that fetches kineograph, which fetches
# Highway and oneTBB, and exports targets of its own; and a shared library, installed, moved and used from C++, C and MPI.
fetch() {
  fresh trixie
  install_in_root g++ cmake ninja-build zlib1g-dev pkg-config dpkg-dev libopenmpi-dev openmpi-bin
  inside "sed 's/^deb /deb-src /' /etc/apt/sources.list >/etc/apt/sources.list.d/source.list; apt-get update -qq
    mkdir /libraries; cd /libraries
    for name in highway onetbb nlohmann-json3; do
      apt-get source -qq --download-only --tar-only \$name >/dev/null
      mkdir \$name; tar -x --strip-components=1 -C \$name -f \${name}_*.orig.tar.*
    done
    # One instruction set is enough to see that the parts fit.
    offline='-G Ninja -DKINEOGRAPH_FETCH=ON -DFETCHCONTENT_FULLY_DISCONNECTED=ON -DCMAKE_CXX_FLAGS=-DHWY_COMPILE_ONLY_STATIC
      -DFETCHCONTENT_SOURCE_DIR_HIGHWAY=/libraries/highway -DFETCHCONTENT_SOURCE_DIR_ONETBB=/libraries/onetbb
      -DFETCHCONTENT_SOURCE_DIR_NLOHMANN_JSON=/libraries/nlohmann-json3'
    mkdir /parent; cp /source/examples/embed/main.cc /parent
    printf '%s\n' 'cmake_minimum_required(VERSION 3.22)' 'project(parent LANGUAGES CXX)' 'include(FetchContent)' \
      'FetchContent_Declare(kineograph SOURCE_DIR /source)' 'FetchContent_MakeAvailable(kineograph)' \
      'add_executable(parent main.cc)' 'target_link_libraries(parent PRIVATE kineograph::kineograph)' \
      'install(TARGETS parent EXPORT parentTargets)' 'install(EXPORT parentTargets DESTINATION lib)' >/parent/CMakeLists.txt
    cmake -S /parent -B /parent/build \$offline
    cmake --build /parent/build --parallel $(nproc); /parent/build/parent
    cmake -S /source -B /build \$offline -DBUILD_SHARED_LIBS=ON -DKINEOGRAPH_CLI=OFF -DKINEOGRAPH_TESTS=OFF
    cmake --build /build --parallel $(nproc)
    cmake --install /build --prefix /installed >/dev/null
    mv /installed /moved; rm -rf /build
    cmake -S /source/examples/embed -B /embed -DCMAKE_PREFIX_PATH=/moved; cmake --build /embed; /embed/embed
    PKG_CONFIG_PATH=\$(dirname \"\$(find /moved -name kineograph_c.pc)\")
    export PKG_CONFIG_PATH
    path=-Wl,-rpath,\$(pkg-config --variable=libdir kineograph_c)
    cd /source
    gcc examples/c/main.c -o /tmp/c \$(pkg-config --cflags --libs kineograph_c) \$path; /tmp/c
    mpicxx -std=c++20 tests/mpi/ranks_mpi.cc -o /tmp/ranks \$(pkg-config --cflags --libs kineograph) \$path
    mpirun --allow-run-as-root --oversubscribe -n 3 /tmp/ranks same"
  gone
}

# The manual page and the completions, by the tools that read them.
pages() {
  local program=build/release/bin/kineograph
  "$program" --man | mandoc -T lint -W error  # the page has no date: builds are to be repeatable
  for shell in bash zsh fish; do "$program" --completion $shell >"build/completion.$shell"; "$shell" -n "build/completion.$shell"; done
  fish -c "source build/completion.fish; complete -C 'kineograph run --dtype '" | grep -q '^bf16'
  fish -c "source build/completion.fish; complete -C 'kineograph res'" | grep -q '^restore'
}

# Processors that hide AES, and one with no vectors that Highway 1.0.3 knows, as qemu plays them.
processors() {
  local program=build/release/bin/kineograph
  qemu-x86_64-static -cpu Haswell,-aes,-pclmulqdq "$program" --version 2>/dev/null | grep -x 'engine cpu: avx2 sse4'
  qemu-x86_64-static -cpu Nehalem "$program" --version 2>/dev/null | grep -x 'engine cpu: sse4'
  qemu-x86_64-static -cpu qemu64 "$program" --version 2>&1 | grep -c 'has none of the instruction sets' | grep -x 1
}

tests=(pages processors deb wheel fetch aarch64 compilers bookworm trixie)
[ $# -eq 0 ] || tests=("$@")
if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
  echo "skipped: bare systems are made by debootstrap, as root" >&2
  exit 0
fi
failed=()
for test in "${tests[@]}"; do
  start=$SECONDS
  echo "$test" >&2
  # Not as a condition, inside which `set -e` would stop at nothing.
  set +e
  (set -e; trap gone EXIT; "$test") >"build/install-test.$test.log" 2>&1
  code=$?
  set -e
  if [ $code -eq 0 ]; then
    echo "  passed, $((SECONDS - start)) s" >&2
  else
    failed+=("$test")
    tail -20 "build/install-test.$test.log" >&2
    echo "  failed, $((SECONDS - start)) s: build/install-test.$test.log" >&2
  fi
done
echo "$((${#tests[@]} - ${#failed[@]})) passed, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ]
