# Build, test and install initrd. `make help` lists the targets.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
PYTHON ?= python3
BUILD := build
DIST := dist
# Kernels and root directories that the demo and the boot tests download or make.
CACHE ?= $(BUILD)/cache
# How many tests run at the same time. One more than there are processors: boot tests also wait.
JOBS ?= $(shell expr $$(nproc) + 1)

# `make build` and `make boot` for another architecture: ARCH=aarch64. One in the environment, such as
# that of a kernel's build, is not used.
ARCH :=
FOREIGN := $(if $(ARCH),$(filter-out $(shell uname -m),$(ARCH)))
INIT_BUILT := $(DIST)/init$(FOREIGN:%=-%)

VENV := $(BUILD)/venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
export PYTHON

.DELETE_ON_ERROR:
.PHONY: all build demo check check-in unit lint tools built boot bench bench-short fuzz faults mutants soak install uninstall dist distcheck vendor clean help
.PHONY: packages-build packages-foreign packages-demo packages-check pin
all: build ## the same as `build`
# Another architecture whose /init the boot tests start once, besides those of the host.
TESTED_ARCH := aarch64

include initrd/freeze/build.mk

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# --- packages and virtual environment ------------------------------------------------------------

packages-build packages-foreign packages-demo packages-check: packages-%:
	@tools/packages $*

