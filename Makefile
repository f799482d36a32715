# minivmm: `make` builds, `make demo` shows, `make test` tests.  Every folder is a glob: adding a file edits nothing here.
#   MODE=release|debug|asan|tsan|cov|fuzz|musl   O=DIR   V=1   WERROR=0   PREFIX=/usr/local   DESTDIR=

MODE   ?= release
O      ?= build/$(MODE)
ARCH   ?= $(shell uname -m)
PREFIX ?= /usr/local
CACHE  ?= $(or $(MINIVMM_CACHE),$(HOME)/.cache/minivmm)
VERSION := $(shell cat VERSION)

.DEFAULT_GOAL := all
ifneq ($(filter-out release debug asan tsan cov fuzz musl,$(MODE)),)
$(error MODE=$(MODE) is not one of release debug asan tsan cov fuzz musl)
endif

# ---- flags -----------------------------------------------------------------------------------------------------
CC       = gcc
CPPFLAGS = -I. -I$(O)/include -D_GNU_SOURCE -DMINIVMM_VERSION='"$(VERSION)"'
WARN     = -Wall -Wextra -Wshadow -Wvla -Wundef -Wcast-qual -Wcast-align -Wpointer-arith -Wwrite-strings \
           -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wnull-dereference -Wimplicit-fallthrough \
           -Wswitch-enum -Wconversion -Wsign-conversion -Wno-format-truncation $(if $(filter 0,$(WERROR)),,-Werror)
HARDEN   = -fstack-protector-strong -fstack-clash-protection -fno-common -fvisibility=hidden
CFLAGS   = -std=c11 -g -pthread $(WARN) $(HARDEN) $(CFLAGS_$(MODE))
LDFLAGS  = -pthread -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--gc-sections -Wl,--as-needed $(LDFLAGS_$(MODE))
LDLIBS   = -lseccomp

CFLAGS_release = -O2 -D_FORTIFY_SOURCE=3 -fPIE -ffunction-sections -fdata-sections
LDFLAGS_release = -pie
CFLAGS_debug   = -Og -fPIE
LDFLAGS_debug  = -pie
CFLAGS_asan    = -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -DMINIVMM_SANITIZED
LDFLAGS_asan   = -fsanitize=address,undefined
CFLAGS_tsan    = -O1 -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan -DMINIVMM_SANITIZED
LDFLAGS_tsan   = -fsanitize=thread
CFLAGS_cov     = -O0 --coverage -DMINIVMM_SANITIZED
LDFLAGS_cov    = --coverage
CFLAGS_fuzz    = -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
                 -Wno-unknown-warning-option -Wno-sign-conversion -DMINIVMM_SANITIZED
LDFLAGS_fuzz   = -fsanitize=address,undefined
# musl's header macros (CMSG_*, ioctl's int request) do not survive -Wconversion; the glibc builds check the same code.
CFLAGS_musl    = -O2 -D_FORTIFY_SOURCE=2 -fno-asynchronous-unwind-tables -Wno-conversion -Wno-sign-conversion -ffunction-sections -fdata-sections -isystem $(CACHE)/musl/include
LDFLAGS_musl   = -static -L$(CACHE)/musl/lib
# The monitor has no data path, so there size is what its speed is made of.
$(O)/vmm/%.o $(O)/bridges/%.o $(O)/arch/%.o $(O)/firmware/%.o: CFLAGS_musl += -Os
ifeq ($(MODE),fuzz)
CC = clang
endif
ifeq ($(MODE),musl)
CC = musl-gcc
endif

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),@:,@printf '  %-7s %s\n' $(1) $(2))

