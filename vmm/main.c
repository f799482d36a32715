// SPDX-License-Identifier: BSD-2-Clause
// minivmm: arguments -> configuration -> build -> run.  The order of set-up is readable in run_machine().
//
// The only file where the monitor and the bridges meet.
#include "bridges/bridges.h"
#include "bridges/passthrough.h"
#include "bridges/probe.h"
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/landlock.h"
#include "vmm/base/log.h"
#include "vmm/base/parse.h"
#include "vmm/base/virtio_id.h"
#include "vmm/base/virtio_pci_regs.h"
#include "vmm/bind.h"
#include "vmm/cgroup.h"
#include "vmm/config.h"
#include "vmm/ctl.h"
#include "vmm/doctor.h"
#include "vmm/explain.h"
#include "vmm/seal.h"
#include "vmm/signals.h"
#include "vmm/virtio_pci.h"
#include "vmm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_GOOD = 0, EXIT_MACHINE = 1, EXIT_USAGE = 2 };

static const char help[] =
	"usage: minivmm -c FILE [--check] [--set KEY=VALUE]... [-v | -q]\n"
	"       minivmm explain -c FILE [--set KEY=VALUE]... [-v]\n"
	"       minivmm probe [--virtio TYPE | --vfio-user] SOCKET\n"
	"       minivmm ctl SOCKET COMMAND...\n"
	"       minivmm doctor\n"
	"       minivmm bind | unbind [--dry-run] ADDRESS...\n"
	"\n"
	"  -c, --config FILE    run the machine that FILE (TOML; - standard input, fd:N) describes\n"
	"      --check          only check FILE: says ok, or every error\n"
	"      --set KEY=VALUE  instead of the file's: vm.memory=1G, device.disk0.image=b.raw\n"
	"  -v, -q               say more (twice: everything), or errors only\n"
	"      --version, --help\n"
	"explain  what the machine would consist of: processes with their privileges and\n"
	"         limits, devices with what they give and cost; -v: each system call's reason\n"
	"ctl      to a machine at its vm.control: status, pause, resume, quit, device list, ...\n"
	"probe    what the back-end at SOCKET offers, what minivmm would use of it as a device\n"
	"         of TYPE (blk, net, fs, ... or a number), what not and why\n"
	"doctor   what this host can do (KVM, vhost, vDPA, VFIO, limits), and the mends\n"
	"bind     gives functions (0000:01:00.0) to vfio-pci, and shows what the host loses\n"
	"\n"
	"Serial port on stdio: Ctrl-A x quits, Ctrl-A h helps. SIGTERM: power button; again\n"
	"within 5 s, or SIGINT: the end at once. SIGUSR1 logs the registers of every CPU.\n"
	"Exit status: 0 the guest powered off, or yes to what was asked; 1 the machine failed,\n"
	"or no; 2 wrong usage or configuration. Examples: README.md, configs/.\n";

struct options {
	const char *config;
	bool check, explain;
	const char **sets;
	unsigned set_count;
	int loudness;
};

static int usage_error(const char *what, const char *arg)
{
	fprintf(stderr, "minivmm: %s%s (see minivmm --help)\n", what, arg);
	return EXIT_USAGE;
}

