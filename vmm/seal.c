// SPDX-License-Identifier: BSD-2-Clause
//
// Which system calls the monitor makes once a guest runs, and why: one table for the loop's thread, one for vCPU threads, one for those that wait for a
// back-end that went away, one for those that serve what a vfio-user server asks for, one for those that wait for such a server.
#include "vmm/seal.h"

#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/base/sandbox.h"

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef VHOST_VDPA_RESUME // Linux 6.3
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif
#ifndef IOMMU_IOAS_UNMAP // linux/iommufd.h, which is not in headers before Linux 6.2
#define IOMMU_IOAS_UNMAP _IO(';', 0x86)
#endif

// tgkill: the value is this process's id, filled in by seal_process().
#define OWN_PID 0

// Back-ends in the kernel, as the driver sets them up, starts and stops them.
#define VHOST_RULES                                                                                 \
	SANDBOX_RARE_IOCTL(VHOST_SET_FEATURES, "kernel vhost: what the driver took"),               \
		SANDBOX_RARE_IOCTL(VHOST_SET_MEM_TABLE, "where guest RAM is"),                      \
		SANDBOX_RARE_IOCTL(VHOST_SET_VRING_NUM, "a ring"),                                  \
		SANDBOX_RARE_IOCTL(VHOST_SET_VRING_BASE, "where to begin"),                         \
		SANDBOX_RARE_IOCTL(VHOST_GET_VRING_BASE, "where it ended"),                         \
		SANDBOX_RARE_IOCTL(VHOST_SET_VRING_ADDR, "a ring's parts"),                         \
		SANDBOX_RARE_IOCTL(VHOST_SET_VRING_KICK, "its doorbell"),                           \
		SANDBOX_RARE_IOCTL(VHOST_SET_VRING_CALL, "its interrupt"),                          \
		SANDBOX_RARE_IOCTL(VHOST_SET_VRING_ERR, "its errors"),                              \
		SANDBOX_RARE_IOCTL(VHOST_NET_SET_BACKEND, "net: start, stop"),                      \
		SANDBOX_RARE_IOCTL(TUNSETOFFLOAD, "net: frames as the driver takes them"),          \
		SANDBOX_RARE_IOCTL(TUNSETQUEUE, "net: pairs of queues that are not used yet"),      \
		SANDBOX_RARE_IOCTL(VHOST_VSOCK_SET_RUNNING, "vsock: start, stop"),                  \
		SANDBOX_RARE_IOCTL(VHOST_SCSI_SET_ENDPOINT, "scsi: start"),                         \
		SANDBOX_RARE_IOCTL(VHOST_SCSI_CLEAR_ENDPOINT, "scsi: stop"),                        \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_SET_STATUS, "vDPA: what the driver has done so far"), \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_GET_STATUS, "whether the device took it"),            \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_GET_CONFIG, "configuration space"),                   \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_SET_CONFIG, "the same, written"),                     \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_SET_VRING_ENABLE, "a ring may be used"),              \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_SET_GROUP_ASID, "all rings see the same memory"),     \
		SANDBOX_RARE_IOCTL(VHOST_VDPA_SUSPEND, "its rings stand still")

// Devices of the kernel's VFIO, as the guest uses them.
#define VFIO_RULES                                                                               \
	SANDBOX_RARE(pread64, "VFIO: a register of the device's; restart: what cannot be sent"), \
		SANDBOX_RARE(pwrite64, "the same, written"),                                     \
		SANDBOX_RARE_IOCTL(VFIO_DEVICE_SET_IRQS, "VFIO: where interrupts go"),           \
		SANDBOX_RARE_IOCTL(VFIO_DEVICE_RESET, "VFIO: the guest resets the device"),      \
		SANDBOX_RARE_IOCTL(VFIO_IOMMU_UNMAP_DMA, "VFIO: it is given back"),              \
		SANDBOX_RARE_IOCTL(IOMMU_IOAS_UNMAP, "VFIO: the same, by IOMMUFD"),              \
		SANDBOX_RARE_IOCTL(VFIO_GROUP_UNSET_CONTAINER, "VFIO: the same"),                \
		SANDBOX_RARE_IOCTL(KVM_SET_DEVICE_ATTR, "VFIO: KVM is told so; restart: of all groups"),

