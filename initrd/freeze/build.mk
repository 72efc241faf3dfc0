# How dist/init is built. Included by the Makefile of the top directory; docs/freeze.md tells why.

FREEZE := $(BUILD)/freeze
FREEZE_SOURCES := initrd/freeze
SOURCE_DATE_EPOCH ?= 0
export SOURCE_DATE_EPOCH

# What is made is said in a line each; `make V=1` shows the commands.
Q := $(if $(V),,@)
said = $(if $(V),,@echo "  $@")

# Nothing of the build machine's directories goes into an object.
CFLAGS ?= -O2 -Wall -Wextra
FREEZE_CFLAGS = $(CFLAGS) -Wno-unused-parameter -Wno-missing-field-initializers -fno-pie \
	-fcf-protection=none '-ffile-prefix-map=$(CURDIR)=.' -I$(PYTHON_INCLUDE) \
	-DINITRD_VERSION='"$(VERSION)"'
# Runs before there is a libc: nothing that the compiler may call, no thread-local canary.
BARE_CFLAGS := -Os -ffreestanding -fno-builtin -fno-stack-protector -U_FORTIFY_SOURCE \
	-fno-tree-loop-distribute-patterns

FREEZE_PYTHON := PYTHONPATH=. PYTHONHASHSEED=0 $(VENV_PYTHON) -s -B
libpython = $(shell $(VENV_PYTHON) $(FREEZE_SOURCES)/libpython.py $(1) $(FREEZE)/analysis.json)
PYTHON_INCLUDE = $(shell $(PYTHON) $(FREEZE_SOURCES)/libpython.py include)

# --- the system calls, for tests and for running from the checkout ------------------------------

SYSCALLS := $(BUILD)/_syscalls.abi3.so
SYSCALLS_LINK := initrd/guest/_syscalls.abi3.so

.PHONY: extension
extension unit: $(SYSCALLS_LINK)

$(SYSCALLS): initrd/guest/_syscalls.c
	$(said)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FREEZE_CFLAGS) -fPIC -shared -Wl,--build-id=none -o $@ $<

$(SYSCALLS_LINK): $(SYSCALLS)
	$(said)
	$(Q)ln -sfn ../../$< $@

# --- dist/init -----------------------------------------------------------------------------------

build: $(DIST)/init ## dist/init

GUEST_MODULES := $(wildcard initrd/*.py initrd/guest/*.py initrd/guest/*/*.py)
FREEZE_OBJECTS := $(addprefix $(FREEZE)/,launcher.o unpack.o loader.o python.o _syscalls.o modules.o)

$(FREEZE)/analysis.json: $(addprefix $(FREEZE_SOURCES)/,init.spec entry.py analysis.py) \
		$(GUEST_MODULES) $(INSTALLED) $(SYSCALLS_LINK)
	$(said)
	@mkdir -p $(@D)
	$(Q)PYINSTALLER_CONFIG_DIR='$(abspath $(FREEZE))' PYI_LOG_LEVEL=ERROR \
		$(FREEZE_PYTHON) -m PyInstaller --clean --workpath $(FREEZE) --distpath $(FREEZE) \
		$(FREEZE_SOURCES)/init.spec
	$(Q)mv $(FREEZE)/init/analysis.json $@

$(FREEZE)/modules.c: $(FREEZE)/analysis.json $(FREEZE_SOURCES)/frozen_modules.py
	$(said)
	$(Q)$(FREEZE_PYTHON) $(FREEZE_SOURCES)/frozen_modules.py $< $(@D)

$(addprefix $(FREEZE)/,launcher.o unpack.o loader.o): private FREEZE_CFLAGS += $(BARE_CFLAGS)
$(FREEZE)/%.o: $(FREEZE_SOURCES)/%.c $(wildcard $(FREEZE_SOURCES)/*.h) $(INSTALLED)
	$(said)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FREEZE_CFLAGS) -c -o $@ $<

$(FREEZE)/_syscalls.o: initrd/guest/_syscalls.c $(INSTALLED)
	$(said)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FREEZE_CFLAGS) -c -o $@ $<

$(FREEZE)/modules.o: private FREEZE_CFLAGS += $(if $(filter shared,$(call libpython,kind)),,-DINITRD_STATIC)
$(FREEZE)/modules.o: $(FREEZE)/modules.c
	$(said)
	$(Q)$(CC) $(FREEZE_CFLAGS) -c -o $@ $<

# Where it begins is the launcher.
link = $(CC) -no-pie -o $@ $(FREEZE_OBJECTS) $(1) \
	$(if $(filter static,$(call libpython,kind)),$(FREEZE)/names.o) $(call libpython,link) -s \
	-Wl,-e,initrd_entry -Wl,--build-id=none -Wl,-z,noseparate-code

$(FREEZE)/empty.o: $(FREEZE_SOURCES)/payload.S
	$(said)
	@mkdir -p $(@D)
	$(Q)$(CC) -c -DNO_PAYLOAD -o $@ $<

$(FREEZE)/needs: $(FREEZE_OBJECTS) $(FREEZE)/names.o $(FREEZE)/empty.o
	$(said)
	$(Q)$(call link,$(FREEZE)/empty.o)

$(FREEZE)/libraries.cpio: $(FREEZE)/needs $(FREEZE)/analysis.json $(FREEZE_SOURCES)/payload.py
	$(said)
	$(Q)$(FREEZE_PYTHON) $(FREEZE_SOURCES)/payload.py $(FREEZE)/analysis.json $< $(@D)

$(FREEZE)/payload.o: $(FREEZE_SOURCES)/payload.S $(FREEZE)/libraries.cpio $(FREEZE)/modules.c
	$(said)
	$(Q)$(CC) -c -Wa,-I$(FREEZE) -o $@ $<

$(DIST)/init: $(FREEZE_OBJECTS) $(FREEZE)/payload.o
	$(said)
	@mkdir -p $(@D)
	$(Q)$(call link,$(FREEZE)/payload.o)
