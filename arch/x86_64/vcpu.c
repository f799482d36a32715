// SPDX-License-Identifier: BSD-2-Clause
// The state of an x86 vCPU: how it starts, what it exits for, what it shows.
#include "vmm/vcpu.h"
#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/platform.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/config.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLE	  (1u << 11)
#define MTRR_WRITE_BACK	  6u
#define MSR_MISC_ENABLE	  0x1a0
#define MISC_FAST_STRING  1u
#define RFLAGS_RESERVED	  2u

static struct kvm_segment segment_of(const struct boot_segment *s)
{
	return (struct kvm_segment){
		.selector = s->selector,
		.base = s->base,
		.limit = s->limit,
		.type = s->type,
		.present = 1,
		.s = s->s,
		.l = s->l,
		.db = s->db,
		.g = s->g,
	};
}

static int set_entry_state(struct vcpu *c, struct err *e)
{
	const struct boot_image *b = &c->vm->arch->boot;
	struct kvm_sregs s;
	if (ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
		return err_sys(e, errno, "CPU %u: KVM_GET_SREGS", c->index);
	s.cs = segment_of(&b->cs);
	s.ds = s.es = s.fs = s.gs = s.ss = segment_of(&b->data);
	s.tr = segment_of(&b->tr);
	s.gdt = (struct kvm_dtable){ .base = b->gdt_gpa, .limit = b->gdt_limit };
	s.idt = (struct kvm_dtable){ 0 };
	s.cr0 = b->cr0;
	s.cr3 = b->cr3;
	s.cr4 = b->cr4;
	s.efer = b->efer;
	if (ioctl(c->fd, KVM_SET_SREGS, &s) < 0)
		return err_sys(e, errno, "CPU %u: KVM_SET_SREGS", c->index);
	struct kvm_regs r = { .rip = b->rip, .rsi = b->rsi, .rbx = b->rbx, .rflags = RFLAGS_RESERVED };
	if (ioctl(c->fd, KVM_SET_REGS, &r) < 0)
		return err_sys(e, errno, "CPU %u: KVM_SET_REGS", c->index);
	return 0;
}

// What firmware would have set: all memory write-back, fast string operations.
static void set_firmware_msrs(struct vcpu *c)
{
	static const struct kvm_msr_entry entry[] = {
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK },
		{ .index = MSR_MISC_ENABLE, .data = MISC_FAST_STRING },
	};
	_Alignas(struct kvm_msrs) char room[sizeof(struct kvm_msrs) + sizeof(entry)] = { 0 };
	struct kvm_msrs *m = (void *)room;
	m->nmsrs = ARRAY_LEN(entry);
	memcpy(m->entries, entry, sizeof(entry));
	// An MSR that this KVM does not have is one that the guest will not miss.
	ioctl(c->fd, KVM_SET_MSRS, m);
}

int arch_vcpu_setup(struct vcpu *c, struct err *e)
{
	struct arch *a = c->vm->arch;
	if (!a->cpuid) {
		int rc = cpuid_host(&c->vm->kvm, &a->cpuid, e);
		if (rc < 0)
			return rc;
	}
	const struct cpuid_topology t = {
		.cpus = c->vm->config->cpus,
		.index = c->index,
		.tsc_deadline = kvm_capability(&c->vm->kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
	};
	cpuid_personalize(a->cpuid, &t);
	if (ioctl(c->fd, KVM_SET_CPUID2, a->cpuid) < 0)
		return err_sys(e, errno, "CPU %u: KVM_SET_CPUID2", c->index);
	set_firmware_msrs(c);
	return c->index == 0 ? set_entry_state(c, e) : 0;
}

static void port_access(struct vcpu *c)
{
	struct kvm_run *r = c->run;
	unsigned size = r->io.size;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;
	for (uint32_t i = 0; i < r->io.count; i++, data += size) {
		uint64_t val = 0;
		if (r->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&val, data, size);
			bus_write(&c->vm->pio, r->io.port, size, val);
		} else {
			bus_read(&c->vm->pio, r->io.port, size, &val);
			memcpy(data, &val, size);
		}
	}
}

bool arch_vcpu_exit(struct vcpu *c)
{
	if (c->run->exit_reason != KVM_EXIT_IO)
		return false;
	port_access(c);
	return true;
}

void arch_vcpu_dump(struct vcpu *c)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	if (ioctl(c->fd, KVM_GET_REGS, &r) < 0 || ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
		return;
#define LL(v) (unsigned long long)(v)
	log_error("CPU %u: rip %016llx rflags %08llx rsp %016llx rbp %016llx", c->index, LL(r.rip),
		  LL(r.rflags), LL(r.rsp), LL(r.rbp));
	log_error("CPU %u: rax %016llx rbx %016llx rcx %016llx rdx %016llx", c->index, LL(r.rax), LL(r.rbx),
		  LL(r.rcx), LL(r.rdx));
	log_error("CPU %u: rsi %016llx rdi %016llx r8  %016llx r9  %016llx", c->index, LL(r.rsi), LL(r.rdi),
		  LL(r.r8), LL(r.r9));
	log_error("CPU %u: r10 %016llx r11 %016llx r12 %016llx r13 %016llx", c->index, LL(r.r10), LL(r.r11),
		  LL(r.r12), LL(r.r13));
	log_error("CPU %u: r14 %016llx r15 %016llx cs %04x base %llx efer %llx", c->index, LL(r.r14),
		  LL(r.r15), s.cs.selector, LL(s.cs.base), LL(s.efer));
	log_error("CPU %u: cr0 %llx cr2 %llx cr3 %llx cr4 %llx", c->index, LL(s.cr0), LL(s.cr2), LL(s.cr3),
		  LL(s.cr4));
#undef LL
}
