// SPDX-License-Identifier: BSD-2-Clause
// A KVM in memory: this program's own ioctl(), which answers KVM's requests and passes on all others.
//
// Any request may be made to fail: the n-th of all, or every one of a kind.  VM and vCPU descriptors are memfds, so that limits and
// leaks are real.  Doorbells and interrupts are kept as KVM keeps them, and what KVM would refuse (one twice, the end of one
// that is not there) is counted in `mistakes`.
#ifndef MINIVMM_TESTS_UNIT_FAKE_KVM_H
#define MINIVMM_TESTS_UNIT_FAKE_KVM_H

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAKE_ITEMS    2048
#define FAKE_VCPU_MAP 12288
#define FAKE_FDS      1024

struct fake_item {
	int fd;
	uint64_t where; // address of a doorbell, GSI of an interrupt
};

static struct fake_kvm {
	pthread_mutex_t lock;
	unsigned calls, fail_call; // fail_call: the one that fails, from 1
	int fail_error;
	unsigned long failed;	    // the request that it was
	unsigned long fail_request; // every one of this kind fails
	int fail_capability;	    // KVM does not have this one; -1: has all

	unsigned mistakes;
	unsigned doorbell_count, irqfd_count, route_sets, slots, irqchips, x2apic_formats, pins_set;
	unsigned slot_count;
	struct fake_item doorbell[FAKE_ITEMS], irqfd[FAKE_ITEMS], slot[FAKE_ITEMS];
	unsigned route_count;
	struct kvm_irq_routing_entry route[4096];
	int pin[32];
	struct kvm_cpuid2 *cpuid; // what the host supports, NULL: one leaf

	int (*run)(unsigned index, struct kvm_run *r); // KVM_RUN; NULL: waits for the kick
	struct {
		struct kvm_run *run;
		unsigned index;
	} vcpu[FAKE_FDS];
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER, .fail_error = EIO, .fail_capability = -1 };

static inline void fake_reset(void)
{
	for (unsigned i = 0; i < FAKE_FDS; i++)
		if (fake.vcpu[i].run)
			munmap(fake.vcpu[i].run, FAKE_VCPU_MAP);
	memset(&fake, 0, sizeof(fake));
	pthread_mutex_init(&fake.lock, NULL);
	fake.fail_error = EIO;
	fake.fail_capability = -1;
}

static inline int fake_no(int error)
{
	errno = error;
	return -1;
}

static inline int fake_mistake(int error)
{
	fake.mistakes++;
	return fake_no(error);
}

static inline int fake_item_add(struct fake_item *list, unsigned *count, int fd, uint64_t where)
{
	if (*count == FAKE_ITEMS)
		return fake_mistake(ENOSPC);
	list[(*count)++] = (struct fake_item){ .fd = fd, .where = where };
	return 0;
}

static inline int fake_item_remove(struct fake_item *list, unsigned *count, int fd, uint64_t where)
{
	for (unsigned i = 0; i < *count; i++)
		if (list[i].fd == fd && list[i].where == where) {
			list[i] = list[--*count];
			return 0;
		}
	return fake_mistake(ENOENT);
}

