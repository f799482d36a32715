// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/commands.h"

#include "bridges/probe.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/base/parse.h"
#include "vmm/base/virtio_id.h"
#include "vmm/base/virtio_pci_regs.h"
#include "vmm/bind.h"
#include "vmm/ctl.h"
#include "vmm/doctor.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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

int usage_help(void)
{
	fputs(help, stdout);
	return EXIT_GOOD;
}

int usage_error(const char *what, const char *arg)
{
	fprintf(stderr, "minivmm: %s%s (see minivmm --help)\n", what, arg);
	return EXIT_USAGE;
}

int usage_bad_option(int c, char **argv)
{
	return usage_error(c == ':' ? "a value is missing after " : "unknown option ", argv[optind - 1]);
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
			return usage_help();
		default:
			return usage_bad_option(c, argv);
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

static bool help_asked(int argc, char **argv)
{
	return argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
}

// minivmm ctl ...: argv[0] is "ctl".
static int ctl_command(int argc, char **argv)
{
	struct err e = { 0 };
	if (help_asked(argc, argv))
		return usage_help();
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
		if (c == 'h')
			return usage_help();
		if (c != 'n')
			return usage_bad_option(c, argv);
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
	if (help_asked(argc, argv))
		return usage_help();
	if (argc > 1)
		return usage_error("unexpected argument ", argv[1]);
	return doctor_run("", stdout) ? EXIT_GOOD : EXIT_MACHINE;
}

int command_run(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {
		{ "probe", probe_command },
		{ "ctl", ctl_command },
		{ "doctor", doctor_command },
		{ "bind", bind_command },
		{ "unbind", bind_command },
	};
	for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(argv[0], commands[i].name) == 0)
			return commands[i].run(argc, argv);
	return -1;
}