# Pinned, with hashes; from vendor/ without any network when `make vendor` filled it.
$(INSTALLED): constraints.txt | packages-build
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -m pip install -q --disable-pip-version-check --require-hashes -r constraints.txt \
		$(if $(wildcard vendor/*.whl),--no-index --find-links vendor)
	@touch $@

PIN_OPTIONS := --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
pin: ## pin the newest versions of requirements.in in constraints.txt
	$(PYTHON) -m venv $(BUILD)/pin
	$(BUILD)/pin/bin/pip install -q pip-tools
	$(BUILD)/pin/bin/pip-compile -q --upgrade $(PIN_OPTIONS) -o constraints.txt requirements.in

vendor: $(INSTALLED) ## download the pinned wheels to vendor/, for a build without network
	$(VENV_PYTHON) -m pip download -q --require-hashes -r constraints.txt --only-binary :all: -d $@

# The programs' byte code, which Python itself does not write where PYTHONDONTWRITEBYTECODE is set:
# without it each start of chrootvm would compile all of its modules.
.PHONY: bytecode
build: bytecode
bytecode: $(INSTALLED)
	@for python in '$(PYTHON)' $(VENV_PYTHON); do $$python -m compileall -q initrd; done

# --- tests ---------------------------------------------------------------------------------------

# A Python that has pytest: that of the virtual environment if it exists, else the system's.
TESTER = $(or $(if $(wildcard $(INSTALLED)),$(VENV_PYTHON)), \
	$(shell $(PYTHON) -c 'import pytest' 2>/dev/null && echo $(PYTHON)))

# A part of them: `make check STAGES=boot TESTS=tests/boot/command`.
TESTS ?=
# Otherwise the files with tests of a kind: to collect them takes less time than to collect all tests.
tests_marked = $(or $(TESTS),$(shell grep -rlw --include='test_*.py' 'pytest.mark.$(1)' tests))

STAGES := lint unit tools built boot bench-short
check: packages-check ## everything CI runs: lint, unit tests, build, tests of dist/init, boots
	@for stage in $(STAGES); do \
		echo "=== $$stage"; \
		$(MAKE) --no-print-directory $$stage || exit; \
	done
	@echo "=== all passed"

# SUITE is a release of Debian. STAGES, TESTS and JOBS have the same effect as for `make check`.
check-in: ## `make check` in a minimal Debian system: `make check-in SUITE=trixie`
	tools/check-in "$(SUITE)" "STAGES=$(STAGES)" "TESTS=$(TESTS)" "JOBS=$(JOBS)"

unit: $(if $(strip $(TESTER)),,$(INSTALLED)) ## unit tests: no root, no QEMU, no network
	$(or $(strip $(TESTER)),$(VENV_PYTHON)) -m pytest -q $(TESTS) -m 'not boot and not built and not tools' \
		$(if $(findstring $(VENV),$(TESTER)),-n $(JOBS))

tools: export CACHE := $(abspath $(CACHE))
tools: $(INSTALLED) packages-check ## tests that compare with other programs
	$(VENV_PYTHON) -m pytest -q -m tools $(call tests_marked,tools)

built: build $(INSTALLED) ## tests of dist/init itself, without a virtual machine
	$(VENV_PYTHON) -m pytest -q -m built $(call tests_marked,built)

demo: export CACHE := $(abspath $(CACHE))
demo: packages-demo build ## boot a directory: `make demo`, or `make demo ROOTFS=DIR`
	tools/demo $(if $(ROOTFS),"$(ROOTFS)")

boot: export CACHE := $(abspath $(CACHE))
boot: export GUEST_ARCH := $(FOREIGN)
boot: build $(DIST)/init-$(or $(FOREIGN),$(TESTED_ARCH)) $(INSTALLED) packages-check ## tests that boot virtual machines; with ARCH=aarch64 their core
	$(VENV_PYTHON) -m pytest -q -m 'boot$(if $(FOREIGN), and every_architecture)' -n $(JOBS) --dist loadfile \
		--no-loadscope-reorder --timeout 600 $(call tests_marked,boot)

FUZZ_SECONDS := 600
fuzz: $(INSTALLED) ## arbitrary input for all that reads what others write: ten minutes
	$(VENV_PYTHON) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(TARGETS)

faults: $(INSTALLED) ## boots on a fake kernel in which each call fails in turn
	$(VENV_PYTHON) -m tests.guest.faults

MUTANTS_SECONDS := 3600
mutants: $(INSTALLED) ## change the sources in many places: does a unit test fail? An hour
	$(VENV_PYTHON) -m tests.mutants --seconds $(MUTANTS_SECONDS) $(MODULES_TO_CHANGE)

N := 200
soak: export CACHE := $(abspath $(CACHE))
soak: build $(INSTALLED) packages-check ## N=200 machines of all kinds, one after the other
	$(VENV_PYTHON) -m tests.soak $(N)

# BENCH=--short for one run of each.
bench: export CACHE := $(abspath $(CACHE))
bench: build $(INSTALLED) packages-check ## measure instructions, times and sizes
	$(VENV_PYTHON) -m bench $(BENCH)

bench-short:
	@$(MAKE) --no-print-directory bench BENCH=--short

# Every C file is compiled without output: unused functions, variables and macros are errors.
C_SOURCES := $(wildcard initrd/*/*.c bench/*.c testbed/*.c tests/boot/*.c)
lint: $(INSTALLED) ## style, types and unused code, in Python and C
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/vulture
	$(CC) -fsyntax-only -Werror -Wunused -Wunused-macros $(FREEZE_CFLAGS) $(C_SOURCES)
	$(foreach script,$(wildcard scripts/*),$(VENV)/bin/mypy $(script) &&) true
	$(foreach script,tools/packages tools/demo tools/check-in demo/hello .ci/run $(wildcard bench/*.sh),sh -n $(script) &&) true

# --- installation --------------------------------------------------------------------------------

# The checkout's layout below LIBDIR/initrd, so that the scripts find the package beside them.
LIBRARY := $(DESTDIR)$(LIBDIR)/initrd
INIT := $(DESTDIR)$(LIBDIR)/osbuild/initrd/initrd
MODULES := $(filter-out initrd/init.py,$(wildcard initrd/*.py initrd/host/*.py initrd/host/*/*.py))
SCRIPTS := $(notdir $(wildcard scripts/*))
COMPLETION := $(DESTDIR)$(PREFIX)/share/bash-completion/completions/chrootvm
MANUALS := $(notdir $(wildcard man/*.[1-8]))
# In a shell's loop, where $$page is initrd.8: the file of its section.
MANUAL := $(DESTDIR)$(MANDIR)/man$${page\#\#*.}/$$page

install: $(DIST)/init ## install below PREFIX (and DESTDIR)
	install -D -m 0755 "$(DIST)/init" "$(INIT)"
	for file in $(wildcard $(DIST)/init-*); do install -m 0755 $$file "$(INIT)-$${file##*-}" || exit; done
	for file in $(MODULES); do install -D -m 0644 $$file "$(LIBRARY)/$$file" || exit; done
	$(PYTHON) -m compileall -q -s "$(DESTDIR)" "$(LIBRARY)/initrd"
	install -d "$(DESTDIR)$(BINDIR)"
	for script in $(SCRIPTS); do \
		install -D -m 0755 scripts/$$script "$(LIBRARY)/scripts/$$script" && \
		ln -sfr "$(LIBRARY)/scripts/$$script" "$(DESTDIR)$(BINDIR)/$$script" || exit; \
	done
	for page in $(MANUALS); do install -D -m 0644 man/$$page "$(MANUAL)" || exit; done
	install -D -m 0644 completions/chrootvm.bash "$(COMPLETION)"

uninstall: ## remove the files that `install` has installed
	for script in $(SCRIPTS); do rm -f "$(DESTDIR)$(BINDIR)/$$script" || exit; done
	for page in $(MANUALS); do rm -f "$(MANUAL)" || exit; done
	rm -f "$(INIT)" "$(INIT)"-* "$(COMPLETION)"
	rm -rf "$(LIBRARY)"
	-rmdir -p --ignore-fail-on-non-empty "$(DESTDIR)$(LIBDIR)/osbuild/initrd"

# --- releases ------------------------------------------------------------------------------------

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' initrd/__init__.py)
NAME := initrd-$(VERSION)
TARBALL := $(DIST)/$(NAME).tar.gz

dist: ## the source tarball
	@mkdir -p $(DIST)
	git archive --format=tar --prefix=$(NAME)/ HEAD | gzip -n >$(TARBALL)

# Unpacks the tarball elsewhere and works there: unit tests, build, install, uninstall.
DISTCHECK := $(abspath $(BUILD)/distcheck)
distcheck: dist ## check that the tarball builds, installs and uninstalls
	rm -rf $(DISTCHECK)
	mkdir -p $(DISTCHECK)
	tar -xf $(TARBALL) -C $(DISTCHECK)
	$(MAKE) -C $(DISTCHECK)/$(NAME) unit build
	$(MAKE) -C $(DISTCHECK)/$(NAME) install DESTDIR=$(DISTCHECK)/root
	$(DISTCHECK)/root$(LIBDIR)/osbuild/initrd/initrd --version
	$(foreach script,$(SCRIPTS),$(DISTCHECK)/root$(BINDIR)/$(script) --version &&) true
	$(MAKE) -C $(DISTCHECK)/$(NAME) uninstall DESTDIR=$(DISTCHECK)/root
	@left=$$(find $(DISTCHECK)/root ! -type d) && \
		if [ -n "$$left" ]; then echo "uninstall left: $$left" >&2; exit 1; fi
	rm -rf $(DISTCHECK)

clean: ## remove all files that make has made
	rm -rf --one-file-system $(BUILD) $(DIST) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f initrd/guest/_syscalls.*.so
