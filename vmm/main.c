// SPDX-License-Identifier: BSD-2-Clause
// minivmm: arguments -> configuration -> build -> run.  The order of set-up is readable in run_machine().
//
// The only file where the monitor and the bridges meet.
#include "bridges/bridges.h"
#include "bridges/passthrough.h"
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/landlock.h"
#include "vmm/base/log.h"
#include "vmm/cgroup.h"
#include "vmm/commands.h"
#include "vmm/config.h"
#include "vmm/explain.h"
#include "vmm/jail_keeper.h"
#include "vmm/seal.h"
#include "vmm/signals.h"
#include "vmm/virtio_pci.h"
#include "vmm/vm.h"

#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
	const char *config;
	bool check, explain;
	const char **sets;
	unsigned set_count;
	int loudness;
};

// -1: go on; else the exit status.
static int options_parse(struct options *o, int argc, char **argv)
{
	enum { OPT_CHECK = 256, OPT_SET, OPT_VERSION, OPT_PRINT_SYSCALLS };
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, OPT_CHECK },
		{ "set", required_argument, NULL, OPT_SET },
		{ "verbose", no_argument, NULL, 'v' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ "help", no_argument, NULL, 'h' },
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
			return usage_help();
		default:
			return usage_bad_option(c, argv);
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

// Before anything is started, too.
static int keeper_make(struct jail_keeper *k, struct bridge_host *host, const struct cgroups *g,
		       const struct vm_config *c, struct err *e)
{
	int rc = jail_keeper_make(k, c, g->keeper, e);
	host->keeper = MAX(k->fd, 0);
	return rc;
}

static int run_machine(const struct vm_config *config)
{
	struct err e = { 0 };
	static struct vm vm;
	static struct bridge_host host;
	struct cgroups cgroups;
	struct jail_keeper keeper = { .fd = -1 };
	struct signals signals;
	enum vm_event event = VM_CRASH;

	signals_block();
	bridges_init(&host);
	cgroups_init(&cgroups);
	int rc = vm_init(&vm, config, &e);
	if (rc == 0)
		rc = limits_make(&cgroups, &host, config, &e);
	if (rc == 0)
		rc = keeper_make(&keeper, &host, &cgroups, config, &e);
	if (rc == 0)
		rc = machine_build(&vm, &host, &e);
	cgroups_forget(&cgroups);
	if (rc == 0)
		rc = signals_watch(&signals, &vm, &e);
	if (rc == 0 && (rc = jail_keeper_watch(&keeper, &vm.loop)) < 0)
		err_sys(&e, -rc, "watch the process that ends programs");
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
	jail_keeper_end(&keeper);
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

static int machine_command(const struct options *o)
{
	static const enum log_level levels[] = { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG }; // from -q to -vv
	struct vm_config config;
	int status = EXIT_GOOD;
	log_init("minivmm", levels[1 + MIN(o->loudness, 2)]);
	if (config_read(&config, o->config, o->sets, o->set_count, stderr) < 0)
		return EXIT_USAGE;
	if (o->check)
		puts("ok");
	else
		status = o->explain ? explain(&config, o->loudness > 0) : run_machine(&config);
	config_free(&config);
	return status;
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	// Left ignored by who started us, it would have every child vanish unseen.
	signal(SIGCHLD, SIG_DFL);
	if (!standard_fds_fill())
		return EXIT_MACHINE;
	int status = argc > 1 ? command_run(argc - 1, argv + 1) : -1;
	if (status >= 0)
		return status;
	o.explain = argc > 1 && strcmp(argv[1], "explain") == 0;
	o.sets = calloc((size_t)argc + 1, sizeof(*o.sets));
	if (!o.sets)
		return EXIT_MACHINE;
	status = options_parse(&o, argc - o.explain, argv + o.explain);
	if (status < 0)
		status = machine_command(&o);
	free(o.sets);
	return status;
}
