# Thin: cmake builds, ctest tests, scripts/ does the rest.
#   make demo    install what is missing, build, run a real clip through a seeded module, check the result
#   make test    the same, then the whole suite
#   make build   the program, build/release/bin/kineograph
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

.PHONY: build test demo deps install clean

build: deps
	scripts/configure.sh $(PRESET)
	cmake --build $(BUILD) --parallel $(JOBS)

test: build
	cd $(BUILD) && ctest --output-on-failure --parallel $(JOBS)

demo: build
	scripts/demo.sh $(BUILD)/bin/kineograph demo

deps:
	@scripts/install-dependencies.sh

install: build
	cmake --install $(BUILD) $(if $(PREFIX),--prefix $(PREFIX))

clean:
	rm -rf build demo