// -1: go on; else the exit status.
static int options_parse(struct options *o, int argc, char **argv)
{
	enum { OPT_CHECK = 256, OPT_SET, OPT_VERSION, OPT_HELP, OPT_PRINT_SYSCALLS };
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, OPT_CHECK },
		{ "set", required_argument, NULL, OPT_SET },
		{ "verbose", no_argument, NULL, 'v' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ "help", no_argument, NULL, OPT_HELP },
		{ "print-syscalls", no_argument, NULL, OPT_PRINT_SYSCALLS }, // for the tests
		{ 0 },
	};
	opterr = 0;
	int c;
	while ((c = getopt_long(argc, argv, ":c:vqh", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case OPT_CHECK:
			o->check = true;
			break;
		case OPT_SET:
			o->sets[o->set_count++] = optarg;
			break;
		case 'v':
			o->loudness++;
			break;
		case 'q':
			o->loudness = -1;
			break;
		case OPT_VERSION:
			puts("minivmm " MINIVMM_VERSION);
			return EXIT_GOOD;
		case OPT_PRINT_SYSCALLS:
			seal_print(stdout);
			return EXIT_GOOD;
		case 'h':
		case OPT_HELP:
			fputs(help, stdout);
			return EXIT_GOOD;
		case ':':
			return usage_error("a value is missing after ", argv[optind - 1]);
		default:
			return usage_error("unknown option ", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return usage_error(o->config ? "unexpected argument "
					     : "a configuration goes behind -c; unexpected argument ",
				   argv[optind]);
	if (!o->config)
		return usage_error("which machine? Give its configuration with -c FILE", "");
	return -1;
}

// The folder that this program lies in: its device programs are beside it.
static const char *program_dir(char *buf, size_t len)
{
	ssize_t n = readlink("/proc/self/exe", buf, len - 1);
	if (n <= 0)
		return NULL;
	buf[n] = '\0';
	char *slash = strrchr(buf, '/');
	if (!slash)
		return NULL;
	*slash = '\0';
	return buf;
}

static int function_of_backend(struct vm *vm, struct pci_func **f, struct backend *b, struct err *e)
{
	const struct virtio_pci_host host = { .kvm = &vm->kvm, .irq = &vm->irq, .memory = &vm->memory };
	int rc = virtio_pci_create(f, b, &host, e);
	if (rc < 0)
		b->ops->close(b);
	return rc;
}

static int function_of_link(struct vm *vm, struct pci_func **f, struct vfio_link *l, struct err *e)
{
	const struct passthrough_host host = {
		.kvm = &vm->kvm, .irq = &vm->irq, .loop = &vm->loop, .memory = &vm->memory
	};
	vm->memory.pinned |= l->pins_memory;
	// The kernel resets a device that is opened; a server, which outlives its clients, may still work for a guest that was.
	int rc = l->can_reset && !l->pins_memory ? l->ops->reset(l) : 0;
	if (rc < 0)
		err_set(e, -rc, "%s: reset: %s", l->id, err_text(-rc));
	else
		rc = passthrough_create(f, l, &host, e);
	if (rc < 0)
		l->ops->close(l);
	return rc;
}

// The second half of a device: from its bridge to a PCI function on the bus.
static int device_plug(struct vm *vm, struct bridge_pending *p, struct err *e)
{
	int slot = p->cfg->slot;
	struct bridge_end end;
	struct pci_func *f;
	int rc = bridge_finish(&end, p, e);
	if (rc < 0)
		return rc;
	rc = end.link ? function_of_link(vm, &f, end.link, e) : function_of_backend(vm, &f, end.backend, e);
	if (rc < 0)
		return rc;
	rc = pci_host_plug(&vm->pci, f, slot, e);
	if (rc < 0)
		f->ops->destroy(f);
	return rc;
}

// Functions with a slot of their own go first, so that none of the others takes it.
static int devices_plug(struct vm *vm, struct bridge_pending *pending, unsigned count, struct err *e)
{
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < count; i++) {
			struct bridge_pending *p = &pending[i];
			if (!p->cfg || (p->cfg->slot < 0) != (pass == 1))
				continue;
			int rc = device_plug(vm, p, e);
			p->cfg = NULL;
			if (rc < 0)
				return rc;
		}
	return 0;
}

// The devices' processes start while the machine is built, then each is shaken hands with.
static int machine_build(struct vm *vm, struct bridge_host *host, struct err *e)
{
	const struct vm_config *c = vm->config;
	struct bridge_pending pending[CONFIG_DEVICES_MAX] = { 0 };
	char dir[PATH_MAX];
	host->loop = &vm->loop;
	host->program_dir = program_dir(dir, sizeof(dir));
	host->start_deadline = deadline_in_ms(DEADLINE_START_MS);
	host->memory = c->memory;
	host->insecure = c->insecure;
	host->config = c;
	host->seal_thread = seal_wait_thread;
	host->seal_carrier = seal_carrier_thread;
	host->seal_return = seal_return_thread;
	int rc = 0;
	for (unsigned i = 0; rc == 0 && i < c->device_count; i++) {
		rc = bridge_start(&pending[i], &c->devices[i], host, e);
		if (rc < 0)
			pending[i].cfg = NULL;
	}
	if (rc == 0)
		rc = vm_build(vm, e);
	if (rc == 0)
		host->ram = &vm->memory.ram, host->kvm = &vm->kvm;
	if (rc == 0)
		rc = devices_plug(vm, pending, c->device_count, e);
	for (unsigned i = 0; i < c->device_count; i++)
		if (pending[i].cfg)
			bridge_abandon(&pending[i]);
	host->program_dir = NULL;
	return rc < 0 ? rc : bridges_spawner(host, e);
}

static int seal(const struct vm_config *c, struct err *e)
{
	if (landlock_version() == 0)
		log_warn("no Landlock in this kernel: for minivmm and its devices the other walls hold alone "
			 "(minivmm explain)");
	bool carries = false;
	for (unsigned i = 0; i < c->device_count; i++)
		carries |= c->devices[i].via == VIA_VFIO_USER;
	fd_peer_signals_at_need();
	int rc = seal_process(c->device_count > 0, carries, e);
	if (rc < 0 && c->insecure) {
		log_warn("the monitor is NOT sealed: %s", e->text);
		return 0;
	}
	return rc;
}

// Before anything is started: what is may be in the way of cgroups.
static int limits_make(struct cgroups *g, struct bridge_host *host, const struct vm_config *c, struct err *e)
{
	int rc = cgroups_make(g, c, e);
	if (rc == 0)
		host->cgroups = g;
	else if (c->insecure)
		log_warn("devices WITHOUT their limits: %s", e->text);
	return c->insecure ? 0 : rc;
}

static int run_machine(const struct vm_config *config)
{
	struct err e = { 0 };
	static struct vm vm;
	static struct bridge_host host;
	struct cgroups cgroups;
	struct signals signals;
	enum vm_event event = VM_CRASH;

	signals_block();
	bridges_init(&host);
	cgroups_init(&cgroups);
	int rc = vm_init(&vm, config, &e);
	if (rc == 0)
		rc = limits_make(&cgroups, &host, config, &e);
	if (rc == 0)
		rc = machine_build(&vm, &host, &e);
	cgroups_forget(&cgroups);
	if (rc == 0)
		rc = signals_watch(&signals, &vm, &e);
	if (rc == 0)
		rc = seal(config, &e);
	if (rc == 0)
		rc = vm_prepare(&vm, &e);
	if (rc == 0)
		rc = bridges_keep(&host, &e);
	if (rc == 0)
		rc = seal_loop_thread(&e);
	if (rc < 0)
		log_error("%s", e.text);
	else
		event = vm_run(&vm);
	bridges_leave(&host);
	vm_destroy(&vm);
	bridges_free(&host);
	cgroups_remove(&cgroups);
	return event == VM_CRASH ? EXIT_MACHINE : EXIT_GOOD;
}

// minivmm explain: nothing is opened or started.
static int explain(const struct vm_config *c, bool reasons)
{
	char dir[PATH_MAX];
	struct arena texts = { 0 };
	struct err e = { 0 };
	static struct explain_device devices[CONFIG_DEVICES_MAX];
	struct bridge_host host = { .program_dir = program_dir(dir, sizeof(dir)),
				    .memory = c->memory,
				    .insecure = c->insecure };
	int rc = 0;
	for (unsigned i = 0; i < c->device_count && rc == 0; i++)
		rc = bridge_describe(&devices[i], &c->devices[i], &host, &texts, &e);
	if (rc < 0)
		log_error("%s", e.text);
	else
		explain_print(c, devices, c->device_count, reasons, stdout);
	arena_free(&texts);
	return rc < 0 ? EXIT_MACHINE : EXIT_GOOD;
}

// Whoever started us with a standard descriptor closed would have the guest's console go to whatever we open next.
static bool standard_fds_fill(void)
{
	int fd;
	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

// A name or a number; 0 for neither.
static uint16_t virtio_type_of(const char *text)
{
	uint64_t n;
	return parse_uint(text, VIRTIO_TYPE_MAX, &n) == 0 ? (uint16_t)n : virtio_id_by_name(text);
}

// minivmm probe ...: argv[0] is "probe".
static int probe_command(int argc, char **argv)
{
	enum { OPT_VIRTIO = 256, OPT_VFIO_USER };
	static const struct option longs[] = {
		{ "virtio", required_argument, NULL, OPT_VIRTIO },
		{ "vfio-user", no_argument, NULL, OPT_VFIO_USER },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct probe_params p = { .carried = VF_CARRIED };
	struct err e = { 0 };
	bool vfio_user = false;
	int c;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		switch (c) {
		case OPT_VIRTIO:
			p.virtio_type = virtio_type_of(optarg);
			if (!p.virtio_type)
				return usage_error("no virtio device type: ", optarg);
			break;
		case OPT_VFIO_USER:
			vfio_user = true;
			break;
		case 'h':
			fputs(help, stdout);
			return EXIT_GOOD;
		case ':':
			return usage_error("a value is missing after ", argv[optind - 1]);
		default:
			return usage_error("unknown option ", argv[optind - 1]);
		}
	}
	if (vfio_user && p.virtio_type)
		return usage_error("--virtio and --vfio-user exclude each other", "");
	if (optind == argc)
		return usage_error("which back-end? Give the path of its socket", "");
	if (optind + 1 < argc)
		return usage_error("unexpected argument ", argv[optind + 1]);
	p.socket = argv[optind];
	log_init("minivmm", LOG_WARN);
	int rc = vfio_user ? probe_vfio_user_run(&p, stdout, &e) : probe_run(&p, stdout, &e);
	if (rc < 0)
		log_error("%s", e.text);
	return rc == 1 ? EXIT_GOOD : EXIT_MACHINE;
}

// minivmm ctl ...: argv[0] is "ctl".
static int ctl_command(int argc, char **argv)
{
	struct err e = { 0 };
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(help, stdout);
		return EXIT_GOOD;
	}
	if (argc > 1 && argv[1][0] == '-')
		return usage_error("unknown option ", argv[1]);
	if (argc < 3)
		return usage_error("which machine, and what? Give its socket (vm.control) and a command", "");
	log_init("minivmm", LOG_WARN);
	int rc = ctl_run(argv[1], (const char *const *)&argv[2], stdout, &e);
	fflush(stdout);
	if (rc < 0)
		log_error("ctl: %s", e.text);
	return rc < 0 ? EXIT_MACHINE : EXIT_GOOD;
}

// minivmm bind ..., minivmm unbind ...: argv[0] is the word.
static int bind_command(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "dry-run", no_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct bind_params p = { .root = "", .out = stdout };
	struct err e = { 0 };
	int c;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":nh", longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(help, stdout);
			return EXIT_GOOD;
		}
		if (c != 'n')
			return usage_error("unknown option ", argv[optind - 1]);
		p.dry_run = true;
	}
	if (optind == argc)
		return usage_error("which device? Give its address, as in 0000:01:00.0 (lspci -D)", "");
	p.addresses = (const char *const *)&argv[optind];
	p.count = (unsigned)(argc - optind);
	log_init("minivmm", LOG_WARN);
	int rc = strcmp(argv[0], "bind") == 0 ? bind_run(&p, &e) : unbind_run(&p, &e);
	fflush(stdout);
	if (rc < 0)
		log_error("%s", e.text);
	return rc < 0 ? EXIT_MACHINE : EXIT_GOOD;
}

