// SPDX-License-Identifier: BSD-2-Clause
// How fast this host's KVM runs the kernel mode of a guest: a counted loop in flat 32-bit code, and then a halt.
// Called by the doctor, on a VM that holds nothing else.
#include "arch/arch.h"
#include "vmm/base/fd.h"
#include "vmm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define ROUNDS	  400000u // of two instructions: a fifth of a second where each takes 250 ns
#define PAGE	  4096
#define CODE_GPA  UINT64_C(0x1000)
#define CR0_PE	  UINT64_C(1)
#define FLAGS_ONE 2u // a bit that is always set

static const uint8_t code[] = {
	0x49,	    // again: dec %ecx
	0x75, 0xfd, // jnz again
	0xf4,	    // hlt
	0xeb, 0xfd, // and again, whoever goes on
};

static int enter(int vcpu, struct err *e)
{
	const struct kvm_segment flat = {
		.limit = 0xffffffff,
		.selector = 16,
		.type = 3,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
	const struct kvm_regs r = { .rip = CODE_GPA, .rcx = ROUNDS, .rflags = FLAGS_ONE };
	struct kvm_sregs s;
	if (ioctl(vcpu, KVM_GET_SREGS, &s) < 0)
		return err_sys(e, errno, "KVM_GET_SREGS");
	s.cs = s.ds = s.es = s.fs = s.gs = s.ss = flat;
	s.cs.selector = 8;
	s.cs.type = 11;
	s.cr0 |= CR0_PE;
	if (ioctl(vcpu, KVM_SET_SREGS, &s) < 0)
		return err_sys(e, errno, "KVM_SET_SREGS");
	return ioctl(vcpu, KVM_SET_REGS, &r) < 0 ? err_sys(e, errno, "KVM_SET_REGS") : 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int run(int vcpu, const struct kvm_run *state, uint64_t *ns, struct err *e)
{
	const uint64_t begin = now_ns();
	int rc;
	do {
		rc = ioctl(vcpu, KVM_RUN, 0);
	} while (rc < 0 && errno == EINTR);
	*ns = now_ns() - begin;
	if (rc < 0)
		return err_sys(e, errno, "KVM_RUN");
	if (state->exit_reason != KVM_EXIT_HLT)
		return err_set(e, EIO, "KVM_RUN: exit reason %u", state->exit_reason);
	return 0;
}

int arch_kvm_speed(const struct kvm *k, uint64_t *per_s, struct err *e)
{
	const size_t run_len = (size_t)k->vcpu_map_size;
	uint64_t ns;
	void *state = MAP_FAILED;
	void *ram = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		return err_sys(e, errno, "a page of memory");
	memcpy(ram, code, sizeof(code));
	int rc = kvm_memory_slot(k, 0, CODE_GPA, PAGE, ram, 0);
	if (rc < 0)
		err_sys(e, -rc, "KVM_SET_USER_MEMORY_REGION");
	FD_AUTO vcpu = rc < 0 ? -1 : ioctl(k->vm_fd, KVM_CREATE_VCPU, 0);
	if (rc == 0 && vcpu < 0)
		rc = err_sys(e, errno, "KVM_CREATE_VCPU");
	if (rc == 0 &&
	    (state = mmap(NULL, run_len, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0)) == MAP_FAILED)
		rc = err_sys(e, errno, "map a CPU's state");
	if (rc == 0)
		rc = enter(vcpu, e);
	if (rc == 0)
		rc = run(vcpu, state, &ns, e);
	if (rc == 0)
		*per_s = UINT64_C(2) * ROUNDS * 1000000000 / (ns ? ns : 1);
	if (state != MAP_FAILED)
		munmap(state, run_len);
	munmap(ram, PAGE);
	return rc;
}