// What a guest's register accesses lead to, on whichever thread.
#define DEVICE_RULES                                                                                      \
	SANDBOX_CALL(futex, "locks, and the barrier between runs"),                                       \
		SANDBOX_CALL(write, "word to other threads (eventfds), serial output, log"),              \
		SANDBOX_RARE(io_submit,                                                                   \
			     "doorbells and interrupts of our own; a back-end cannot hold it up"),        \
		SANDBOX_RARE(io_setup, "before the first of them"),                                       \
		SANDBOX_CALL(read, "input, signals, timers"),                                             \
		SANDBOX_CALL(preadv2, "eventfds that are taken down, without waiting"),                   \
		SANDBOX_CALL(sendmsg, "requests to back-ends"),                                           \
		SANDBOX_CALL(recvmsg, "replies of back-ends, with descriptors"),                          \
		SANDBOX_CALL(recvfrom, "what a back-end said unasked (a peek)"),                          \
		SANDBOX_CALL(eventfd2, "interrupt vectors and doorbells as the driver sets them up"),     \
		SANDBOX_CALL(close, "and as it gives them up"),                                           \
		SANDBOX_RARE(shutdown, "a back-end that broke its protocol is cut off"),                  \
		SANDBOX_RARE(epoll_ctl, "back-ends, vectors and clients come and go"),                    \
		SANDBOX_RARE(epoll_pwait, "epoll_wait where there is none"),                              \
		SANDBOX_RARE(fstat, "kind and size of a descriptor that a back-end sent"),                \
		SANDBOX_RARE(newfstatat, "fstat of newer C libraries"),                                   \
		SANDBOX_RARE_IF(fcntl, "access mode of a descriptor that a back-end sent", 1, UINT32_MAX, \
				F_GETFL),                                                                 \
		SANDBOX_RARE(timerfd_settime, "output that waits for its peer, back-off"),                \
		SANDBOX_RARE(writev, "serial output of two pieces"),                                      \
		SANDBOX_RARE(rt_sigprocmask, "a thread's exit blocks signals for a moment"),              \
		SANDBOX_RARE_IF(tgkill, "kick a vCPU out of the guest", 0, UINT32_MAX, OWN_PID),          \
		SANDBOX_RARE(getpid, "the same"), SANDBOX_RARE(gettid, "abort()"),                        \
		SANDBOX_RARE(munmap, "stacks and mappings that are done with"),                           \
		SANDBOX_RARE_IF(madvise, "the C library returns memory", 2, UINT32_MAX, MADV_DONTNEED),   \
		SANDBOX_IOCTL(KVM_IOEVENTFD, "a doorbell follows its BAR"),                               \
		SANDBOX_IOCTL(KVM_IRQFD, "a vector gets its interrupt"),                                  \
		SANDBOX_IOCTL(KVM_SET_GSI_ROUTING, "vectors follow the guest's MSI-X table"),             \
		SANDBOX_RARE_IOCTL(KVM_IRQ_LINE, "level interrupts: serial port, INTx"),                  \
		SANDBOX_RARE_IOCTL(KVM_SIGNAL_MSI,                                                        \
				   "an interrupt that was pending when its vector was unmasked"),         \
		SANDBOX_RARE_IOCTL(KVM_SET_USER_MEMORY_REGION,                                            \
				   "doorbell pages and shared memory follow their BAR; machine restart"), \
		VFIO_RULES VHOST_RULES, ARCH_DUMP_RULES

#if defined(__x86_64__)
#define ARCH_DUMP_RULES                                                         \
	SANDBOX_RARE_IOCTL(KVM_GET_REGS, "registers in the report of a crash"), \
		SANDBOX_RARE_IOCTL(KVM_GET_SREGS, "registers in the report of a crash")