# ---- sources ---------------------------------------------------------------------------------------------------
obj = $(patsubst %.c,$(O)/%.o,$(filter %.c,$(1))) $(patsubst %.S,$(O)/%.o,$(filter %.S,$(1)))
BASE     := $(wildcard vmm/base/*.c)
VMM      := $(filter-out vmm/main.c,$(wildcard vmm/*.c))
BRIDGES  := $(wildcard bridges/*.c)
ARCHSRC  := $(wildcard arch/$(ARCH)/*.c)
FIRMWARE := $(wildcard firmware/*.c)
SDK      := $(wildcard devices/*/*.c)
DEVICES  := $(patsubst devices/%.c,%,$(wildcard devices/*.c))
UNIT     := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/*.c))
FAULT    := $(patsubst tests/fault/%.c,%,$(wildcard tests/fault/*.c))
FUZZ     := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))

lib = $(O)/lib$(1).a
MONITOR_LIBS = $(foreach l,bridges vmm arch firmware,$(call lib,$(l)))
PROGRAMS     = $(O)/minivmm $(DEVICES:%=$(O)/minivmm-%)

# The top of the tree shows the release build; others stay in their folders.
all: $(PROGRAMS) $(if $(filter build/release,$(O)),$(PROGRAMS:$(O)/%=top-%))
top-%: $(O)/%
	$(Q)ln -sfn $(O)/$* $*

$(O)/%.o: %.c | musl-libs
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

PROFILES := $(wildcard vmm/profiles/*.toml)
$(O)/vmm/jail_profile.o: $(O)/include/profiles.inc
$(O)/include/profiles.inc: vmm/profiles/embed $(PROFILES) vmm/profiles
	$(Q)mkdir -p $(@D) && vmm/profiles/embed $(@D) $(PROFILES)

$(O)/vmm/syscall_name.o: $(O)/include/syscalls.inc
$(O)/include/syscalls.inc: vmm/syscall_names | musl-libs
	$(Q)mkdir -p $(@D) && vmm/syscall_names $(CC) $(CFLAGS) > $@.new && grep -q '(read,' $@.new && mv $@.new $@

ar = $(Q)mkdir -p $(@D) && rm -f $@ && ar crsD $@ $^
$(call lib,base):     $(call obj,$(BASE))     ; $(ar)
$(call lib,vmm):      $(call obj,$(VMM))      ; $(ar)
$(call lib,bridges):  $(call obj,$(BRIDGES))  ; $(ar)
$(call lib,arch):     $(call obj,$(ARCHSRC))  ; $(ar)
$(call lib,firmware): $(call obj,$(FIRMWARE)) ; $(ar)
$(call lib,sdk):      $(call obj,$(SDK))      ; $(ar)

# vmm and arch call each other, so they are one link group; who may include whom is tests/unit/layers.sh's to hold.
link = $(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
$(O)/minivmm: $(O)/vmm/main.o $(MONITOR_LIBS) $(call lib,base)
	$(call say,LINK,$@)
	$(link)
$(O)/minivmm-%: $(O)/devices/%.o $(call lib,sdk) $(call lib,base)
	$(call say,LINK,$@)
	$(link)

# What other people's devices are written on (docs/device.md): dev.h and what it includes, the base library, nothing of ours beyond.
SDK_LIB     = $(call lib,minivmm-device)
SDK_HEADERS = $(filter-out %_impl.h %/carrier.h %/vduse.h %/vdpa_netlink.h,$(wildcard devices/sdk/*.h)) $(wildcard vmm/base/*.h)
$(SDK_LIB): $(call obj,$(wildcard devices/sdk/*.c) $(BASE)) ; $(ar)

# ---- tests -----------------------------------------------------------------------------------------------------
TEST_LIBS = $(MONITOR_LIBS) $(call lib,sdk) $(call lib,base)
$(O)/tests/%: $(O)/tests/%.o $(TEST_LIBS)
	$(call say,LINK,$@)
	$(link)
$(O)/tests/fuzz/%: $(O)/tests/fuzz/%.o $(TEST_LIBS)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDLIBS)
# Without libFuzzer a target replays its corpus.
$(O)/tests/replay/%: $(O)/tests/fuzz/%.o $(O)/tests/fuzz/main/replay.o $(TEST_LIBS)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(link)
.SECONDARY:

natives: $(patsubst %.c,$(O)/%,$(wildcard tests/native/*.c))
checks: $(PROGRAMS) $(UNIT:%=$(O)/tests/unit/%) $(FAULT:%=$(O)/tests/fault/%) $(FUZZ:%=$(O)/tests/replay/%)
# As many jobs as there are processors, unless it is said.
jobs = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
check:
	$(Q)$(MAKE) --no-print-directory -s $(jobs) MODE=asan O=build/asan checks
	$(Q)O=build/asan tests/check
test: deps-test all
	$(Q)tests/all
fuzz-targets: $(FUZZ:%=$(O)/tests/fuzz/%)
fuzz: # SECONDS=30 for each target
	$(Q)$(MAKE) --no-print-directory MODE=fuzz O=build/fuzz fuzz-targets
	$(Q)tests/fuzz/run build/fuzz $(or $(SECONDS),30)
bench: deps-test all
	$(Q)$(MAKE) --no-print-directory -s MODE=musl O=build/musl
	$(Q)tests/bench/run
demo: deps-test all
	$(Q)tests/demo

# ---- guests: tests/guest/*.c on the runtime in tests/guest/lib, run on KVM by tests/guest/run --------------------
GUESTS     := $(patsubst tests/guest/%.c,%,$(wildcard tests/guest/*.c))
GUEST_LIB  := $(patsubst %.c,$(O)/%.o,$(wildcard tests/guest/lib/*.c))
GUEST_FLAGS = -std=gnu11 -O2 -g -Wall -Wextra -Wshadow -Werror -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-stack-protector \
              -fcf-protection=none -fno-pic -fno-asynchronous-unwind-tables -fno-strict-aliasing -nostdlib -Itests/guest -MMD -MP
GUEST_LINK  = $(Q)gcc -nostdlib -static -no-pie -Wl,--build-id=none,-z,norelro,-z,noexecstack,--no-warn-rwx-segments \
              -T tests/guest/lib/guest.ld $(1) -o $@ $(filter %.o,$^)
$(O)/tests/guest/%.o: tests/guest/%.c
	$(Q)mkdir -p $(@D) && gcc $(GUEST_FLAGS) -c -o $@ $<
$(O)/tests/guest/lib/pvh.o: tests/guest/lib/entry.S
	$(Q)mkdir -p $(@D) && gcc -DPVH -c -o $@ $<
$(O)/tests/guest/lib/linux64.o: tests/guest/lib/entry.S
	$(Q)mkdir -p $(@D) && gcc -c -o $@ $<
$(O)/tests/guest/%.elf: $(O)/tests/guest/%.o $(O)/tests/guest/lib/pvh.o $(GUEST_LIB) tests/guest/lib/guest.ld
	$(call say,GUEST,$@)
	$(call GUEST_LINK,)
$(O)/tests/guest/boot64.elf: $(O)/tests/guest/boot.o $(O)/tests/guest/lib/linux64.o $(GUEST_LIB) tests/guest/lib/guest.ld
	$(call say,GUEST,$@)
	$(call GUEST_LINK,-Xlinker --defsym=GUEST_BASE=0x200000)
guests: $(GUESTS:%=$(O)/tests/guest/%.elf) $(O)/tests/guest/boot64.elf

# ---- set-up ----------------------------------------------------------------------------------------------------
deps: ; $(Q)tests/deps build
deps-test: ; $(Q)tests/deps test
rig: deps-test
	$(Q)tests/rig/rig build
musl-libs:
ifeq ($(MODE),musl)
musl-libs: $(CACHE)/musl/lib/libseccomp.a
$(CACHE)/musl/lib/libseccomp.a: tests/musl-libs
	$(Q)tests/musl-libs $(CACHE)/musl
endif

# ---- care ------------------------------------------------------------------------------------------------------
CODE = $(shell git ls-files '*.c' '*.h')
format: ; $(Q)clang-format -i $(CODE)
analyze: $(O)/include/profiles.inc $(O)/include/syscalls.inc ; $(Q)tests/analyze "$(CPPFLAGS)" "$(WARN)"
install: all install-sdk
	install -d $(DESTDIR)$(PREFIX)/bin
	install -s $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
# In the tree a header's name starts at the top of the tree, installed it starts at minivmm/.
install-sdk: to = $(DESTDIR)$(PREFIX)
install-sdk: $(SDK_LIB)
	install -d $(to)/lib/pkgconfig $(to)/include/minivmm/base
	install -m 644 $< $(to)/lib
	$(Q)umask 022; for h in $(SDK_HEADERS); do \
		n=$${h#devices/sdk/}; \
		sed -E 's|^#include "(devices/sdk\|vmm)/(.*)"|#include <minivmm/\2>|' $$h > "$(to)/include/minivmm/$${n#vmm/}" || exit 1; \
	done
	$(Q)umask 022; printf '%s\n' 'prefix=$(PREFIX)' 'Name: minivmm-device' 'Description: virtio devices as programs of their own' \
		'Version: $(VERSION)' 'Requires.private: libseccomp' 'Cflags: -I$${prefix}/include' \
		'Libs: -L$${prefix}/lib -lminivmm-device -pthread' > $(to)/lib/pkgconfig/minivmm-device.pc
clean:
	rm -rf build minivmm $(DEVICES:%=minivmm-%)
dist-clean: clean
	rm -rf $(CACHE)

.PHONY: all guests natives checks check test fuzz fuzz-targets bench demo deps deps-test rig musl-libs format analyze install install-sdk clean dist-clean
-include $(shell find $(O) -name '*.d' 2>/dev/null)
