// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/vcpu.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/seal.h"
#include "vmm/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define VCPU_STACK_SIZE ((size_t)128 * 1024)
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 // Linux 6.8; Debian 12's headers are older
#endif

static void kick_handler(int signal)
{
	(void)signal; // its arrival is what ends KVM_RUN
}

int vcpu_init_signal(struct err *e)
{
	struct sigaction sa = { .sa_handler = kick_handler };
	return sigaction(SIGRTMIN, &sa, NULL) < 0 ? err_sys(e, errno, "sigaction") : 0;
}

int vcpu_open(struct vcpu *c, struct vm *vm, unsigned index, struct err *e)
{
	c->vm = vm;
	c->index = index;
	c->fd = ioctl(vm->kvm.vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (c->fd < 0)
		return err_sys(e, errno, "CPU %u: KVM_CREATE_VCPU", index);
	void *map = mmap(NULL, (size_t)vm->kvm.vcpu_map_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (map == MAP_FAILED) {
		int error = errno;
		fd_close(&c->fd);
		return err_sys(e, error, "CPU %u: map its run page", index);
	}
	c->run = map;
	int rc = arch_vcpu_setup(c, e);
	if (rc < 0)
		vcpu_close(c);
	return rc;
}

void vcpu_close(struct vcpu *c)
{
	if (c->run)
		munmap(c->run, (size_t)c->vm->kvm.vcpu_map_size);
	c->run = NULL;
	fd_close(&c->fd);
}

void vcpu_kick(struct vcpu *c)
{
	// immediate_exit covers the time before KVM_RUN, the signal the time in it.
	if (c->run)
		__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	// Not pthread_kill(): musl's is tkill(), which no filter can hold to this process.
	int tid = atomic_load(&c->tid);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, SIGRTMIN);
}

void vcpu_tell_paused(struct vcpu *c)
{
	// Refused where the guest has no use for it (no kvmclock).
	ioctl(c->fd, KVM_KVMCLOCK_CTRL, 0);
}

// ---- exits ------------------------------------------------------------------------------------------------------

static void crash(struct vcpu *c, const char *why)
{
	log_error("CPU %u: %s", c->index, why);
	arch_vcpu_dump(c);
	vm_post_event(c->vm, VM_CRASH);
}

static void exit_mmio(struct vcpu *c)
{
	struct kvm_run *r = c->run;
	uint64_t gpa = r->mmio.phys_addr, val = 0;
	unsigned size = r->mmio.len <= 8 ? r->mmio.len : 8;
	if (r->mmio.is_write) {
		memcpy(&val, r->mmio.data, size);
		if (!bus_write(&c->vm->mmio, gpa, size, val))
			log_limited(LOG_DEBUG, "write of %u bytes to nothing at %#llx", size,
				    (unsigned long long)gpa);
		return;
	}
	if (!bus_read(&c->vm->mmio, gpa, size, &val))
		log_limited(LOG_DEBUG, "read of %u bytes from nothing at %#llx", size,
			    (unsigned long long)gpa);
	memcpy(r->mmio.data, &val, size);
}

static void exit_system_event(struct vcpu *c)
{
	switch (c->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vm_post_event(c->vm, VM_POWEROFF);
		return;
	case KVM_SYSTEM_EVENT_RESET:
		vm_post_event(c->vm, VM_REBOOT);
		return;
	default:
		crash(c, "the guest reported a crash");
	}
}

static void exit_unknown(struct vcpu *c)
{
	const struct kvm_run *r = c->run;
	char why[128];
	switch (r->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(why, sizeof(why), "KVM internal error %u%s", r->internal.suberror,
			 r->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				 ? " (an instruction that this host's KVM cannot emulate)"
				 : "");
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(why, sizeof(why), "the processor refused to enter the guest, reason %#llx",
			 (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_MEMORY_FAULT:
		snprintf(why, sizeof(why), "guest memory that the host could not provide");
		break;
	default:
		snprintf(why, sizeof(why), "KVM exit %u, which this monitor does not know", r->exit_reason);
	}
	crash(c, why);
}

// Of a device's memory it is the device's end; of RAM the machine's.
static void exit_memory_fault(struct vcpu *c)
{
	struct {
		uint64_t flags, gpa, size;
	} fault; // kvm_run.memory_fault, Linux 6.8
	memcpy(&fault, &c->run->hw, sizeof(fault));
	if (!bus_fault(&c->vm->mmio, fault.gpa))
		exit_unknown(c);
}

static void vcpu_exit(struct vcpu *c)
{
	switch (c->run->exit_reason) {
	case KVM_EXIT_MMIO:
		exit_mmio(c);
		return;
	case KVM_EXIT_SHUTDOWN:
		log_limited(LOG_INFO, "CPU %u: shutdown (triple fault): the machine resets", c->index);
		vm_post_event(c->vm, VM_REBOOT);
		return;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(c);
		return;
	case KVM_EXIT_INTR:
		return;
	default:
		if (!arch_vcpu_exit(c))
			exit_unknown(c);
	}
}

// ---- the thread -------------------------------------------------------------------------------------------------

static bool vcpu_may_run(struct vcpu *c)
{
	pthread_mutex_lock(&c->vm->run_lock);
	bool run = c->vm->run;
	pthread_mutex_unlock(&c->vm->run_lock);
	return run;
}

// After an event the machine is about to stop: nothing more of this guest is executed.
static bool vcpu_should_stop(struct vcpu *c)
{
	if (atomic_exchange(&c->dump, false))
		arch_vcpu_dump(c);
	if (atomic_load(&c->vm->event) != VM_RUNNING)
		return true;
	// A kick for the dump alone leaves vm->run as it was.
	__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return !vcpu_may_run(c);
}

// Runs the guest until vm->run is false.
static void run(struct vcpu *c)
{
	if (vcpu_should_stop(c))
		return;
	for (;;) {
		int rc = ioctl(c->fd, KVM_RUN, 0);
		int error = errno;
		if (rc == 0) {
			vcpu_exit(c);
		} else if ((error == EFAULT || error == EHWPOISON) &&
			   c->run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
			exit_memory_fault(c);
		} else if (error != EINTR && error != EAGAIN) {
			char why[64];
			snprintf(why, sizeof(why), "KVM_RUN: %s", err_text(error));
			crash(c, why);
		}
		bool kicked = __atomic_load_n(&c->run->immediate_exit, __ATOMIC_SEQ_CST);
		if ((kicked || atomic_load(&c->vm->event) != VM_RUNNING) && vcpu_should_stop(c))
			return;
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *c = arg;
	struct vm *vm = c->vm;
	struct err e = { 0 };
	atomic_store(&c->tid, (int)syscall(SYS_gettid));
	if (seal_vcpu_thread(&e) < 0) {
		log_error("CPU %u: %s", c->index, e.text);
		vm_post_event(vm, VM_CRASH);
	}
	unsigned seen = 0;
	pthread_mutex_lock(&vm->run_lock);
	for (;;) {
		vm->parked++;
		pthread_cond_broadcast(&vm->run_changed);
		if (vm->tell_parked && vm->parked == vm->vcpu_count)
			fd_event_signal(vm->event_source.fd);
		while (!vm->leave && !(vm->run && vm->generation != seen))
			pthread_cond_wait(&vm->run_changed, &vm->run_lock);
		vm->parked--;
		if (vm->leave)
			break;
		seen = vm->generation;
		pthread_mutex_unlock(&vm->run_lock);
		run(c);
		pthread_mutex_lock(&vm->run_lock);
	}
	pthread_mutex_unlock(&vm->run_lock);
	return NULL;
}

int vcpu_thread_start(struct vcpu *c, struct err *e)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, VCPU_STACK_SIZE);
	// Signals are the loop's; a vCPU thread takes its kick, and its own faults, whose handler restores the terminal.
	static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
	sigfillset(&all);
	sigdelset(&all, SIGRTMIN);
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		sigdelset(&all, own[i]);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int error = pthread_create(&c->thread, &attr, vcpu_thread, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (error)
		return err_sys(e, error, "CPU %u: thread", c->index);
	return 0;
}
