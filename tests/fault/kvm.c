// SPDX-License-Identifier: BSD-2-Clause
// The whole machine on a KVM that fails: every request of the build in turn (K01, K02), every way out of KVM_RUN (K03), no descriptor
// (R01) and no memory (R02) at each place that wants one.  Afterwards nothing is left, and there is one sentence.
#include "tests/unit/child.h"
#include "tests/unit/fake_backend.h"
#include "tests/unit/fake_kvm.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/seal.h"
#include "vmm/signals.h"
#include "vmm/vcpu.h"
#include "vmm/virtio_pci.h"
#include "vmm/vm.h"

#include <dirent.h>
#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

// ---- what the machine asks of the system ------------------------------------------------------------------------

static int open_error; // of /dev/kvm

int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	unsigned mode = flags & O_CREAT ? va_arg(ap, unsigned) : 0;
	va_end(ap);
	if (strcmp(path, "/dev/kvm") != 0)
		return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	if (open_error)
		return fake_no(open_error);
	return memfd_create("fake kvm", MFD_CLOEXEC);
}

// The monitor's sandbox is for good, and this program has many machines.
int seal_vcpu_thread(struct err *e)
{
	(void)e;
	return 0;
}

static atomic_uint allocations, allocation_fails; // the one that fails, from 1

#ifdef __SANITIZE_ADDRESS__
#define CAN_FAIL_ALLOCATIONS true

void *__interceptor_malloc(size_t size);
void *__interceptor_calloc(size_t count, size_t size);
void *__interceptor_realloc(void *p, size_t size);

static bool allocation_refused(void)
{
	return allocation_fails && atomic_fetch_add(&allocations, 1) + 1 == allocation_fails;
}

void *malloc(size_t size)
{
	return allocation_refused() ? NULL : __interceptor_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return allocation_refused() ? NULL : __interceptor_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
	return allocation_refused() ? NULL : __interceptor_realloc(p, size);
}
#else
#define CAN_FAIL_ALLOCATIONS false
#endif

// ---- a machine --------------------------------------------------------------------------------------------------

#define CODE UINT64_C(0x100000)

static struct vm vm;
static struct err err;
static struct fake_backend fb;
static struct vm_config config;
static char kernel_name[16], pty_name[] = "pty";

__attribute__((constructor)) static void kernel_make(void)
{
	alarm(50); // a machine that does not stop: the default action ends the test
	static const struct {
		Elf64_Ehdr head;
		Elf64_Phdr load;
		uint8_t code[16];
	} image = {
		.head = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				       EV_CURRENT },
			  .e_type = ET_EXEC,
			  .e_machine = EM_X86_64,
			  .e_version = EV_CURRENT,
			  .e_entry = CODE,
			  .e_phoff = sizeof(Elf64_Ehdr),
			  .e_ehsize = sizeof(Elf64_Ehdr),
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = 1 },
		.load = { .p_type = PT_LOAD,
			  .p_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
			  .p_vaddr = CODE,
			  .p_paddr = CODE,
			  .p_filesz = 16,
			  .p_memsz = 16,
			  .p_align = 1 },
		.code = { 0xf4, 0xeb, 0xfd },
	};
	int fd = memfd_create("kernel", MFD_CLOEXEC);
	if (fd < 0 || write(fd, &image, sizeof(image)) != (ssize_t)sizeof(image))
		abort();
	snprintf(kernel_name, sizeof(kernel_name), "fd:%d", fd);
	config = (struct vm_config){ .name = "t",
				     .cpus = 2,
				     .memory = 8 << 20,
				     .kernel = kernel_name,
				     .cmdline = "",
				     .serial_to = pty_name,
				     .on_reboot = REBOOT_EXIT };
}

static unsigned threads(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/task");
	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n - 2;
}

#ifdef __SANITIZE_THREAD__
#define THREADS 2 // the sanitizer has one of its own
#else
#define THREADS 1
#endif

