# Thin: cmake builds, ctest tests, scripts/ does the rest.
#   make build   the program, build/release/bin/kineograph; installs nothing
#   make deps    install what is missing (apt), after saying what
#   make demo    the same, build, restore a damaged real clip, measure and show it
#   make test    the same, then the whole suite
#   make python  build the Python package and run its tests; PYTHON_EXTRAS="diffusers plot" brings what they can use
#   make mutation  change everything in a temporal module, at every moment, and compare with diffusers (an hour or more)
#   make fuzz    run every fuzz target for SECONDS (needs clang and its runtime)
#   make fuzz-engine  hold the engines to each other on configurations that a fuzzer chooses, for SECONDS
#   make sanitize  random cases, gradients and concurrent calls with sanitizers, all in build/sanitize (half an hour)
#   make torture kill a saving process at random moments for SECONDS
#   make cuda-tests  many random cases of the CUDA engine on the emulated device, and nvcc for every architecture
#   make lint    clang-format, ruff and clang-tidy over everything, changing nothing
#   make docs    the public headers' pages and the Python package's, build/docs
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

PYTHON_EXTRAS ?=

SECONDS ?= 60

.PHONY: build test python mutation fuzz fuzz-engine sanitize torture cuda-tests demo lint docs deps install clean

build:
	@scripts/install-dependencies.sh --check
	scripts/configure.sh $(PRESET)
	cmake --build $(BUILD) --parallel $(JOBS)

test: deps
	@$(MAKE) build
	cd $(BUILD) && ctest --output-on-failure --parallel $(JOBS)
	scripts/test-python.sh "$(PYTHON_EXTRAS)"

python: deps
	scripts/test-python.sh "$(PYTHON_EXTRAS)"

mutation: deps
	KINEOGRAPH_MUTATIONS=all scripts/test-python.sh "diffusers" tests/python/test_mutations.py tests/python/test_spatial_mutations.py \
	  tests/python/test_sequences.py

fuzz: deps
	scripts/configure.sh fuzz
	cmake --build build/fuzz --parallel $(JOBS) --target fuzzers
	scripts/fuzz.sh $(SECONDS)

fuzz-engine: deps
	scripts/configure.sh fuzz-engine
	cmake --build build/fuzz-engine --parallel $(JOBS) --target fuzzers
	scripts/fuzz.sh $(SECONDS) engine

sanitize: deps
	JOBS=$(JOBS) scripts/sanitize.sh

torture: build
	KINEOGRAPH_TORTURE_SECONDS=$(SECONDS) $(BUILD)/bin/save_test --gtest_filter='*Torture*'

cuda-tests: build
	KINEOGRAPH_CASES=300 $(BUILD)/bin/emulated_cuda_test
	python3 tests/cuda/faults_test.py . c++ all
	python3 tests/cuda/compile_test.py . all

lint:
	@scripts/install-dependencies.sh lint
	scripts/lint.sh all

docs:
	@scripts/install-dependencies.sh docs
	scripts/docs.sh

demo: deps
	@$(MAKE) build
	scripts/demo.sh $(BUILD)/bin/kineograph demo

deps:
	@scripts/install-dependencies.sh

install: build
	cmake --install $(BUILD) $(if $(PREFIX),--prefix $(PREFIX))

clean:
	rm -rf build demo
