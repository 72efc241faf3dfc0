# Rules that build dist/init. Included by the Makefile of the top directory; see docs/freeze.md.

FREEZE := $(BUILD)/freeze
FREEZE_SOURCES := initrd/freeze
SOURCE_DATE_EPOCH ?= 0
export SOURCE_DATE_EPOCH

# Each rule prints the name of its target only; `make V=1` prints the commands.
Q := $(if $(V),,@)
print_target = $(if $(V),,@echo "  $@")

# -ffile-prefix-map: objects contain no path of the build machine.
CFLAGS ?= -O2 -Wall -Wextra
FREEZE_CFLAGS = $(CFLAGS) -Wno-unused-parameter -Wno-missing-field-initializers -fno-pie \
	-fcf-protection=none '-ffile-prefix-map=$(CURDIR)=.' -I$(PYTHON_INCLUDE) \
	-DINITRD_VERSION='"$(VERSION)"'
# For code that runs without a C library: no calls added by the compiler, no thread-local canary.
NOLIBC_CFLAGS := -Os -ffreestanding -fno-builtin -fno-stack-protector -U_FORTIFY_SOURCE \
	-fno-tree-loop-distribute-patterns

FREEZE_PYTHON := PYTHONPATH=. PYTHONHASHSEED=0 $(VENV_PYTHON) -s -B
libpython = $(shell $(VENV_PYTHON) $(FREEZE_SOURCES)/libpython.py $(1) $(FREEZE)/analysis.json)
# Python runs at the first use only.
PYTHON_INCLUDE = $(eval PYTHON_INCLUDE := $(shell $(PYTHON) $(FREEZE_SOURCES)/libpython.py include))$(PYTHON_INCLUDE)

# --- the extension module _syscalls, for tests and for running from the checkout -----------------

SYSCALLS := $(BUILD)/_syscalls.abi3.so
SYSCALLS_LINK := initrd/guest/_syscalls.abi3.so

.PHONY: extension
extension unit tools fuzz faults: $(SYSCALLS_LINK)

$(SYSCALLS): $(FREEZE_SOURCES)/_syscalls.c
	$(print_target)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FREEZE_CFLAGS) -fPIC -shared -Wl,--build-id=none -o $@ $<

$(SYSCALLS_LINK): $(SYSCALLS)
	$(print_target)
	$(Q)ln -sfn ../../$< $@

# --- dist/init -----------------------------------------------------------------------------------

build: $(INIT_BUILT) ## dist/init, or dist/init-aarch64 with ARCH=aarch64

GUEST_MODULES := $(wildcard initrd/*.py initrd/guest/*.py initrd/guest/*/*.py)
NOLIBC_OBJECTS := $(addprefix $(FREEZE)/,launcher.o unpack.o loader.o)
FREEZE_OBJECTS := $(NOLIBC_OBJECTS) $(addprefix $(FREEZE)/,python.o _syscalls.o modules.o)

$(FREEZE)/analysis.json: $(addprefix $(FREEZE_SOURCES)/,init.spec entry.py analysis.py) \
		$(GUEST_MODULES) $(INSTALLED) $(SYSCALLS_LINK)
	$(print_target)
	@mkdir -p $(@D)
	$(Q)PYINSTALLER_CONFIG_DIR='$(abspath $(FREEZE))' PYI_LOG_LEVEL=ERROR \
		$(FREEZE_PYTHON) -m PyInstaller --clean --workpath $(FREEZE) --distpath $(FREEZE) \
		$(FREEZE_SOURCES)/init.spec
	$(Q)mv $(FREEZE)/init/analysis.json $@

$(FREEZE)/modules.c: $(FREEZE)/analysis.json $(FREEZE_SOURCES)/frozen_modules.py
	$(print_target)
	$(Q)$(FREEZE_PYTHON) $(FREEZE_SOURCES)/frozen_modules.py $< $(@D)

$(NOLIBC_OBJECTS): private FREEZE_CFLAGS += $(NOLIBC_CFLAGS)
$(FREEZE)/%.o: $(FREEZE_SOURCES)/%.c $(wildcard $(FREEZE_SOURCES)/*.h) $(INSTALLED)
	$(print_target)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FREEZE_CFLAGS) -c -o $@ $<

$(FREEZE)/modules.o: private FREEZE_CFLAGS += $(if $(filter shared,$(call libpython,kind)),,-DINITRD_STATIC)
$(FREEZE)/modules.o: $(FREEZE)/modules.c
	$(print_target)
	$(Q)$(CC) $(FREEZE_CFLAGS) -c -o $@ $<

# The entry point is in launcher.c.
link = $(CC) -no-pie -o $@ $(FREEZE_OBJECTS) $(1) \
	$(if $(filter static,$(call libpython,kind)),$(FREEZE)/libc_stubs.o) $(call libpython,link) -s \
	-Wl,-e,initrd_entry -Wl,--build-id=none -Wl,-z,noseparate-code

$(FREEZE)/no_payload.o: $(FREEZE_SOURCES)/payload.S
	$(print_target)
	@mkdir -p $(@D)
	$(Q)$(CC) -c -DNO_PAYLOAD -o $@ $<

# /init without its payload: payload.py reads from it which libraries /init needs.
$(FREEZE)/init_without_payload: $(FREEZE_OBJECTS) $(FREEZE)/libc_stubs.o $(FREEZE)/no_payload.o
	$(print_target)
	$(Q)$(call link,$(FREEZE)/no_payload.o)

$(FREEZE)/libraries.cpio: $(FREEZE)/init_without_payload $(FREEZE)/analysis.json \
		$(FREEZE_SOURCES)/payload.py
	$(print_target)
	$(Q)$(FREEZE_PYTHON) $(FREEZE_SOURCES)/payload.py $(FREEZE)/analysis.json $< $(@D)

$(FREEZE)/payload.o: $(FREEZE_SOURCES)/payload.S $(FREEZE)/libraries.cpio $(FREEZE)/modules.c
	$(print_target)
	$(Q)$(CC) -c -Wa,-I$(FREEZE) -o $@ $<

$(DIST)/init: $(FREEZE_OBJECTS) $(FREEZE)/payload.o
	$(print_target)
	@mkdir -p $(@D)
	$(Q)$(call link,$(FREEZE)/payload.o)

# --- /init for another architecture --------------------------------------------------------------

FOREIGN_SOURCES := Makefile constraints.txt $(wildcard testbed/*.py $(FREEZE_SOURCES)/*.*)

$(DIST)/init-%: export CACHE := $(abspath $(CACHE))
$(DIST)/init-%: $(FOREIGN_SOURCES) $(GUEST_MODULES) $(INSTALLED) | packages-foreign
	$(print_target)
	$(Q)$(VENV_PYTHON) -m testbed.foreign_init $* $@