// A machine that restarts gets a new KVM VM, made like the first (arch/x86_64).
#define ARCH_RESTART_RULES                                                           \
	SANDBOX_RARE_IOCTL(KVM_SET_TSS_ADDR, "machine restart"),                     \
		SANDBOX_RARE_IOCTL(KVM_SET_IDENTITY_MAP_ADDR, "machine restart"),    \
		SANDBOX_RARE_IOCTL(KVM_CREATE_IRQCHIP, "machine restart"),           \
		SANDBOX_RARE_IOCTL(KVM_CREATE_DEVICE, "machine restart, with VFIO"), \
		SANDBOX_RARE_IOCTL(KVM_CREATE_PIT2, "machine restart"),              \
		SANDBOX_RARE_IOCTL(KVM_GET_IRQCHIP, "machine restart"),              \
		SANDBOX_RARE_IOCTL(KVM_SET_IRQCHIP, "machine restart"),              \
		SANDBOX_RARE_IOCTL(KVM_GET_SUPPORTED_CPUID, "machine restart"),      \
		SANDBOX_RARE_IOCTL(KVM_SET_CPUID2, "machine restart"),               \
		SANDBOX_RARE_IOCTL(KVM_GET_MSR_INDEX_LIST, "machine restart"),       \
		SANDBOX_RARE_IOCTL(KVM_GET_MSRS, "machine restart"),                 \
		SANDBOX_RARE_IOCTL(KVM_SET_MSRS, "machine restart"),                 \
		SANDBOX_RARE_IOCTL(KVM_SET_REGS, "machine restart"),                 \
		SANDBOX_RARE_IOCTL(KVM_SET_SREGS, "machine restart"),                \
		SANDBOX_RARE_IOCTL(KVM_GET_FPU, "machine restart"),                  \
		SANDBOX_RARE_IOCTL(KVM_SET_FPU, "machine restart"),                  \
		SANDBOX_RARE_IOCTL(KVM_GET_LAPIC, "machine restart"),                \
		SANDBOX_RARE_IOCTL(KVM_SET_LAPIC, "machine restart"),                \
		SANDBOX_RARE_IOCTL(KVM_GET_TSC_KHZ, "machine restart"),              \
		SANDBOX_RARE_IOCTL(KVM_SET_TSC_KHZ, "machine restart"),              \
		SANDBOX_RARE_IOCTL(KVM_GET_CLOCK, "machine restart"),                \
		SANDBOX_RARE_IOCTL(KVM_SET_CLOCK, "machine restart"),
#else
#define ARCH_DUMP_RULES SANDBOX_RARE_IOCTL(KVM_GET_ONE_REG, "registers in the report of a crash")
#define ARCH_RESTART_RULES                                        \
	SANDBOX_RARE_IOCTL(KVM_CREATE_DEVICE, "machine restart"), \
		SANDBOX_RARE_IOCTL(KVM_SET_ONE_REG, "machine restart"),
#endif

// A fault in a thread that is not the loop's.
#define FAULT_RULES                                                                                \
	SANDBOX_RARE_IOCTL(TCSETS, "a fault in this thread leaves the terminal as it was before"), \
		SANDBOX_RARE_IOCTL(TCSETS2, "the same by newer C libraries"),                      \
		SANDBOX_RARE_IOCTL(TCGETS, "tcsetattr() looks whether it was done"),               \
		SANDBOX_RARE_IOCTL(TCGETS2, "the same by newer C libraries")

// The end of a thread that has no part in DEVICE_RULES.
#define THREAD_END_RULES                                                                   \
	SANDBOX_RARE(exit, "the thread's end"),                                            \
		SANDBOX_RARE(rt_sigprocmask, "which blocks signals for a moment"),         \
		SANDBOX_RARE(munmap, "and gives back its stack"),                          \
		SANDBOX_RARE_IF(madvise, "or a part of it", 2, UINT32_MAX, MADV_DONTNEED), \
		SANDBOX_RARE(gettid, "abort()"), SANDBOX_RARE(getpid, "the same"),         \
		SANDBOX_RARE_IF(tgkill, "the same", 0, UINT32_MAX, OWN_PID), FAULT_RULES