static int doctor_command(int argc, char **argv)
{
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(help, stdout);
		return EXIT_GOOD;
	}
	if (argc > 1)
		return usage_error("unexpected argument ", argv[1]);
	return doctor_run("", stdout) ? EXIT_GOOD : EXIT_MACHINE;
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct vm_config config;

	if (!standard_fds_fill())
		return EXIT_MACHINE;
	if (argc > 1 && strcmp(argv[1], "probe") == 0)
		return probe_command(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "ctl") == 0)
		return ctl_command(argc - 1, argv + 1);
	if (argc > 1 && (strcmp(argv[1], "bind") == 0 || strcmp(argv[1], "unbind") == 0))
		return bind_command(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "doctor") == 0)
		return doctor_command(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "explain") == 0) {
		o.explain = true;
		argc--;
		argv++;
	}

	o.sets = calloc((size_t)argc + 1, sizeof(*o.sets));
	if (!o.sets)
		return EXIT_MACHINE;
	int status = options_parse(&o, argc, argv);
	if (status < 0) {
		log_init("minivmm", o.loudness < 0    ? LOG_ERROR
				    : o.loudness == 0 ? LOG_WARN
				    : o.loudness == 1 ? LOG_INFO
						      : LOG_DEBUG);
		if (config_read(&config, o.config, o.sets, o.set_count, stderr) < 0) {
			status = EXIT_USAGE;
		} else if (o.check) {
			puts("ok");
			status = EXIT_GOOD;
			config_free(&config);
		} else if (o.explain) {
			status = explain(&config, o.loudness > 0);
			config_free(&config);
		} else {
			status = run_machine(&config);
			config_free(&config);
		}
	}
	free(o.sets);
	return status;
}