static bool mapped(const char *what)
{
	char line[512];
	bool found = false;
	FILE *f = fopen("/proc/self/maps", "r");
	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, what) != NULL;
	if (f)
		fclose(f);
	return found;
}

static int device_plug(void)
{
	const struct virtio_pci_host vh = { .kvm = &vm.kvm, .irq = &vm.irq, .memory = &vm.memory };
	struct pci_func *f;
	fb_init(&fb, &vm.memory, 2, 8);
	int rc = virtio_pci_create(&f, &fb.b, &vh, &err);
	if (rc < 0)
		return rc;
	rc = pci_host_plug(&vm.pci, f, -1, &err);
	if (rc < 0)
		f->ops->destroy(f);
	return rc;
}

static int build(void)
{
	err.text[0] = '\0';
	int rc = vm_init(&vm, &config, &err);
	if (rc == 0)
		rc = vm_build(&vm, &err);
	if (rc == 0)
		rc = device_plug();
	if (rc == 0)
		rc = vm_prepare(&vm, &err);
	return rc;
}

// Takes it down; true if nothing is left.
static bool gone(uint64_t fds)
{
	vm_destroy(&vm);
	fake_reset();
	bool good = fds_open() == fds && !mapped("guest-ram") && !mapped("fake vcpu");
	for (int i = 0; i < 50 && threads() > THREADS; i++)
		sleep_ms(1); // a joined thread leaves /proc a moment later
	good &= threads() <= THREADS;
	if (!good)
		printf("fds %#llx, were %#llx; %u threads; RAM %d, vCPU %d\n", (unsigned long long)fds_open(),
		       (unsigned long long)fds, threads(), mapped("guest-ram"), mapped("fake vcpu"));
	return good;
}

static bool one_sentence(void)
{
	bool good = err.text[0] && !strchr(err.text, '\n') && strlen(err.text) < 300;
	if (!good)
		printf("the sentence: \"%s\"\n", err.text);
	return good;
}

static int hush_saved = -1, hush_null = -1;

static void hush(bool on)
{
	if (hush_null < 0) {
		hush_null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		hush_saved = fcntl(2, F_DUPFD_CLOEXEC, 3);
	}
	dup2(on ? hush_null : hush_saved, 2);
}

// ---- K01, K02 ---------------------------------------------------------------------------------------------------

TEST(no_kvm)
{
	static const struct {
		int error;
		const char *mend;
	} cases[] = { { ENOENT, "load kvm_intel or kvm_amd" },
		      { EACCES, "add yourself to the group that owns it" },
		      { ENODEV, "" } };
	hush(true);
	uint64_t fds = fds_open();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		open_error = cases[i].error;
		int rc = build();
		open_error = 0;
		CHECK(gone(fds));
		CHECK_EQ(rc, (unsigned long long)-cases[i].error);
		CHECK(strstr(err.text, "/dev/kvm") && strstr(err.text, cases[i].mend));
		CHECK(strstr(err.text, strerror(cases[i].error)) != NULL);
	}
	hush(false);
}