static struct sandbox_rule vcpu_rules[] = {
	SANDBOX_IOCTL(KVM_RUN, "run the guest"),
	DEVICE_RULES,
	SANDBOX_RARE(exit, "the thread's end"),
	FAULT_RULES,
};

static struct sandbox_rule loop_rules[] = {
	DEVICE_RULES, SANDBOX_CALL(epoll_wait, "the loop"),
	SANDBOX_RARE_IF(madvise, "the same by musl, at the end", 2, UINT32_MAX, MADV_FREE),
	SANDBOX_RARE(accept4, "clients of the control socket and of serial = unix:"),
	SANDBOX_RARE(waitid, "a device process has ended"),
	SANDBOX_RARE(pidfd_send_signal, "a device process shall end"),
	SANDBOX_RARE_IOCTL(VHOST_VDPA_RESUME, "the end of a pause"),
	SANDBOX_RARE_IOCTL(KVM_KVMCLOCK_CTRL, "the same: the guest's watchdogs are told"),
	SANDBOX_RARE_IOCTL(TCSETS, "the terminal as it was before"),
	SANDBOX_RARE_IOCTL(TCSETSW, "the terminal as it was before"),
	SANDBOX_RARE_IOCTL(TCSETSF, "the terminal as it was before"),
	SANDBOX_RARE_IOCTL(TCSETS2, "the same by newer C libraries"),
	SANDBOX_RARE_IOCTL(TCGETS, "isatty() of the C library, and the terminal's state"),
	SANDBOX_RARE_IOCTL(TCGETS2, "the same by newer C libraries"),
	SANDBOX_RARE(
		lseek,
		"where kernel and initrd go in RAM; the C library leaves its streams at the right place at exit"),
	// The machine restarts: memory is cleared, the kernel loaded again from its descriptor, the KVM VM made anew.
	SANDBOX_RARE(fallocate, "machine restart: RAM gives its pages back"),
	SANDBOX_RARE(sendfile, "machine restart: kernel and initrd"),
	SANDBOX_RARE(brk, "memory for a moment"),
	SANDBOX_RARE_IF(fcntl, "whether the owner of a doorbell page or of shared memory can truncate it", 1,
			UINT32_MAX, F_GET_SEALS),
	SANDBOX_RARE(fstatfs, "and whether it is of huge pages"),
	SANDBOX_RARE_IF(
		mmap,
		"machine restart: run pages; memory for a moment; doorbell pages, shared memory; never executable",
		2, PROT_EXEC, 0),
	SANDBOX_RARE_IOCTL(KVM_CREATE_VM, "machine restart"),
	SANDBOX_RARE_IOCTL(KVM_CREATE_VCPU, "machine restart"),
	SANDBOX_RARE_IOCTL(KVM_CHECK_EXTENSION, "machine restart"),
	SANDBOX_RARE_IOCTL(KVM_ENABLE_CAP, "machine restart"),
	SANDBOX_RARE_IOCTL(KVM_SET_MP_STATE, "machine restart"),
	SANDBOX_RARE_IOCTL(KVM_SET_SIGNAL_MASK, "machine restart"), ARCH_RESTART_RULES
};