static inline int fake_ioeventfd(const struct kvm_ioeventfd *io)
{
	if (io->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return fake_item_remove(fake.doorbell, &fake.doorbell_count, io->fd, io->addr);
	for (unsigned i = 0; i < fake.doorbell_count; i++)
		if (fake.doorbell[i].where == io->addr)
			return fake_mistake(EEXIST);
	return fake_item_add(fake.doorbell, &fake.doorbell_count, io->fd, io->addr);
}

static inline int fake_irqfd(const struct kvm_irqfd *irq)
{
	if (irq->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return fake_item_remove(fake.irqfd, &fake.irqfd_count, (int)irq->fd, irq->gsi);
	for (unsigned i = 0; i < fake.irqfd_count; i++)
		if (fake.irqfd[i].fd == (int)irq->fd)
			return fake_mistake(EBUSY);
	return fake_item_add(fake.irqfd, &fake.irqfd_count, (int)irq->fd, irq->gsi);
}

// The slots that exist, by number and address.
static inline int fake_set_slot(const struct kvm_userspace_memory_region *r)
{
	fake.slots++;
	for (unsigned i = 0; i < fake.slot_count; i++)
		if (fake.slot[i].fd == (int)r->slot) {
			if (r->memory_size)
				return fake_mistake(EINVAL);
			fake.slot[i] = fake.slot[--fake.slot_count];
			return 0;
		}
	return r->memory_size ? fake_item_add(fake.slot, &fake.slot_count, (int)r->slot, r->guest_phys_addr)
			      : fake_mistake(EINVAL);
}

static inline int fake_set_routes(const struct kvm_irq_routing *t)
{
	if (t->nr > 4096)
		return fake_mistake(EINVAL);
	for (unsigned i = 0; i < t->nr; i++)
		if (t->entries[i].type == KVM_IRQ_ROUTING_MSI && (t->entries[i].u.msi.address_hi & 0xff))
			return fake_mistake(EINVAL); // as with the x2APIC format
	memcpy(fake.route, t->entries, t->nr * sizeof(t->entries[0]));
	fake.route_count = t->nr;
	fake.route_sets++;
	return 0;
}

// The MSI route of a GSI, or NULL.
static inline const struct kvm_irq_routing_entry *fake_route(uint32_t gsi)
{
	for (unsigned i = 0; i < fake.route_count; i++)
		if (fake.route[i].gsi == gsi && fake.route[i].type == KVM_IRQ_ROUTING_MSI)
			return &fake.route[i];
	return NULL;
}

static inline int fake_create_vcpu(unsigned index)
{
	int fd = memfd_create("fake vcpu", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fd >= FAKE_FDS || ftruncate(fd, FAKE_VCPU_MAP) < 0)
		_exit(99);
	if (fake.vcpu[fd].run)
		munmap(fake.vcpu[fd].run, FAKE_VCPU_MAP);
	fake.vcpu[fd].run = mmap(NULL, FAKE_VCPU_MAP, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fake.vcpu[fd].index = index;
	return fd;
}

static inline int fake_get_cpuid(struct kvm_cpuid2 *out)
{
	static const struct kvm_cpuid_entry2 one = { .function = 0, .eax = 1 };
	unsigned nent = fake.cpuid ? fake.cpuid->nent : 1;
	if (out->nent < nent)
		return fake_no(E2BIG);
	memcpy(out->entries, fake.cpuid ? fake.cpuid->entries : &one, nent * sizeof(one));
	out->nent = nent;
	return 0;
}

// Sleeps until the kick, as a guest that is halted does.
static inline int fake_wait(struct kvm_run *r)
{
	struct timespec ms = { .tv_nsec = 1000000 };
	while (!__atomic_load_n(&r->immediate_exit, __ATOMIC_SEQ_CST))
		syscall(SYS_nanosleep, &ms, NULL);
	return fake_no(EINTR);
}

static inline int fake_kvm_answer(int fd, unsigned long request, void *arg)
{
	const struct kvm_enable_cap *cap = arg;
	const struct kvm_irq_level *line = arg;
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		if (fake.fail_capability >= 0 && (intptr_t)arg == fake.fail_capability)
			return 0;
		return (intptr_t)arg == KVM_CAP_MAX_VCPUS ? 512 : 1;
	case KVM_GET_VCPU_MMAP_SIZE:
		return FAKE_VCPU_MAP;
	case KVM_CREATE_VM:
		fake.slot_count = 0;
		return memfd_create("fake vm", MFD_CLOEXEC);
	case KVM_CREATE_VCPU:
		return fake_create_vcpu((unsigned)(uintptr_t)arg);
	case KVM_SET_USER_MEMORY_REGION:
		return fake_set_slot(arg);
	case KVM_CREATE_IRQCHIP:
		fake.irqchips++;
		return 0;
	case KVM_ENABLE_CAP:
		fake.x2apic_formats += cap->cap == KVM_CAP_X2APIC_API;
		return 0;
	case KVM_GET_SUPPORTED_CPUID:
		return fake_get_cpuid(arg);
	case KVM_GET_SREGS:
		memset(arg, 0, sizeof(struct kvm_sregs));
		return 0;
	case KVM_GET_REGS:
		memset(arg, 0, sizeof(struct kvm_regs));
		return 0;
	case KVM_IOEVENTFD:
		return fake_ioeventfd(arg);
	case KVM_IRQFD:
		return fake_irqfd(arg);
	case KVM_SET_GSI_ROUTING:
		return fake_set_routes(arg);
	case KVM_IRQ_LINE:
		if (line->irq < 32)
			fake.pin[line->irq] = (int)line->level;
		fake.pins_set++;
		return 0;
	default:
		(void)fd;
		return 0;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) != KVMIO)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	pthread_mutex_lock(&fake.lock);
	bool fails = ++fake.calls == fake.fail_call || request == fake.fail_request;
	if (fails)
		fake.failed = request;
	if (!fails && request == KVM_RUN) {
		struct kvm_run *r = fake.vcpu[fd].run;
		unsigned index = fake.vcpu[fd].index;
		pthread_mutex_unlock(&fake.lock);
		return fake.run ? fake.run(index, r) : fake_wait(r);
	}
	int error = fake.fail_error;
	int rc = fails ? -1 : fake_kvm_answer(fd, request, arg);
	if (!fails)
		error = errno;
	pthread_mutex_unlock(&fake.lock);
	errno = error;
	return rc;
}

#endif
