# Thin front door: meson and ninja do the work. Each target installs what it lacks (Debian packages).

BUILD ?= build
MESON_FLAGS ?=
BENCH ?=
GUEST := guest

.PHONY: all build demo test test-slow bench lint fuzz format install clean help

all: build

help:
	@sed -n 's/^## //p' Makefile

## make            build $(BUILD)/trapeze
build:
	@tools/install-deps build
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --buildtype=release -Ddebug=true $(MESON_FLAGS)
	@ninja -C $(BUILD)
	@ln -sf src/cmd/trapeze $(BUILD)/trapeze

## make demo       boot a stock Debian kernel to a shell in this terminal
demo: build
	@tools/install-deps demo
	@tools/demo $(BUILD) $(GUEST)

## make test       everything that CI runs: unit, instruction and guest tests, sanitizers, lint
test: build
	@tools/install-deps test demo lint
	@tools/run-tests $(BUILD) $(GUEST)

## make test-slow  the long guest tests as well
test-slow: build
	@tools/install-deps test slow demo lint
	@tools/run-tests --slow $(BUILD) $(GUEST)

## make bench      side by side with QEMU's TCG: ratios; BENCH='--quick --engine translate' and so on
bench: build
	@tools/install-deps bench demo
	@bench/run $(BUILD) $(GUEST) $(BENCH)

## make lint       formatting, clang-tidy, include doors
lint:
	@tools/install-deps build test lint
	@tools/lint

## make fuzz       each fuzz target for FUZZ_SECONDS (600) seconds
fuzz:
	@tools/install-deps build test fuzz
	@tools/fuzz

## make format     lay out the sources with clang-format
format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

## make install    install the command and its man page
install: build
	@meson install -C $(BUILD)

clean:
	rm -rf $(BUILD) build-*