// Between two connections; in the time between nothing but a poll().
#define WAIT_RULES                                                                                    \
	SANDBOX_RARE(futex, "a device's lock"), SANDBOX_RARE(read, "a program's log"),                \
		SANDBOX_RARE(preadv2, "what the loop has to say (eventfds)"),                         \
		SANDBOX_RARE(write, "the same to the loop"),                                          \
		SANDBOX_RARE(io_submit, "doorbells and interrupts that may be lost"),                 \
		SANDBOX_RARE(io_setup, "before the first of them"),                                   \
		SANDBOX_RARE(sendmsg, "requests to the spawner and to the back-end"),                 \
		SANDBOX_RARE(recvmsg, "replies, with descriptors"),                                   \
		SANDBOX_RARE(recvfrom, "is the one who connects still there (a peek)?"),              \
		SANDBOX_RARE(accept4, "a back-end connects (listen = ...)"),                          \
		SANDBOX_RARE_IF(socketpair, "the channel on which it asks", 0, UINT32_MAX, AF_UNIX),  \
		SANDBOX_RARE(timerfd_create, "and the pauses on it"),                                 \
		SANDBOX_RARE(epoll_ctl, "a queue's errors are looked for again"),                     \
		SANDBOX_RARE(fstat, "kind and size of a descriptor that a back-end sent"),            \
		SANDBOX_RARE(newfstatat, "fstat of newer C libraries"),                               \
		SANDBOX_RARE(close, "the connection before"),                                         \
		SANDBOX_RARE(dup3, "a vDPA device that was removed is let go of, its number is not"), \
		SANDBOX_RARE_IF(mmap, "and so are its doorbell pages", 2, PROT_EXEC, 0),              \
		SANDBOX_RARE(shutdown, "one that broke its protocol is cut off"),                     \
		SANDBOX_RARE(waitid, "a program that does not do"),                                   \
		SANDBOX_RARE(pidfd_send_signal, "has to end"), THREAD_END_RULES

static struct sandbox_rule wait_rules[] = { WAIT_RULES };

// The same for a vfio-user server: with it a whole function returns, its BARs and interrupts.
static struct sandbox_rule return_rules[] = {
	WAIT_RULES,
	SANDBOX_RARE(eventfd2, "interrupt vectors that were not used before"),
	SANDBOX_RARE(getsockopt, "whether the socket for its commands is one"),
	SANDBOX_RARE_IF(fcntl, "access mode of a descriptor that it sent", 1, UINT32_MAX, F_GETFL),
	SANDBOX_RARE_IF(fcntl, "whether it can truncate a BAR's memory", 1, UINT32_MAX, F_GET_SEALS),
	SANDBOX_RARE(fstatfs, "and whether that is of huge pages"),
	SANDBOX_RARE_IF(madvise, "which stays out of core dumps", 2, UINT32_MAX, MADV_DONTDUMP),
	SANDBOX_RARE_IF(madvise, "and out of children", 2, UINT32_MAX, MADV_DONTFORK),
	SANDBOX_RARE_IOCTL(KVM_SET_USER_MEMORY_REGION, "its BARs' memory is the guest's again"),
	SANDBOX_RARE_IOCTL(KVM_IOEVENTFD, "its doorbells"),
	SANDBOX_RARE_IOCTL(KVM_IRQFD, "its interrupts"),
	SANDBOX_RARE_IOCTL(KVM_SET_GSI_ROUTING, "where they go"),
	SANDBOX_RARE_IOCTL(KVM_IRQ_LINE, "its pin"),
	SANDBOX_RARE_IOCTL(KVM_SIGNAL_MSI, "an interrupt that was pending"),
};

// Guest memory and a socket, and nothing between them.
static struct sandbox_rule carrier_rules[] = {
	SANDBOX_RARE(epoll_wait, "the server's own commands, and what comes while nobody waits"),
	SANDBOX_RARE(epoll_pwait, "the same where there is no epoll_wait"),
	SANDBOX_RARE(epoll_ctl, "until the next call"),
	SANDBOX_RARE(recvmsg, "a command; data for guest memory"),
	SANDBOX_RARE(sendmsg, "data of guest memory; what was posted for the server"),
	SANDBOX_RARE(futex, "those who wait for a reply"),
	SANDBOX_RARE(preadv2, "what is to be done (an eventfd)"),
	SANDBOX_RARE(write, "the server's end, to the loop"),
	SANDBOX_RARE(shutdown, "one that broke its protocol is cut off"),
	SANDBOX_RARE(close, "descriptors that should not have come"),
	THREAD_END_RULES,
};