TEST(a_kvm_that_lacks_something)
{
	static const struct {
		int capability;
		const char *name;
	} needed[] = { { KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		       { KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		       { KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
		       { KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
		       { KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
		       { KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" } };
	hush(true);
	uint64_t fds = fds_open();
	for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
		fake.fail_capability = needed[i].capability;
		CHECK_EQ(build(), (unsigned long long)-ENOTSUP);
		CHECK(strstr(err.text, needed[i].name) != NULL);
		CHECK(gone(fds));
	}
	fake.fail_request = KVM_GET_API_VERSION;
	CHECK(build() < 0);
	CHECK(strncmp(err.text, "/dev/kvm: ", 10) == 0);
	CHECK(gone(fds));
	fake.fail_request = KVM_GET_VCPU_MMAP_SIZE;
	CHECK(build() < 0);
	CHECK(one_sentence());
	CHECK(gone(fds));
	config.cpus = 513;
	CHECK_EQ(build(), (unsigned long long)-EINVAL);
	CHECK_STR(err.text, "vm.cpus: 513; this host's KVM makes 512 at most");
	config.cpus = 2;
	CHECK(gone(fds));
	hush(false);
}

// What may fail without harm: an optional capability, MSRs that a KVM does not have.
static bool optional(unsigned long request)
{
	return request == KVM_CHECK_EXTENSION || request == KVM_ENABLE_CAP || request == KVM_SET_MSRS;
}

TEST(every_request_of_the_build_fails_in_turn)
{
	static const int errors[] = { EIO, ENOMEM, EINTR };
	hush(true);
	uint64_t fds = fds_open();
	for (size_t e = 0; e < ARRAY_LEN(errors); e++) {
		unsigned refused = 0, n = 0;
		for (n = 1; n < 500; n++) {
			fake.fail_call = n;
			fake.fail_error = errors[e];
			int rc = build();
			bool failed = fake.calls >= n;
			unsigned long request = fake.failed;
			if (failed && rc == 0 && !optional(request) &&
			    !(request == KVM_CREATE_VM && errors[e] == EINTR))
				printf("call %u, request %#lx: not noticed\n", n, request);
			CHECK(!failed || rc < 0 || optional(request) || request == KVM_CREATE_VM);
			CHECK(rc == 0 || one_sentence());
			CHECK(gone(fds));
			refused += rc < 0;
			if (!failed)
				break;
		}
		CHECK(n > 30 && n < 500);
		CHECK(refused >= 20);
	}
	hush(false);
}

TEST(more_than_255_cpus_get_the_x2apic_format_before_their_vcpus)
{
	hush(true);
	uint64_t fds = fds_open();
	config.cpus = 300;
	int rc = vm_init(&vm, &config, &err);
	if (rc == 0)
		rc = vm_build(&vm, &err);
	config.cpus = 2;
	unsigned formats = fake.x2apic_formats;
	bool wide = vm.irq.wide_destinations;
	CHECK(gone(fds));
	hush(false);
	CHECK_EQ(rc, 0);
	CHECK_EQ(formats, 1);
	CHECK(wide);
}

TEST(boot_files_that_are_not_there)
{
	static const struct {
		const char *kernel, *initrd, *says;
	} cases[] = { { "/nonexistent/k", NULL,
			"boot.kernel: open /nonexistent/k: No such file or directory" },
		      { kernel_name, "/nonexistent/i",
			"boot.initrd: open /nonexistent/i: No such file or directory" },
		      { "/dev/null", NULL, NULL },
		      { "/proc", NULL, NULL } };
	char fifo[64];
	snprintf(fifo, sizeof(fifo), "/tmp/minivmm-fifo.%d", (int)getpid());
	hush(true);
	uint64_t fds = fds_open();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		config.kernel = cases[i].kernel;
		config.initrd = cases[i].initrd;
		CHECK(build() < 0);
		CHECK(one_sentence());
		if (cases[i].says)
			CHECK_STR(err.text, cases[i].says);
		CHECK(gone(fds));
	}
	config.initrd = NULL;
	// Nobody will ever write to it: refused, not waited for.
	config.kernel = fifo;
	CHECK_EQ(mkfifo(fifo, 0600), 0);
	int rc = build();
	unlink(fifo);
	config.kernel = kernel_name;
	CHECK(rc < 0);
	CHECK(one_sentence());
	CHECK(gone(fds));
	hush(false);
}

// Descriptor 0 is the user's, however early the machine fails.
TEST(standard_input_survives)
{
	CHECK_EQ(vm_init(&vm, &config, &err), 0);
	vm_destroy(&vm);
	CHECK(fcntl(0, F_GETFD) >= 0);
	fake_reset();
}

// ---- R01, R02 ---------------------------------------------------------------------------------------------------

static int limited(void)
{
	struct rlimit limit;
	uint64_t fds = fds_open();
	unsigned refused = 0;
	getrlimit(RLIMIT_NOFILE, &limit);
	for (unsigned spare = 0; spare < 40; spare++) {
		int first = dup(0);
		close(first);
		limit.rlim_cur = (rlim_t)first + spare;
		setrlimit(RLIMIT_NOFILE, &limit);
		int rc = build();
		bool sentence = rc == 0 || one_sentence();
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
		if (!gone(fds))
			return 1;
		if (!sentence)
			return 2;
		if (rc == 0)
			return refused >= 10 ? 0 : 3;
		if (rc != -EMFILE && rc != -ENFILE)
			return 4;
		refused++;
	}
	return 5;
}

TEST(descriptors_run_out_at_each_place)
{
	hush(true);
	int rc = in_fork(limited);
	hush(false);
	CHECK_EQ(rc, 0);
}

TEST(memory_runs_out_at_each_place)
{
	if (!CAN_FAIL_ALLOCATIONS)
		SKIP("allocations are made to fail in MODE=asan only");
	hush(true);
	uint64_t fds = fds_open();
	unsigned n, refused = 0;
	for (n = 1; n < 200; n++) {
		allocations = 0;
		allocation_fails = n;
		int rc = build();
		bool failed = allocations >= n;
		allocation_fails = 0;
		CHECK(!failed || rc < 0);
		CHECK(rc == 0 || one_sentence());
		CHECK(gone(fds));
		refused += rc < 0;
		if (!failed)
			break;
	}
	hush(false);
	CHECK(n < 200);
	CHECK(refused >= 7);
}

TEST(running_allocates_nothing)
{
	hush(true);
	uint64_t fds = fds_open();
	CHECK_EQ(build(), 0);
	allocations = 0;
	allocation_fails = UINT32_MAX;
	fake.run = NULL;
	vm_post_event(&vm, VM_QUIT);
	enum vm_event event = vm_run(&vm);
	allocation_fails = 0;
	CHECK_EQ(event, VM_QUIT);
	CHECK_EQ(allocations, 0);
	CHECK(gone(fds));
	hush(false);
}

// ---- K03 --------------------------------------------------------------------------------------------------------

static atomic_uint runs; // of CPU 0
static unsigned script;	 // which of the cases
static uint64_t seen_value;

struct way_out {
	const char *name;
	int error;	     // of KVM_RUN, 0: returns
	uint32_t reason;     // exit_reason
	uint32_t detail;     // what the reason carries
	enum vm_event event; // that the machine ends with
	const char *says;    // in the log, or NULL
};

static const struct way_out ways[] = {
	{ "EFAULT", EFAULT, 0, 0, VM_CRASH, "CPU 0: KVM_RUN: Bad address" },
	{ "EIO", EIO, 0, 0, VM_CRASH, "CPU 0: KVM_RUN: Input/output error" },
	{ "ENOSYS", ENOSYS, 0, 0, VM_CRASH, "KVM_RUN: Function not implemented" },
	{ "memory fault", EFAULT, KVM_EXIT_MEMORY_FAULT, 0, VM_CRASH,
	  "guest memory that the host could not provide" },
	{ "fail entry", 0, KVM_EXIT_FAIL_ENTRY, 0x80000021, VM_CRASH,
	  "refused to enter the guest, reason 0x80000021" },
	{ "internal error", 0, KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION, VM_CRASH,
	  "KVM internal error 1 (an instruction that this host's KVM cannot emulate)" },
	{ "unknown exit", 0, KVM_EXIT_UNKNOWN, 0, VM_CRASH, "KVM exit 0, which this monitor does not know" },
	{ "exit of the future", 0, 7777, 0, VM_CRASH, "KVM exit 7777" },
	{ "debug", 0, KVM_EXIT_DEBUG, 0, VM_CRASH, "KVM exit 4" },
	{ "triple fault", 0, KVM_EXIT_SHUTDOWN, 0, VM_REBOOT, NULL },
	{ "shutdown event", 0, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_SHUTDOWN, VM_POWEROFF, NULL },
	{ "reset event", 0, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_RESET, VM_REBOOT, NULL },
	{ "crash event", 0, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_CRASH, VM_CRASH,
	  "the guest reported a crash" },
};

static int way_run(unsigned index, struct kvm_run *r)
{
	const struct way_out *w = &ways[script];
	if (index != 0)
		return fake_wait(r);
	unsigned n = atomic_fetch_add(&runs, 1);
	if (n < 10) {
		r->exit_reason = KVM_EXIT_INTR; // and the three harmless ways first
		return n % 3 == 0 ? fake_no(EINTR) : n % 3 == 1 ? fake_no(EAGAIN) : 0;
	}
	r->exit_reason = w->reason;
	if (w->reason == KVM_EXIT_FAIL_ENTRY)
		r->fail_entry.hardware_entry_failure_reason = w->detail;
	else if (w->reason == KVM_EXIT_INTERNAL_ERROR)
		r->internal.suberror = w->detail;
	else if (w->reason == KVM_EXIT_SYSTEM_EVENT)
		r->system_event.type = w->detail;
	return w->error ? fake_no(w->error) : 0;
}

TEST(every_way_out_of_kvm_run)
{
	hush(true);
	uint64_t fds = fds_open();
	hush(false);
	for (script = 0; script < ARRAY_LEN(ways); script++) {
		hush(true);
		CHECK_EQ(build(), 0);
		hush(false);
		fake.run = way_run;
		atomic_store(&runs, 0);
		capture();
		int64_t begin = now_ms();
		enum vm_event event = vm_run(&vm);
		int64_t took = now_ms() - begin;
		const char *log = captured();
		if (event != ways[script].event || (ways[script].says && !strstr(log, ways[script].says)))
			printf("%s: event %d, log: %s\n", ways[script].name, (int)event, log);
		CHECK_EQ(event, ways[script].event);
		CHECK(!ways[script].says || strstr(log, ways[script].says));
		CHECK(event != VM_CRASH || strstr(log, "rip "));
		CHECK(took < 1000);
		CHECK_EQ(atomic_load(&runs), 11); // not once more
		CHECK(gone(fds));
	}
}

static unsigned lost;

static bool lose(struct bus_range *r)
{
	(void)r;
	return ++lost == 1;
}

static int lost_run(unsigned index, struct kvm_run *r)
{
	const uint64_t fault[] = { 0, UINT64_C(0xc0001234), 0x1000 };
	if (index != 0)
		return fake_wait(r);
	atomic_fetch_add(&runs, 1);
	r->exit_reason = KVM_EXIT_MEMORY_FAULT;
	memcpy(&r->hw, fault, sizeof(fault));
	return fake_no(EFAULT);
}

// Memory of a device's that is gone is that device's matter once; if it is met again, nobody took it away.
TEST(memory_of_a_device_that_is_lost)
{
	struct bus_range r = { .start = 0xc0001000, .size = 0x1000, .name = "lost", .fault = lose };
	hush(true);
	uint64_t fds = fds_open();
	CHECK_EQ(build(), 0);
	CHECK_EQ(bus_add(&vm.mmio, &r), 0);
	atomic_store(&runs, 0);
	lost = 0;
	fake.run = lost_run;
	CHECK_EQ(vm_run(&vm), VM_CRASH);
	CHECK_EQ(atomic_load(&runs), 2);
	CHECK_EQ(lost, 2);
	bus_remove(&vm.mmio, &r);
	CHECK(gone(fds));
	hush(false);
}

// A KVM that says EAGAIN for ever costs its own CPU, and still stops when told to.
static int again_run(unsigned index, struct kvm_run *r)
{
	(void)index;
	if (__atomic_load_n(&r->immediate_exit, __ATOMIC_SEQ_CST))
		return fake_no(EINTR);
	if (atomic_fetch_add(&runs, 1) == 1000)
		vm_post_event(&vm, VM_QUIT);
	return fake_no(EAGAIN);
}

TEST(eagain_for_ever_can_be_stopped)
{
	hush(true);
	uint64_t fds = fds_open();
	CHECK_EQ(build(), 0);
	atomic_store(&runs, 0);
	fake.run = again_run;
	int64_t begin = now_ms();
	CHECK_EQ(vm_run(&vm), VM_QUIT);
	CHECK(now_ms() - begin < 1000);
	CHECK(gone(fds));
	hush(false);
}

// What the guest's instructions become: port and memory accesses, of every size and into nothing.
static int access_run(unsigned index, struct kvm_run *r)
{
	static const struct {
		uint64_t gpa;
		unsigned len;
		bool write;
	} accesses[] = { { 0x10, 4, false },	   { UINT64_MAX, 8, true },  { UINT64_MAX - 7, 8, false },
			 { 0xe8000000, 4, false }, { 0xe8008000, 2, false }, { 0xdeadbeef, 1, true } };
	if (index != 0)
		return fake_wait(r);
	unsigned n = atomic_fetch_add(&runs, 1);
	if (n == 4)
		memcpy(&seen_value, r->mmio.data, 4);
	if (n < ARRAY_LEN(accesses)) {
		r->exit_reason = KVM_EXIT_MMIO;
		r->mmio.phys_addr = accesses[n].gpa;
		r->mmio.len = accesses[n].len;
		r->mmio.is_write = accesses[n].write;
		memset(r->mmio.data, 0, 8);
		return 0;
	}
	r->exit_reason = KVM_EXIT_IO;
	r->io.data_offset = 4096;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;
	if (n < 200000) { // G29: all ports; but not those that end the machine
		unsigned port = n % 65536;
		r->io.port = (uint16_t)port;
		r->io.size = (uint8_t)(1u << n / 65536);
		r->io.count = n % 1000 == 0 ? 4096u / r->io.size : 1; // REP
		bool ends = port + 4 > 0x60 && port <= 0x64;
		ends |= port + 4 > 0x600 && port < 0x604;
		r->io.direction = n % 2 || ends ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
		return 0;
	}
	r->io.direction = KVM_EXIT_IO_OUT;
	r->io.port = 0x600;
	r->io.size = 1;
	r->io.count = 1;
	*data = 0x34; // sleep type 5, enable
	return 0;
}

TEST(accesses_to_all_ports_and_to_nothing)
{
	hush(true);
	uint64_t fds = fds_open();
	CHECK_EQ(build(), 0);
	atomic_store(&runs, 0);
	fake.run = access_run;
	CHECK_EQ(vm_run(&vm), VM_POWEROFF);
	CHECK_EQ(seen_value, 0x00081b36); // the host bridge, by ECAM
	CHECK(gone(fds));
	hush(false);
}

// ---- pause, reboot, dump ----------------------------------------------------------------------------------------

static atomic_uint boots[2];

// Both CPUs ask for the reset at once, several times over; then the first powers off.
static int reboot_run(unsigned index, struct kvm_run *r)
{
	if (__atomic_load_n(&r->immediate_exit, __ATOMIC_SEQ_CST))
		return fake_no(EINTR);
	unsigned n = atomic_fetch_add(&boots[index], 1);
	r->exit_reason = n < 40 ? KVM_EXIT_SHUTDOWN : KVM_EXIT_SYSTEM_EVENT;
	if (n >= 40)
		r->system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
	if (index == 1 && n % 4 == 1)
		sched_yield();
	return 0;
}

TEST(reboots_that_two_cpus_ask_for)
{
	hush(true);
	uint64_t fds = fds_open();
	config.on_reboot = REBOOT_RESTART;
	for (unsigned i = 0; i < 5; i++) {
		atomic_store(&boots[0], 0);
		atomic_store(&boots[1], 0);
		CHECK_EQ(build(), 0);
		fake.run = reboot_run;
		CHECK_EQ(vm_run(&vm), VM_POWEROFF);
		CHECK(fake.irqchips >= 20); // a KVM VM each
		CHECK(gone(fds));
	}
	config.on_reboot = REBOOT_EXIT;
	hush(false);
}

// A request of the second boot fails: the machine ends, in order.
TEST(every_request_of_a_reboot_fails_in_turn)
{
	hush(true);
	uint64_t fds = fds_open();
	config.on_reboot = REBOOT_RESTART;
	unsigned n, crashes = 0;
	for (n = 1; n < 200; n++) {
		atomic_store(&boots[0], 39); // one reboot only
		atomic_store(&boots[1], 1000000);
		CHECK_EQ(build(), 0);
		fake.run = reboot_run;
		atomic_store(&boots[1], 39);
		fake.fail_call = fake.calls + 1 + n;
		enum vm_event event = vm_run(&vm);
		bool failed = fake.failed != 0;
		CHECK(event == VM_CRASH || event == VM_POWEROFF);
		CHECK(event == VM_POWEROFF || failed);
		crashes += event == VM_CRASH;
		CHECK(gone(fds));
		if (!failed)
			break;
	}
	config.on_reboot = REBOOT_EXIT;
	hush(false);
	CHECK(n > 10 && n < 200);
	CHECK(crashes >= 8);
}

static atomic_bool dumping;

static void *ender(void *arg)
{
	(void)arg;
	sleep_ms(60);
	vm_post_event(&vm, VM_QUIT);
	return NULL;
}

static void dump_ready(struct loop_source *s, uint32_t events)
{
	(void)s, (void)events;
	if (atomic_load(&dumping))
		vm_dump(&vm); // again and again
}

TEST(dumps_while_it_runs)
{
	pthread_t thread;
	hush(true);
	uint64_t fds = fds_open();
	CHECK_EQ(build(), 0);
	struct loop_source s = { .fd = fd_eventfd(), .ready = dump_ready };
	fd_event_signal(s.fd);
	CHECK_EQ(loop_add(&vm.loop, &s, EPOLLIN), 0);
	atomic_store(&dumping, true);
	CHECK_EQ(pthread_create(&thread, NULL, ender, NULL), 0);
	enum vm_event event = vm_run(&vm);
	pthread_join(thread, NULL);
	loop_remove(&vm.loop, &s);
	close(s.fd);
	CHECK_EQ(event, VM_QUIT);
	CHECK(gone(fds));
	hush(false);
}

// ---- signals ----------------------------------------------------------------------------------------------------

static int signal_run(int first, int second, unsigned want_button)
{
	struct signals s;
	signals_block();
	if (build() < 0 || signals_watch(&s, &vm, &err) < 0)
		return 50;
	int64_t begin = now_ms();
	kill(getpid(), first);
	if (second) {
		while (!fake.pins_set && now_ms() - begin < 1000)
			loop_once(&vm.loop, 10);
		if (fake.pins_set != 2 * want_button) // one pulse
			return 51;
		uint64_t val = 0;
		bus_read(&vm.pio, 0x603, 1, &val);
		if ((val != 0) != (want_button != 0))
			return 52;
		kill(getpid(), second);
	}
	enum vm_event event = vm_run(&vm);
	if (now_ms() - begin > 1500)
		return 53;
	vm_destroy(&vm);
	return (int)event;
}

static int term_twice(void)
{
	return signal_run(SIGTERM, SIGTERM, 1);
}

static int term_then_int(void)
{
	return signal_run(SIGTERM, SIGINT, 1);
}

static int interrupt(void)
{
	return signal_run(SIGINT, 0, 0);
}

static int hang_up(void)
{
	return signal_run(SIGHUP, 0, 0);
}

// P05
TEST(signals)
{
	hush(true);
	int ends[] = { in_fork(term_twice), in_fork(term_then_int), in_fork(interrupt), in_fork(hang_up) };
	hush(false);
	for (size_t i = 0; i < ARRAY_LEN(ends); i++)
		CHECK_EQ(ends[i], VM_QUIT);
}
