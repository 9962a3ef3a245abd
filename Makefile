# Thin: cmake builds, ctest tests, scripts/ does the rest.
#   make build   the program and the libraries, build/release/bin/kineograph; installs nothing, compiles no test
#   make deps    install what is missing (apt) to build the program and the Python package, after saying what
#   make demo    the same, build, restore a damaged real clip, measure and show it
#   make test    the same, then the whole suite
#   make python  build the Python package and run its tests; PYTHON_EXTRAS="diffusers plot" brings what they can use
#   make mutation  change everything in a temporal module, at every moment, and compare with diffusers (an hour or more)
#   make fuzz    run every fuzz target for SECONDS (needs clang and its runtime)
#   make fuzz-engine  hold the engines to each other on configurations that a fuzzer chooses, for SECONDS
#   make sanitize  random cases, gradients and concurrent calls with sanitizers, all in build/sanitize (half an hour)
#   make torture kill a saving process at random moments for SECONDS
#   make cuda-tests  many random cases of the CUDA engine on the emulated device, and nvcc for every architecture
#   make wheels  a wheel for this machine's Python, with everything inside, build/wheels
#   make deb     Debian packages, build/release/packages
#   make install-tests  install in bare systems, as root with debootstrap (most of an hour); TESTS="deb wheel" some of them
#   make lint    clang-format, ruff, doxygen and clang-tidy over everything, changing nothing
#   make docs    the public headers' pages and the Python package's, build/docs
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

PYTHON_EXTRAS ?=

SECONDS ?= 60

.PHONY: build test tests python mutation fuzz fuzz-engine sanitize torture cuda-tests demo lint docs deps install install-tests wheels deb clean

build:
	@scripts/install-dependencies.sh --check
	scripts/configure.sh $(PRESET) -DKINEOGRAPH_TESTS=OFF
	cmake --build $(BUILD) --parallel $(JOBS)

# All that is compiled, tests too.
tests:
	@scripts/install-dependencies.sh --check test
	scripts/configure.sh $(PRESET) -DKINEOGRAPH_TESTS=ON
	cmake --build $(BUILD) --parallel $(JOBS)

test:
	@scripts/install-dependencies.sh test
	@$(MAKE) tests
	cd $(BUILD) && ctest --output-on-failure --parallel $(JOBS)
	scripts/test-python.sh "$(PYTHON_EXTRAS)"

python:
	@scripts/install-dependencies.sh test
	scripts/test-python.sh "$(PYTHON_EXTRAS)"

mutation:
	@scripts/install-dependencies.sh test
	KINEOGRAPH_MUTATIONS=all scripts/test-python.sh "diffusers" tests/python/test_mutations.py tests/python/test_spatial_mutations.py \
	  tests/python/test_sequences.py

fuzz: deps
	scripts/configure.sh fuzz
	cmake --build build/fuzz --parallel $(JOBS) --target fuzzers
	scripts/fuzz.sh $(SECONDS)

fuzz-engine: deps
	scripts/configure.sh fuzz-engine
	cmake --build build/fuzz-engine --parallel $(JOBS) --target fuzzers
	BUILD=build/fuzz-engine scripts/fuzz.sh $(SECONDS)

sanitize: deps
	JOBS=$(JOBS) scripts/sanitize.sh

torture: tests
	KINEOGRAPH_TORTURE_SECONDS=$(SECONDS) $(BUILD)/bin/save_test --gtest_filter='*Torture*'

cuda-tests: tests
	KINEOGRAPH_CASES=300 $(BUILD)/bin/emulated_cuda_test
	python3 tests/cuda/faults_test.py . c++ all
	python3 tests/cuda/compile_test.py . all

lint:
	@scripts/install-dependencies.sh lint
	scripts/lint.sh all

docs:
	@scripts/install-dependencies.sh docs
	scripts/docs.sh

demo:
	@scripts/install-dependencies.sh demo
	@$(MAKE) build
	scripts/demo.sh $(BUILD)/bin/kineograph demo

deps:
	@scripts/install-dependencies.sh python

wheels: deps
	scripts/wheels.sh

deb: build
	@command -v dpkg-shlibdeps >/dev/null || { echo "make deb needs dpkg-dev." >&2; exit 1; }
	cd $(BUILD) && cpack -G DEB

install-tests: build
	tests/install/run.sh $(TESTS)

install: build
	cmake --install $(BUILD) $(if $(PREFIX),--prefix $(PREFIX))

clean:
	rm -rf build demo