static const struct sandbox_spec loop_spec = {
	.program = "minivmm",
	.rules = loop_rules,
	.rule_count = ARRAY_LEN(loop_rules),
};
static const struct sandbox_spec vcpu_spec = {
	.program = "minivmm",
	.rules = vcpu_rules,
	.rule_count = ARRAY_LEN(vcpu_rules),
};
static const struct sandbox_spec wait_spec = {
	.program = "minivmm",
	.rules = wait_rules,
	.rule_count = ARRAY_LEN(wait_rules),
};
static const struct sandbox_spec return_spec = {
	.program = "minivmm",
	.rules = return_rules,
	.rule_count = ARRAY_LEN(return_rules),
};
static const struct sandbox_spec carrier_spec = {
	.program = "minivmm",
	.rules = carrier_rules,
	.rule_count = ARRAY_LEN(carrier_rules),
};

bool seal_even_sanitized;

static struct sandbox_program loop_program, vcpu_program, wait_program, carrier_program, return_program;
static enum { SEAL_NOT_CALLED, SEAL_NO_FILTERS, SEAL_COMPILED } state;

static void own_pid_set(struct sandbox_rule *rules, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (rules[i].syscall == SCMP_SYS(tgkill))
			rules[i].value = (uint64_t)getpid();
}

int seal_process(bool waits, bool carries, struct err *e)
{
	const struct sandbox_spec asked = { .even_sanitized = seal_even_sanitized };
	bool held_back = sandbox_held_back(&asked);
	state = SEAL_NO_FILTERS;
	own_pid_set(loop_rules, ARRAY_LEN(loop_rules));
	own_pid_set(vcpu_rules, ARRAY_LEN(vcpu_rules));
	own_pid_set(wait_rules, ARRAY_LEN(wait_rules));
	own_pid_set(carrier_rules, ARRAY_LEN(carrier_rules));
	own_pid_set(return_rules, ARRAY_LEN(return_rules));
	int rc = sandbox_drop_privileges(e);
	if (held_back) {
		log_debug("sanitizer build: no Landlock or seccomp");
		return rc;
	}
	// Whatever fails, the later walls are still worth having; the first reason is told.
	struct err later;
	int rc2 = sandbox_landlock(SANDBOX_MAY_SIGNAL, rc < 0 ? &later : e);
	rc = rc < 0 ? rc : rc2;
	rc2 = sandbox_compile(&loop_spec, &loop_program, rc < 0 ? &later : e);
	if (rc2 == 0)
		rc2 = sandbox_compile(&vcpu_spec, &vcpu_program, rc < 0 ? &later : e);
	if (rc2 == 0 && waits)
		rc2 = sandbox_compile(&wait_spec, &wait_program, rc < 0 ? &later : e);
	if (rc2 == 0 && carries)
		rc2 = sandbox_compile(&carrier_spec, &carrier_program, rc < 0 ? &later : e);
	if (rc2 == 0 && carries)
		rc2 = sandbox_compile(&return_spec, &return_program, rc < 0 ? &later : e);
	if (rc2 == 0)
		state = SEAL_COMPILED;
	return rc < 0 ? rc : rc2;
}

static int seal_thread(struct sandbox_program *p, struct err *e)
{
	if (state == SEAL_NOT_CALLED)
		return err_set(e, EINVAL, "a thread is sealed before its process");
	if (state == SEAL_COMPILED && p->count == 0)
		return err_set(e, EINVAL, "a thread is sealed that seal_process() was not told of");
	return state == SEAL_COMPILED ? sandbox_load(p, e) : 0;
}

int seal_loop_thread(struct err *e)
{
	return seal_thread(&loop_program, e);
}

int seal_vcpu_thread(struct err *e)
{
	return seal_thread(&vcpu_program, e);
}

int seal_wait_thread(struct err *e)
{
	return seal_thread(&wait_program, e);
}

int seal_carrier_thread(struct err *e)
{
	return seal_thread(&carrier_program, e);
}

int seal_return_thread(struct err *e)
{
	return seal_thread(&return_program, e);
}

void seal_print(FILE *out)
{
	sandbox_print(&loop_spec, "loop\t", out);
	sandbox_print(&vcpu_spec, "vcpu\t", out);
	sandbox_print(&wait_spec, "wait\t", out);
	sandbox_print(&carrier_spec, "carrier\t", out);
	sandbox_print(&return_spec, "return\t", out);
}
