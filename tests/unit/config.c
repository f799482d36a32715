// SPDX-License-Identifier: BSD-2-Clause
// Configurations, and every line that the user reads when one is wrong.
#include "tests/unit/test.h"

#include "vmm/base/check.h"
#include "vmm/config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOOT	 "[boot]\nkernel = \"k\"\n"
#define DISK	 "[[device]]\nid = \"d\"\nvirtio = \"blk\"\nimage = \"i\"\n"
#define USER	 "[[device]]\nid = \"u\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\n"
#define NET	 "[[device]]\nid = \"n\"\nvirtio = \"net\"\ntap = \"tap0\"\n"
#define CON	 "[[device]]\nid = \"c\"\nvirtio = \"console\"\n"
#define VSOCK	 "[[device]]\nid = \"v\"\nvirtio = \"vsock\"\n"
#define RNG	 "[[device]]\nid = \"r\"\nvirtio = \"rng\"\n"
#define MAX_SETS 4

// Reads `text`; returns what was printed, with the file's name left out. The caller frees both.
static char *read_text(const char *text, size_t len, const char *const *sets, struct vm_config *c,
		       int *result)
{
	char path[32], *printed = NULL, *out = NULL;
	size_t printed_len, out_len;
	int fd = memfd_create("config", MFD_CLOEXEC);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	snprintf(path, sizeof(path), "fd:%d", fd);
	unsigned set_count = 0;
	while (sets && set_count < MAX_SETS && sets[set_count])
		set_count++;
	FILE *f = open_memstream(&printed, &printed_len);
	*result = config_read(c, path, sets, set_count, f);
	fclose(f);
	close(fd);
	f = open_memstream(&out, &out_len);
	const size_t prefix = strlen(path);
	for (char *line = printed, *end; (end = strchr(line, '\n')); line = end + 1) {
		if (strncmp(line, path, prefix) == 0 && line[prefix] == ':')
			line += prefix + 1;
		fprintf(f, "%.*s\n", (int)(end - line), line);
	}
	fclose(f);
	free(printed);
	return out;
}

struct bad {
	const char *text;
	const char *set[MAX_SETS];
	const char *want; // all lines
};

static void check_bad(const struct bad *b, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct vm_config c;
		int r;
		char *got = read_text(b[i].text, strlen(b[i].text), b[i].set, &c, &r);
		bool same = strcmp(got, b[i].want) == 0;
		bool empty = !c.storage && !c.devices && c.device_count == 0;
		if (!same)
			printf("got:  %swant: %s", got, b[i].want);
		free(got);
		config_free(&c);
		CHECK(same);
		CHECK_EQ(r, -EINVAL);
		CHECK(empty);
	}
}
#define CHECK_BAD(...)                                            \
	do {                                                      \
		static const struct bad bad_[] = { __VA_ARGS__ }; \
		check_bad(bad_, ARRAY_LEN(bad_));                 \
	} while (0)

// ---- good ones ----

TEST(defaults)
{
	struct vm_config c;
	int r;
	char *got = read_text(BOOT, strlen(BOOT), NULL, &c, &r);
	bool silent = got[0] == '\0';
	free(got);
	CHECK(silent);
	CHECK_EQ(r, 0);
	CHECK_STR(c.name, "vm");
	CHECK_EQ(c.cpus, 1);
	CHECK_EQ(c.memory, 256u << 20);
	CHECK_EQ(c.backing, MEM_BACKING_MEMFD);
	CHECK_EQ(c.on_reboot, REBOOT_RESTART);
	CHECK(!c.control && !c.initrd && !c.insecure);
	CHECK_STR(c.kernel, "k");
	CHECK_STR(c.cmdline, "");
	CHECK_STR(c.serial_to, "stdio");
	CHECK_EQ(c.device_count, 0);
	config_free(&c);
}

TEST(everything_set)
{
	static const char text[] =
		"[vm]\nname = \"demo\"\ncpus = 0x10\nmemory = \"6G\"\nbacking = \"hugetlb-2M\"\ncontrol = \"/c\"\n"
		"on_reboot = \"exit\"\ninsecure = true\n"
		"[boot]\nkernel = \"/k\"\ninitrd = \"fd:initrd\"\ncmdline = \"console=ttyS0 quiet\"\n"
		"[serial]\nto = \"file:/log\"\n"
		"[[device]]\nid = \"disk0\"\nvirtio = \"blk\"\nimage = \"fd:5\"\nreadonly = true\ndirect = true\n"
		"block_size = 4096\nserial = \"S N\"\nqueues = 4\nqueue_size = 128\nslot = 31\npoll = true\ncpus = \"2-3,5\"\n"
		"[[device]]\nid = \"fs.1\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\nsocket = \"/s\"\n"
		"[[device]]\nid = \"x_y-z\"\nvia = \"vhost-user\"\nvirtio = 62\nexec = [\"prog\", \"--fd={fd}\"]\n"
		"sandbox = \"none\"\n";
	struct vm_config c;
	int r;
	char *got = read_text(text, strlen(text), NULL, &c, &r);
	if (r)
		printf("%s", got);
	free(got);
	CHECK_EQ(r, 0);
	CHECK_STR(c.name, "demo");
	CHECK_EQ(c.cpus, 16);
	CHECK_EQ(c.memory, UINT64_C(6) << 30);
	CHECK_EQ(c.backing, MEM_BACKING_HUGETLB_2M);
	CHECK_STR(c.control, "/c");
	CHECK_EQ(c.on_reboot, REBOOT_EXIT);
	CHECK(c.insecure);
	CHECK_STR(c.initrd, "fd:initrd");
	CHECK_STR(c.cmdline, "console=ttyS0 quiet");
	CHECK_STR(c.serial_to, "file:/log");
	CHECK_EQ(c.device_count, 3);
	const struct device_config *d = c.devices;
	CHECK_STR(d[0].id, "disk0");
	CHECK_EQ(d[0].place.line, 15);
	CHECK_EQ(d[0].place.column, 1);
	CHECK_EQ(d[0].via, VIA_BUILTIN);
	CHECK_EQ(d[0].virtio_type, 2);
	CHECK_STR(d[0].virtio_name, "blk");
	CHECK_STR(d[0].image, "fd:5");
	CHECK(d[0].readonly && d[0].direct);
	CHECK_EQ(d[0].block_size, 4096);
	CHECK_STR(d[0].serial, "S N");
	CHECK(d[0].poll);
	CHECK_STR(d[0].cpus, "2-3,5");
	CHECK_EQ(d[0].queues, 4);
	CHECK_EQ(d[0].queue_size, 128);
	CHECK_EQ(d[0].slot, 31);
	CHECK_EQ(d[1].via, VIA_VHOST_USER);
	CHECK_EQ(d[1].virtio_type, 26);
	CHECK_STR(d[1].socket, "/s");
	CHECK(!d[1].exec && !d[1].sandbox && !d[1].image && !d[1].serial);
	CHECK(d[1].slot == -1);
	CHECK_EQ(d[2].virtio_type, 62);
	CHECK_STR(d[2].virtio_name, "62");
	CHECK_STR(d[2].exec[0], "prog");
	CHECK_STR(d[2].exec[1], "--fd={fd}");
	CHECK(!d[2].exec[2]);
	CHECK_STR(d[2].sandbox, "none");
	config_free(&c);
}

TEST(other_ways_to_write_the_same)
{
	static const char text[] = "vm = { cpus = 3, memory = 0x2000_0000 }\nboot.kernel = 'k'\r\n"
				   "device = [ { id = 'd', virtio = 2, image = 'i' } ]";
	struct vm_config c;
	int r;
	free(read_text(text, strlen(text), NULL, &c, &r));
	CHECK_EQ(r, 0);
	CHECK_EQ(c.cpus, 3);
	CHECK_EQ(c.memory, 512u << 20);
	CHECK_EQ(c.device_count, 1);
	CHECK_STR(c.devices[0].virtio_name, "blk");
	config_free(&c);
}

TEST(sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = { { "\"4096\"", 4096 },
		      { "\"4K\"", 4096 },
		      { "\"1M\"", 1 << 20 },
		      { "\"3G\"", UINT64_C(3) << 30 },
		      { "\"64T\"", UINT64_C(64) << 40 },
		      { "4096", 4096 },
		      { "70368744177664", UINT64_C(64) << 40 },
		      { "\"0004K\"", 4096 } };
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		char text[100];
		struct vm_config c;
		int r;
		snprintf(text, sizeof(text), BOOT "[vm]\nmemory = %s\n", cases[i].text);
		free(read_text(text, strlen(text), NULL, &c, &r));
		CHECK_EQ(r, 0);
		CHECK_EQ(c.memory, cases[i].bytes);
		config_free(&c);
	}
}

// ---- --set ----

TEST(set_replaces_and_adds)
{
	static const char text[] = "[vm]\nmemory = \"wrong\"\n" BOOT DISK
				   "[[device]]\nid = \"a.b\"\nvirtio = \"blk\"\nimage = \"i\"\n";
	static const char *const sets[][MAX_SETS] = {
		{ "vm.memory=1G", "vm.cpus=8", "device.d.image=\"other.raw\"", "device.a.b.readonly=true" },
		{ "vm.memory=\"1G\"", "vm.cpus= 0b1000 ", "device.d.image=other.raw",
		  "device.a.b.readonly=true" },
		{ "vm.memory=1073741824", "vm.cpus=8", "device.d.image=other.raw",
		  "device.a.b.readonly=true" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(sets); i++) {
		struct vm_config c;
		int r;
		char *got = read_text(text, strlen(text), sets[i], &c, &r);
		if (r)
			printf("%s", got);
		free(got);
		CHECK_EQ(r, 0);
		CHECK_EQ(c.memory, 1u << 30);
		CHECK_EQ(c.cpus, 8);
		CHECK_STR(c.devices[0].image, "other.raw");
		CHECK(!c.devices[0].readonly && c.devices[1].readonly);
		config_free(&c);
	}
}

TEST(set_makes_tables_and_takes_what_is_no_toml)
{
	static const char *const sets[] = { "boot.kernel=/boot/vmlinuz", "boot.cmdline=root=/dev/vda rw \"x",
					    "serial.to=none", "boot.kernel=second", NULL };
	struct vm_config c;
	int r;
	free(read_text("", 0, sets, &c, &r));
	CHECK_EQ(r, 0);
	CHECK_STR(c.kernel, "second");
	CHECK_STR(c.cmdline, "root=/dev/vda rw \"x");
	CHECK_STR(c.serial_to, "none");
	config_free(&c);

	static const char *const list[] = { "device.u.exec=[\"a\", \"{fd}\"]", "device.u.sandbox=none",
					    NULL };
	free(read_text(BOOT USER, strlen(BOOT USER), list, &c, &r));
	CHECK_EQ(r, 0);
	CHECK_STR(c.devices[0].exec[1], "{fd}");
	config_free(&c);
}

TEST(set_errors_name_the_text)
{
#define FORM ": the form is TABLE.KEY=VALUE or device.ID.KEY=VALUE\n"
	CHECK_BAD({ BOOT, { "x" }, "--set x" FORM }, { BOOT, { "" }, "--set " FORM },
		  { BOOT, { "vm=1" }, "--set vm=1" FORM }, { BOOT, { ".cpus=1" }, "--set .cpus=1" FORM },
		  { BOOT, { "vm.=1" }, "--set vm.=1" FORM }, { BOOT, { "vm=a.b" }, "--set vm=a.b" FORM },
		  { BOOT, { "a.b.c=1" }, "--set a.b.c=1" FORM },
		  { BOOT, { "device.d=1" }, "--set device.d=1" FORM },
		  { BOOT, { "device..x=1" }, "--set device..x=1" FORM },
		  { BOOT DISK,
		    { "device.e.image=x" },
		    "--set device.e.image=x: there is no device with that id\n" },
		  { BOOT,
		    { "vm.cpus=0" },
		    "--set vm.cpus=0: [vm]: cpus = 0 is not in the range from 1 to 4096\n" },
		  { BOOT,
		    { "vm.cpus=two" },
		    "--set vm.cpus=two: [vm]: cpus is a string, expected an integer\n" },
		  { BOOT,
		    { "vm.cpu=2" },
		    "--set vm.cpu=2: [vm]: key \"cpu\" is not known (did you mean \"cpus\"?)\n" },
		  { BOOT,
		    { "boots.kernel=x" },
		    "--set boots.kernel=x: table \"boots\" is not known (did you mean \"boot\"?)\n" },
		  { "vm = 1\n" BOOT, { "vm.cpus=2" }, "1:1: [vm]: this is an integer, expected a table\n" },
		  { BOOT USER,
		    { "device.u.exec=[1]" },
		    "--set device.u.exec=[1]: [device] \"u\": exec is an integer, expected a string\n" },
		  { "", { "vm.cpus=2" }, "1:1: [boot]: key \"kernel\" is missing\n" });
}

// ---- what is refused ----

TEST(documents_that_are_no_toml)
{
	CHECK_BAD({ "", { 0 }, "1:1: [boot]: key \"kernel\" is missing\n" },
		  { "[boot]\nkernel = k\n", { 0 }, "2:10: k is not a value; a string needs quotes\n" },
		  { "\xef\xbb\xbf" BOOT,
		    { 0 },
		    "1:1: the text starts with a byte order mark, which TOML does not allow\n" },
		  { "\x7f"
		    "ELF",
		    { 0 },
		    "1:1: control character U+007F\n" },
		  { "[boot]\nkernel = \"k\"\nkernel = \"k\"\n",
		    { 0 },
		    "3:1: \"kernel\" is already set in line 2\n" });
	struct vm_config c;
	int r;
	char *got = read_text("a = 1\0", 6, NULL, &c, &r); // a NUL
	bool same = strcmp(got, "1:6: control character U+0000\n") == 0;
	free(got);
	CHECK(same);
	char *text = malloc((1 << 20) + 1);
	CHECK(text);
	memset(text, ' ', (1 << 20) + 1);
	memcpy(text, "boot.kernel = 'k' #", 19);
	got = read_text(text, (1 << 20) + 1, NULL, &c, &r);
	same = strcmp(got, "1:1: the text is larger than 1048576 bytes\n") == 0;
	free(got);
	free(read_text(text, 1 << 20, NULL, &c, &r)); // one line of 1 MiB is good
	free(text);
	CHECK(same);
	CHECK_EQ(r, 0);
	config_free(&c);
}

TEST(keys_and_tables_that_are_not_known)
{
	CHECK_BAD({ "[vm]\ncpsu = 1\n" BOOT,
		    { 0 },
		    "2:1: [vm]: key \"cpsu\" is not known (did you mean \"cpus\"?)\n" },
		  { "[vm]\nthreads = 1\n" BOOT, { 0 }, "2:1: [vm]: key \"threads\" is not known\n" },
		  { "[vm]\nkernel = 1\n" BOOT, { 0 }, "2:1: [vm]: key \"kernel\" is not known\n" },
		  { "cpus = 2\n" BOOT, { 0 }, "1:1: key \"cpus\" is not known\n" },
		  { BOOT "[devices]\n",
		    { 0 },
		    "3:2: table \"devices\" is not known (did you mean \"device\"?)\n" },
		  { BOOT "[network.x]\n",
		    { 0 },
		    "3:2: table \"network\" is not known (did you mean \"device\"?)\n" },
		  { BOOT "[vm]\n\"a\\n\\u009b\\\\\" = 1\n",
		    { 0 },
		    "4:1: [vm]: key \"a\\u000A\\u009B\\\" is not known\n" },
		  { BOOT "[vm]\n\"\" = 1\n", { 0 }, "4:1: [vm]: key \"\" is not known\n" },
		  { BOOT "[[device]]\nid = \"disk0\"\nvirtio = \"blk\"\nimgae = \"disk.raw\"\n",
		    { 0 },
		    "6:1: [device] \"disk0\": key \"imgae\" is not known (did you mean \"image\"?)\n"
		    "3:1: [device] \"disk0\": key \"image\" is missing\n" },
		  { BOOT "[device]\nid = \"d\"\n",
		    { 0 },
		    "3:1: [device]: a device is written [[device]], in two brackets\n" },
		  { BOOT "[vm]\ncpus.x = 1\n", { 0 }, "4:1: [vm]: cpus is a table, expected an integer\n" },
		  { "device = [1]\n" BOOT,
		    { 0 },
		    "1:11: [device] number 1: this is an integer, expected a table\n" },
		  { "boot = []\n", { 0 }, "1:1: [boot]: this is an array, expected a table\n" });
}

TEST(keys_that_are_missing)
{
	CHECK_BAD(
		{ "[boot]\n", { 0 }, "1:1: [boot]: key \"kernel\" is missing\n" },
		{ "\n[vm]\n", { 0 }, "1:1: [boot]: key \"kernel\" is missing\n" },
		{ BOOT "[[device]]\n",
		  { 0 },
		  "3:1: [device] number 1: key \"id\" is missing\n3:1: [device] number 1: key \"virtio\" is missing\n" },
		{ BOOT "[[device]]\nid = \"a\"\nvia = \"vhost-user\"\n",
		  { 0 },
		  "3:1: [device] \"a\": key \"virtio\" is missing\n"
		  "3:1: [device] \"a\": key \"socket\", \"listen\" or \"exec\" is missing\n" });
}

#define NONE "sandbox = \"none\"\n"

TEST(what_follows_a_death)
{
	static const struct {
		const char *line;
		int64_t ms;
	} times[] = { { "", 0 },
		      { "reconnect = \"forever\"\n", 0 },
		      { "reconnect = \"30s\"\n", 30000 },
		      { "reconnect = \"never\"\n", CONFIG_NEVER },
		      { "reconnect = \"2m\"\n", 120000 },
		      { "reconnect = \"250ms\"\n", 250 } };
	struct vm_config c;
	int r;
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		char text[512];
		snprintf(text, sizeof(text), "%slisten = \"/s\"\n%s", BOOT USER, times[i].line);
		free(read_text(text, strlen(text), NULL, &c, &r));
		CHECK_EQ(r, 0);
		CHECK_STR(c.devices[0].listen, "/s");
		CHECK_EQ(c.devices[0].reconnect_ms, times[i].ms);
		config_free(&c);
	}
	static const char text[] = BOOT USER "exec = [\"p\", \"{fd}\"]\nrestart = \"on-failure\"\n" NONE;
	free(read_text(text, strlen(text), NULL, &c, &r));
	CHECK_EQ(r, 0);
	CHECK_EQ(c.devices[0].restart, RESTART_ON_FAILURE);
	config_free(&c);
	CHECK_BAD(
		{ BOOT USER "socket = \"s\"\nreconnect = \"soon\"\n",
		  { 0 },
		  "8:13: [device] \"u\": reconnect = \"soon\" is neither \"forever\", \"never\" nor a time such as \"30s\"\n" },
		{ BOOT USER "socket = \"s\"\nreconnect = \"0s\"\n",
		  { 0 },
		  "8:13: [device] \"u\": reconnect = \"0s\" is neither \"forever\", \"never\" nor a time such as \"30s\"\n" },
		{ BOOT USER "socket = \"s\"\nlisten = \"t\"\n",
		  { 0 },
		  "8:1: [device] \"u\": \"listen\" and \"socket\" exclude each other\n" },
		{ BOOT USER "exec = [\"p\", \"{fd}\"]\nreconnect = \"never\"\n" NONE,
		  { 0 },
		  "8:1: [device] \"u\": \"reconnect\" does not go with \"exec\"; write restart =\n" },
		{ BOOT USER "socket = \"s\"\nrestart = \"never\"\n",
		  { 0 },
		  "8:1: [device] \"u\": \"restart\" goes with \"exec\" only; write reconnect =\n" });
}

TEST(what_a_vhost_user_device_is_told)
{
	struct vm_config c;
	int r;
	static const char text[] = BOOT USER
		"socket = \"/s\"\ntag = \"share\"\nhost_notifier = true\nshared_memory = \"2M\"\n[[device]]\nid = \"n\"\nvia = \"vhost-user\"\n"
		"virtio = \"net\"\nsocket = \"/n\"\nmtu = 1400\n";
	free(read_text(text, strlen(text), NULL, &c, &r));
	CHECK_EQ(r, 0);
	CHECK_STR(c.devices[0].tag, "share");
	CHECK(c.devices[0].host_notifier && !c.devices[1].host_notifier);
	CHECK(c.devices[0].shared_memory == 0x200000 && c.devices[1].shared_memory == 0);
	CHECK_EQ(c.devices[1].mtu, 1400);
	CHECK(!c.devices[1].tag);
	config_free(&c);
	CHECK_BAD({ BOOT USER
		    "socket = \"/s\"\ntag = \"0123456789012345678901234567890123456\"\nmtu = 1400\n",
		    { 0 },
		    "8:7: [device] \"u\": tag has 37 bytes, not 1 to 36\n"
		    "9:1: [device] \"u\": key \"mtu\" goes with virtio = \"net\" only\n" });
}

TEST(network_devices_and_random_numbers)
{
	struct vm_config c;
	int r;
	static const char text[] =
		BOOT NET "mac = \"52:54:00:aB:34:56\"\nmtu = 9000\nqueues = 16\n" RNG "rate = \"64K\"\n";
	char *got = read_text(text, strlen(text), NULL, &c, &r);
	if (r)
		printf("%s", got);
	free(got);
	CHECK_EQ(r, 0);
	const struct device_config *d = c.devices;
	CHECK_EQ(d[0].virtio_type, 1);
	CHECK_STR(d[0].tap, "tap0"); // not a path
	CHECK_STR(d[0].mac, "52:54:00:aB:34:56");
	CHECK_EQ(d[0].mtu, 9000);
	CHECK_EQ(d[0].queues, 16);
	CHECK_EQ(d[1].virtio_type, 4);
	CHECK_EQ(d[1].rate, 65536);
	config_free(&c);
	CHECK_BAD({ BOOT "[[device]]\nid = \"n\"\nvirtio = \"net\"\n",
		    { 0 },
		    "3:1: [device] \"n\": key \"tap\" is missing\n" },
		  { BOOT NET "mac = \"53:54:00:12:34:56\"\nmtu = 67\nqueues = 17\n",
		    { 0 },
		    "7:7: [device] \"n\": mac = \"53:54:00:12:34:56\" is no address of an interface, such as "
		    "\"52:54:00:12:34:56\"\n"
		    "8:7: [device] \"n\": mtu = 67 is not in the range from 68 to 65535\n"
		    "9:10: [device] \"n\": queues = 17: a \"net\" of ours has at most 16\n" },
		  { BOOT "[[device]]\nid = \"n\"\nvirtio = \"net\"\ntap = \"fd:5\"\nqueues = 2\n",
		    { 0 },
		    "6:7: [device] \"n\": a descriptor is one queue; for more, name the tap\n" },
		  { BOOT RNG "rate = 0\n",
		    { 0 },
		    "6:8: [device] \"r\": rate = 0 is not in the range from 1 byte to 64T\n" });
}

TEST(consoles_and_sockets)
{
	struct vm_config c;
	int r;
	const char *text =
		BOOT CON "ports = [\"con=pty\", \"org.x=socket:a.sock\", \"log=file:/l\", \"n=fd:n\", "
			 "\"s=socket:fd:7\"]\n" VSOCK "cid = 4294967294\npath = \"vm.vsock\"\n";
	char *got = read_text(text, strlen(text), NULL, &c, &r);
	if (r)
		printf("%s", got);
	free(got);
	CHECK_EQ(r, 0);
	char **p = c.devices[0].ports;
	CHECK_EQ(c.devices[0].virtio_type, 3);
	CHECK_STR(p[0], "con=pty");
	CHECK_STR(p[1], "org.x=socket:a.sock");
	CHECK_STR(p[2], "log=file:/l");
	CHECK_STR(p[3], "n=fd:n");
	CHECK_STR(p[4], "s=socket:fd:7");
	CHECK(!p[5]);
	CHECK_EQ(c.devices[1].virtio_type, 19);
	CHECK_EQ(c.devices[1].cid, 4294967294);
	CHECK_STR(c.devices[1].path, "vm.vsock");
	config_free(&c);
	CHECK_BAD(
		{ BOOT "[[device]]\nid = \"c\"\nvirtio = \"console\"\n",
		  { 0 },
		  "3:1: [device] \"c\": key \"ports\" is missing\n" },
		{ BOOT CON "ports = []\n",
		  { 0 },
		  "6:9: [device] \"c\": ports is empty; the first one is the console\n" },
		{ BOOT CON "ports = [\"con=stdio\"]\n",
		  { 0 },
		  "6:10: [device] \"c\": port \"con=stdio\": standard input and output are the serial port's\n" },
		{ BOOT CON "ports = [\"con=tty\"]\n",
		  { 0 },
		  "6:10: [device] \"c\": port \"con=tty\": what is behind \"=\" is none of pty, socket:PATH, "
		  "file:PATH, fd:N\n" },
		{ BOOT CON "ports = [\"con=socket:\"]\n",
		  { 0 },
		  "6:10: [device] \"c\": port \"con=socket:\": what is behind \"=\" is none of pty, socket:PATH, "
		  "file:PATH, fd:N\n" },
		{ BOOT CON "ports = [\"a/b=pty\"]\n",
		  { 0 },
		  "6:10: [device] \"c\": port \"a/b=pty\" is not \"NAME=TARGET\", NAME of 1 to 64 of A-Z a-z 0-9 "
		  "_ . -\n" },
		{ BOOT CON "ports = [\"a=pty\", \"a=pty\"]\n",
		  { 0 },
		  "6:19: [device] \"c\": port \"a=pty\": there are two of this name\n" },
		{ BOOT CON "ports = [1]\n",
		  { 0 },
		  "6:10: [device] \"c\": ports is an integer, expected a string\n" },
		{ BOOT CON
		  "ports = [\"1=pty\",\"2=pty\",\"3=pty\",\"4=pty\",\"5=pty\",\"6=pty\",\"7=pty\",\"8=pty\","
		  "\"9=pty\"]\n",
		  { 0 },
		  "6:74: [device] \"c\": more than 8 ports\n" },
		{ BOOT VSOCK "queues = 2\n",
		  { 0 },
		  "3:1: [device] \"v\": key \"cid\" is missing\n"
		  "3:1: [device] \"v\": key \"path\" is missing\n"
		  "6:10: [device] \"v\": queues = 2: a \"vsock\" of ours has at most 1\n" },
		{ BOOT VSOCK "cid = 2\npath = \"\"\n",
		  { 0 },
		  "6:7: [device] \"v\": cid = 2 is not in the range from 3 to 4294967294\n"
		  "7:8: [device] \"v\": path is empty, expected a path\n" },
		{ BOOT VSOCK "cid = 3\npath = \"p\"\nports = [\"a=pty\"]\n",
		  { 0 },
		  "8:1: [device] \"v\": key \"ports\" goes with virtio = \"console\" only\n" });
}

TEST(devices_of_the_kernel)
{
	static const char text[] = BOOT
		"[[device]]\nid = \"n\"\nvia = \"vhost\"\nvirtio = \"net\"\ntap = \"tap0\"\nmtu = 1400\n"
		"[[device]]\nid = \"v\"\nvia = \"vhost\"\nvirtio = \"vsock\"\ncid = 42\npath = \"fd:7\"\n"
		"[[device]]\nid = \"d\"\nvia = \"vhost-vdpa\"\npath = \"/dev/vhost-vdpa-0\"\n";
	struct vm_config c;
	int r;
	free(read_text(text, strlen(text), NULL, &c, &r));
	CHECK_EQ(r, 0);
	CHECK(c.devices[0].via == VIA_VHOST && c.devices[0].mtu == 1400 && !c.devices[0].path);
	CHECK(c.devices[1].cid == 42 && strcmp(c.devices[1].path, "fd:7") == 0);
	CHECK(c.devices[2].via == VIA_VHOST_VDPA && c.devices[2].virtio_type == 0);
	config_free(&c);
	CHECK_BAD({ BOOT "[[device]]\nid = \"v\"\nvia = \"vhost\"\nvirtio = \"vsock\"\n",
		    { 0 },
		    "3:1: [device] \"v\": key \"cid\" is missing\n" },
		  { BOOT
		    "[[device]]\nid = \"v\"\nvia = \"vhost\"\nvirtio = \"vsock\"\ncid = 2\ntap = \"t\"\n",
		    { 0 },
		    "7:7: [device] \"v\": cid = 2 is not in the range from 3 to 4294967294\n"
		    "8:1: [device] \"v\": key \"tap\" goes with virtio = \"net\" only\n" },
		  { BOOT "[[device]]\nid = \"d\"\nvia = \"vhost-vdpa\"\npath = \"p\"\ncid = 7\n",
		    { 0 },
		    "7:1: [device] \"d\": key \"cid\" does not go with via = \"vhost-vdpa\"\n" });
}

#define VFIO  "[[device]]\nid = \"p\"\nvia = \"vfio\"\n"
#define VFIO2 "[[device]]\nid = \"q\"\nvia = \"vfio\"\n"
#define VFIO3 "[[device]]\nid = \"r\"\nvia = \"vfio\"\n"

TEST(keys_that_do_not_fit_the_interface)
{
	CHECK_BAD(
		{ BOOT DISK "socket = \"s\"\n",
		  { 0 },
		  "7:1: [device] \"d\": key \"socket\" goes with via = \"vhost-user\" and its like\n" },
		{ BOOT USER "socket = \"s\"\nimage = \"i\"\ndirect = 7\n",
		  { 0 },
		  "8:1: [device] \"u\": key \"image\" does not go with via = \"vhost-user\"\n"
		  "9:1: [device] \"u\": key \"direct\" does not go with via = \"vhost-user\"\n" },
		{ BOOT "[[device]]\nid = \"n\"\nvirtio = \"fs\"\n",
		  { 0 },
		  "5:10: [device] \"n\": minivmm has no program of its own for \"fs\" yet; use via = \"vhost-user\"\n" },
		{ BOOT NET "image = \"i\"\nrate = 7\n" RNG "tap = \"t\"\nqueues = 2\n",
		  { 0 },
		  "7:1: [device] \"n\": key \"image\" goes with virtio = \"blk\" only\n"
		  "8:1: [device] \"n\": key \"rate\" goes with virtio = \"rng\" only\n"
		  "12:1: [device] \"r\": key \"tap\" goes with virtio = \"net\" only\n"
		  "13:10: [device] \"r\": queues = 2: a \"rng\" of ours has at most 1\n" },
		{ BOOT "[[device]]\nid = \"n\"\nvia = \"vhost-vdpa\"\nsocket = \"s\"\nimgae = 1\n",
		  { 0 },
		  "6:1: [device] \"n\": key \"socket\" does not go with via = \"vhost-vdpa\"\n"
		  "7:1: [device] \"n\": key \"imgae\" is not known (did you mean \"image\"?)\n"
		  "3:1: [device] \"n\": key \"path\" is missing\n" },
		{ BOOT DISK "via = \"vhost\"\n",
		  { 0 },
		  "6:1: [device] \"d\": key \"image\" does not go with via = \"vhost\"\n"
		  "5:10: [device] \"d\": kernel vhost has no \"blk\"; net, scsi and vsock are possible\n" },
		{ BOOT DISK "via = \"vhost-vdpa\"\n",
		  { 0 },
		  "6:1: [device] \"d\": key \"image\" does not go with via = \"vhost-vdpa\"\n"
		  "3:1: [device] \"d\": key \"path\" is missing\n" },
		{ BOOT NET "via = \"vhost\"\nqueues = 17\nrestart = \"never\"\n",
		  { 0 },
		  "9:1: [device] \"n\": key \"restart\" does not go with via = \"vhost\"\n"
		  "8:10: [device] \"n\": queues = 17: over vhost at most 16 pairs\n" },
		{ BOOT
		  "[[device]]\nid = \"n\"\nvirtio = \"net\"\nvia = \"vhost\"\nqueues = 2\ntap = \"fd:5\"\npath = \"fd:6\"\n",
		  { 0 },
		  "8:7: [device] \"n\": a descriptor is of one pair; for more, write the tap's name\n"
		  "9:8: [device] \"n\": a descriptor is of one pair; for more, write the node's path\n" },
		{ BOOT VFIO "image = \"i\"\nvirtio = \"blk\"\n",
		  { 0 },
		  "6:1: [device] \"p\": key \"image\" does not go with via = \"vfio\"\n"
		  "7:1: [device] \"p\": key \"virtio\" does not go with via = \"vfio\"\n"
		  "3:1: [device] \"p\": key \"host\", \"mdev\", \"sysfsdev\" or \"cdev\" is missing\n" },
		{ BOOT VFIO "host = \"0000:01:00.0\"\ncdev = \"/dev/vfio/devices/vfio0\"\n",
		  { 0 },
		  "7:1: [device] \"p\": \"host\" and \"cdev\" exclude each other\n" },
		{ BOOT VFIO "host = \"0000:01:00.8\"\n" VFIO2 "host = \"1:00.0\"\n" VFIO3
			    "mdev = \"83B8F4F2-509F-382F-3C1E-E6BFE0FA1001\"\n",
		  { 0 },
		  "6:8: [device] \"p\": host = \"0000:01:00.8\" is no address of a PCI function, such as "
		  "\"0000:01:00.0\" (lspci -D)\n"
		  "10:8: [device] \"q\": host = \"1:00.0\" is no address of a PCI function, such as "
		  "\"0000:01:00.0\" (lspci -D)\n"
		  "14:8: [device] \"r\": mdev = \"83B8F4F2-509F-382F-3C1E-E6BFE0FA1001\" is no UUID in small "
		  "letters\n" },
		{ BOOT VFIO "host = \"01:00.0\"\n" VFIO2 "host = \"0000:01:00.0\"\n",
		  { 0 },
		  "10:8: [device] \"q\": host is the device in line 3 already\n" },
		{ BOOT DISK "via = \"vhost_user\"\n",
		  { 0 },
		  "7:7: [device] \"d\": via = \"vhost_user\" is not known (did you mean \"vhost-user\"?)\n" },
		{ BOOT DISK "via = \"\"\n",
		  { 0 },
		  "7:7: [device] \"d\": via is empty; leave it out for a device of minivmm's own\n" },
		{ BOOT DISK "via = 1\n",
		  { 0 },
		  "7:7: [device] \"d\": via is an integer, expected a string\n" });
}

TEST(vfio_user)
{
#define FUNCTION "[[device]]\nid = \"f\"\nvia = \"vfio-user\"\n"
	static const char text[] =
		BOOT FUNCTION "socket = \"s\"\n[[device]]\nid = \"g\"\nvia = \"vfio-user\"\n"
			      "exec = [\"p\", \"{fd}\"]\ndma = \"messages\"\nio_fds = false\n"
			      "on_return = \"replug\"\n";
	struct vm_config c;
	int r;
	char *got = read_text(text, strlen(text), NULL, &c, &r);
	CHECK_STR(got, "");
	free(got);
	CHECK_EQ(r, 0);
	CHECK_EQ(c.devices[0].via, VIA_VFIO_USER);
	CHECK_STR(c.devices[0].socket, "s");
	CHECK_EQ(c.devices[0].virtio_type, 0);
	CHECK_EQ(c.devices[0].dma, DMA_SHARED);
	CHECK(c.devices[0].io_fds);
	CHECK_EQ(c.devices[1].dma, DMA_MESSAGES);
	CHECK(!c.devices[1].io_fds);
	CHECK_EQ(c.devices[0].on_return, RETURN_RESET);
	CHECK_EQ(c.devices[1].on_return, RETURN_REPLUG);
	CHECK_STR(c.devices[1].sandbox, "default");
	config_free(&c);
	CHECK_BAD({ BOOT FUNCTION "", { 0 }, "3:1: [device] \"f\": key \"socket\" or \"exec\" is missing\n" },
		  { BOOT FUNCTION "socket = \"s\"\nlisten = \"l\"\nvirtio = \"blk\"\nqueues = 1\n",
		    { 0 },
		    "7:1: [device] \"f\": key \"listen\" does not go with via = \"vfio-user\"\n"
		    "8:1: [device] \"f\": key \"virtio\" does not go with via = \"vfio-user\"\n"
		    "9:1: [device] \"f\": key \"queues\" does not go with via = \"vfio-user\"\n"
		    "7:1: [device] \"f\": \"listen\" and \"socket\" exclude each other\n" },
		  { BOOT FUNCTION "socket = \"s\"\nexec = [\"p\", \"{fd}\"]\nlimits = { processes = 1 }\n",
		    { 0 },
		    "7:1: [device] \"f\": \"socket\" and \"exec\" exclude each other\n" },
		  { BOOT FUNCTION "socket = \"s\"\nsandbox = \"fs\"\ndma = \"shard\"\nio_fds = 1\n",
		    { 0 },
		    "8:7: [device] \"f\": dma = \"shard\" is not known (did you mean \"shared\"?)\n"
		    "9:10: [device] \"f\": io_fds is an integer, expected a boolean\n"
		    "7:1: [device] \"f\": key \"sandbox\" goes with \"exec\" only\n" });
}

TEST(foreign_programs)
{
#define PROGRAM "exec = [\"p\", \"{fd}\"]\n"
	CHECK_BAD(
		{ BOOT USER PROGRAM "sandbox = \"fss\"\n",
		  { 0 },
		  "8:11: [device] \"u\": sandbox = \"fss\" is no profile, no file (PATH.toml) and not \"none\" (did you mean "
		  "\"fs\"?)\n" },
		{ BOOT USER PROGRAM "sandbox = {lern = \"f\"}\n",
		  { 0 },
		  "8:11: [device] \"u\": sandbox is neither a text nor { learn = \"FILE\" }\n" },
		{ BOOT USER PROGRAM "sandbox = 1\n",
		  { 0 },
		  "8:11: [device] \"u\": sandbox is an integer, expected a string\n" },
		{ BOOT USER PROGRAM NONE "paths = [\"/x\"]\n",
		  { 0 },
		  "9:1: [device] \"u\": without a sandbox every path is in sight\n" },
		{ BOOT USER PROGRAM "paths = [\"fd:3\"]\n",
		  { 0 },
		  "8:10: [device] \"u\": \"fd:3\" is no path that a jail can show\n" },
		{ BOOT USER PROGRAM "paths = \"/x\"\n",
		  { 0 },
		  "8:9: [device] \"u\": paths is a string, expected an array\n" },
		{ BOOT USER PROGRAM "limits = \"256M\"\n",
		  { 0 },
		  "8:10: [device] \"u\": limits is a string, expected a table\n" },
		{ BOOT USER PROGRAM "limits = {}\n",
		  { 0 },
		  "8:10: [device] \"u\": limits is empty, expected memory, processes or cpu\n" },
		{ BOOT USER PROGRAM "limits = { memory = \"1K\" }\n",
		  { 0 },
		  "8:21: [device] \"u\": memory = \"1K\" is not in the range from 1M to 64T\n" },
		{ BOOT USER PROGRAM "limits = { processes = 0, cpu = 50 }\n",
		  { 0 },
		  "8:24: [device] \"u\": processes = 0 is not in the range from 1 to 4194304\n"
		  "8:33: [device] \"u\": cpu is an integer, expected a string\n" },
		{ BOOT USER PROGRAM "limits = { cpu = \"0%\" }\n",
		  { 0 },
		  "8:18: [device] \"u\": cpu is no share of one processor such as \"50%\" or \"200%\"\n" },
		{ BOOT USER PROGRAM "limits = { memroy = \"1M\" }\n",
		  { 0 },
		  "8:21: [device] \"u\": limits has memory, processes and cpu, and no \"memroy\"\n" },
		{ BOOT USER "socket = \"s\"\nlimits = { processes = 1 }\n",
		  { 0 },
		  "8:1: [device] \"u\": key \"limits\" goes with \"exec\" only\n" },
		{ BOOT USER "socket = \"s\"\npaths = []\n",
		  { 0 },
		  "8:1: [device] \"u\": key \"paths\" goes with \"exec\" only\n" },
		{ BOOT USER "exec = [\"p\"]\n" NONE,
		  { 0 },
		  "7:8: [device] \"u\": exec has no \"{fd}\", \"{listen}\" or \"{socket}\": the program would not know its "
		  "connection\n" },
		{ BOOT USER "exec = []\n" NONE, { 0 }, "7:8: [device] \"u\": exec names no program\n" },
		{ BOOT USER "exec = [\"\", \"{fd}\"]\n" NONE,
		  { 0 },
		  "7:8: [device] \"u\": exec names no program\n" },
		{ BOOT USER "exec = \"p {fd}\"\n" NONE,
		  { 0 },
		  "7:8: [device] \"u\": exec is a string, expected an array\n" },
		{ BOOT USER "exec = [\"p\", [\"{fd}\"]]\n" NONE,
		  { 0 },
		  "7:14: [device] \"u\": exec is an array, expected a string\n" },
		{ BOOT USER "exec = [\"p\", \"{fd}\\u0000\"]\n" NONE,
		  { 0 },
		  "7:14: [device] \"u\": exec has a NUL character in it\n" },
		{ BOOT USER "exec = [\"p\", \"{fd}\"]\nsocket = \"s\"\n" NONE,
		  { 0 },
		  "7:1: [device] \"u\": \"socket\" and \"exec\" exclude each other\n" },
		{ BOOT USER "socket = \"s\"\n" NONE,
		  { 0 },
		  "8:1: [device] \"u\": key \"sandbox\" goes with \"exec\" only\n" });
}

TEST(jails)
{
	static const char text[] = BOOT USER PROGRAM
		"paths = [\"/a\", \"b:rw\"]\n"
		"[[device]]\nid = \"v\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\n" PROGRAM
		"sandbox = { learn = \"l\" }\n"
		"[[device]]\nid = \"w\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\n" PROGRAM
		"sandbox = \"./p\"\n"
		"limits = { memory = \"256M\", processes = 16, cpu = \"50%\" }\n"
		"[[device]]\nid = \"x\"\nvia = \"vfio-user\"\nexec = [\"/usr/bin/minivmm-nvme\", \"{fd}\"]\n";
	struct vm_config c;
	int r;
	free(read_text(text, strlen(text), NULL, &c, &r));
	CHECK_EQ(r, 0);
	CHECK_STR(c.devices[0].sandbox, "default");
	CHECK_STR(c.devices[0].paths[0], "/a");
	CHECK_STR(c.devices[0].paths[1], "b:rw");
	CHECK(!c.devices[0].paths[2] && !c.devices[0].learn);
	CHECK_STR(c.devices[1].sandbox, "default");
	CHECK_STR(c.devices[1].learn, "l");
	CHECK_STR(c.devices[2].sandbox, "./p");
	CHECK_STR(c.devices[3].sandbox, "minivmm");
	CHECK_EQ(c.devices[2].limits.memory, UINT64_C(256) << 20);
	CHECK_EQ(c.devices[2].limits.processes, 16);
	CHECK_EQ(c.devices[2].limits.cpu, 50);
	CHECK_EQ(c.devices[1].limits.memory + c.devices[1].limits.processes + c.devices[1].limits.cpu, 0);
	config_free(&c);
}

TEST(a_descriptor_is_one_device_s)
{
#define SERVER(id, socket) "[[device]]\nid = \"" id "\"\nvia = \"vfio-user\"\nsocket = \"" socket "\"\n"
#define IMAGE(id, more)	   "[[device]]\nid = \"" id "\"\nvirtio = \"blk\"\nimage = \"fd:disk\"\n" more
#define READONLY	   "readonly = true\n"
	CHECK_BAD({ BOOT SERVER("a", "fd:7") SERVER("b", "fd:7"),
		    { 0 },
		    "10:10: [device] \"b\": \"fd:7\" is of the device in line 3 already\n" },
		  { BOOT IMAGE("a", "") IMAGE("b", READONLY),
		    { 0 },
		    "10:9: [device] \"b\": \"fd:disk\" is of the device in line 3 already\n" });
	// Not disks that nobody writes to, nor servers of many.
	static const char good[] = BOOT IMAGE("a", READONLY) IMAGE("b", READONLY) SERVER("c", "fd:7")
		SERVER("d", "s") SERVER("e", "s");
	struct vm_config c;
	int r;
	char *errors = read_text(good, sizeof(good) - 1, NULL, &c, &r);
	CHECK_EQ(r, 0);
	CHECK_EQ(c.device_count, 5);
	free(errors);
	config_free(&c);
}

TEST(ids)
{
#define ID(text)   BOOT "[[device]]\nvirtio = \"blk\"\nimage = \"i\"\nid = " text "\n"
#define FORM_OF_ID " is not 1 to 32 of A-Z a-z 0-9 _ . -\n"
	CHECK_BAD({ ID("\"\""), { 0 }, "6:6: [device] number 1: id \"\"" FORM_OF_ID },
		  { ID("\"a b\""), { 0 }, "6:6: [device] number 1: id \"a b\"" FORM_OF_ID },
		  { ID("\"a/b\""), { 0 }, "6:6: [device] number 1: id \"a/b\"" FORM_OF_ID },
		  { ID("\"\xc3\xa4\""), { 0 }, "6:6: [device] number 1: id \"\xc3\xa4\"" FORM_OF_ID },
		  { ID("\"a\\n\""), { 0 }, "6:6: [device] number 1: id \"a\\u000A\"" FORM_OF_ID },
		  { ID("\"123456789012345678901234567890123\""),
		    { 0 },
		    "6:6: [device] number 1: id \"123456789012345678901234567890123\"" FORM_OF_ID },
		  { ID("5"), { 0 }, "6:6: [device] number 1: id is an integer, expected a string\n" },
		  { BOOT DISK DISK, { 0 }, "8:6: [device] \"d\": the id is taken by the device in line 3\n" },
		  { BOOT DISK DISK DISK,
		    { 0 },
		    "8:6: [device] \"d\": the id is taken by the device in line 3\n"
		    "12:6: [device] \"d\": the id is taken by the device in line 3\n" });
	static const char longest[] = ID("\"ABCXYZabcxyz0189_.-6789012345678\"");
	struct vm_config c;
	int r;
	free(read_text(longest, strlen(longest), NULL, &c, &r));
	config_free(&c);
	CHECK_EQ(r, 0);
}

TEST(numbers)
{
#define CPUS(text) "[vm]\ncpus = " text "\n" BOOT
#define CPUS_BAD(text, shown) \
	{ CPUS(text), { 0 }, "2:8: [vm]: cpus = " shown " is not in the range from 1 to 4096\n" }
	CHECK_BAD(CPUS_BAD("0", "0"), CPUS_BAD("-1", "-1"), CPUS_BAD("4097", "4097"),
		  CPUS_BAD("0x1001", "4097"), CPUS_BAD("4294967297", "4294967297"),
		  CPUS_BAD("9223372036854775807", "9223372036854775807"),
		  CPUS_BAD("-9223372036854775808", "-9223372036854775808"),
		  { CPUS("18446744073709551616"),
		    { 0 },
		    "2:8: 18446744073709551616 does not fit in 64 bits\n" },
		  { CPUS("18446744073709551617"),
		    { 0 },
		    "2:8: 18446744073709551617 does not fit in 64 bits\n" },
		  { CPUS("1.0"), { 0 }, "2:8: [vm]: cpus is a float, expected an integer\n" },
		  { CPUS("\"2\""), { 0 }, "2:8: [vm]: cpus is a string, expected an integer\n" },
		  { CPUS("true"), { 0 }, "2:8: [vm]: cpus is a boolean, expected an integer\n" },
		  { CPUS("1979-05-27"), { 0 }, "2:8: [vm]: cpus is a local date, expected an integer\n" });
#define KEY(text) BOOT DISK text "\n"
	CHECK_BAD({ KEY("queues = 0"),
		    { 0 },
		    "7:10: [device] \"d\": queues = 0 is not in the range from 1 to 1024\n" },
		  { KEY("queues = 65537"),
		    { 0 },
		    "7:10: [device] \"d\": queues = 65537 is not in the range from 1 to 1024\n" },
		  { KEY("queue_size = 65536"),
		    { 0 },
		    "7:14: [device] \"d\": queue_size = 65536 is not in the range from 2 to 32768\n" },
		  { KEY("queue_size = 100"),
		    { 0 },
		    "7:14: [device] \"d\": queue_size = 100 is not a power of two\n" },
		  { KEY("block_size = 1024"),
		    { 0 },
		    "7:14: [device] \"d\": block_size = 1024 is neither 512 nor 4096\n" },
		  { KEY("block_size = -512"),
		    { 0 },
		    "7:14: [device] \"d\": block_size = -512 is neither 512 nor 4096\n" },
		  { KEY("cpus = \"1-\""),
		    { 0 },
		    "7:8: [device] \"d\": cpus = \"1-\" is no list of processors, such as \"2-3,5\"\n" },
		  { KEY("cpus = 2"), { 0 }, "7:8: [device] \"d\": cpus is an integer, expected a string\n" },
		  { KEY("readonly = 1"),
		    { 0 },
		    "7:12: [device] \"d\": readonly is an integer, expected a boolean\n" },
		  { KEY("readonly = \"yes\""),
		    { 0 },
		    "7:12: [device] \"d\": readonly is a string, expected a boolean\n" });
#define TYPE(text) BOOT "[[device]]\nid = \"u\"\nvia = \"vhost-user\"\nsocket = \"s\"\nvirtio = " text "\n"
	CHECK_BAD(
		{ TYPE("0"), { 0 }, "7:10: [device] \"u\": virtio = 0 is not in the range from 1 to 63\n" },
		{ TYPE("64"), { 0 }, "7:10: [device] \"u\": virtio = 64 is not in the range from 1 to 63\n" },
		{ TYPE("-2"), { 0 }, "7:10: [device] \"u\": virtio = -2 is not in the range from 1 to 63\n" },
		{ TYPE("65538"),
		  { 0 },
		  "7:10: [device] \"u\": virtio = 65538 is not in the range from 1 to 63\n" },
		{ TYPE("\"vsok\""),
		  { 0 },
		  "7:10: [device] \"u\": virtio = \"vsok\" is no device type that is known by name (did you mean \"vsock\"?)\n" },
		{ TYPE("\"2\""),
		  { 0 },
		  "7:10: [device] \"u\": virtio = \"2\" is no device type that is known by name\n" },
		{ TYPE("\"\""),
		  { 0 },
		  "7:10: [device] \"u\": virtio = \"\" is no device type that is known by name\n" },
		{ TYPE("[]"), { 0 }, "7:10: [device] \"u\": virtio is an array, expected a string\n" });
}

TEST(memory)
{
#define MEM(text) "[vm]\nmemory = " text "\n" BOOT
#define MEM_FORM(shown)                 \
	{ MEM(shown),                   \
	  { 0 },                        \
	  "2:10: [vm]: memory = " shown \
	  " is not a size: digits, then nothing or one of K M G T, as in \"512M\"\n" }
#define MEM_RANGE(shown)                                                                                     \
	{                                                                                                    \
		MEM(shown), { 0 }, "2:10: [vm]: memory = " shown " is not in the range from 1 byte to 64T\n" \
	}
	CHECK_BAD(MEM_FORM("\"\""), MEM_FORM("\"M\""), MEM_FORM("\"512m\""), MEM_FORM("\"512MB\""),
		  MEM_FORM("\"512 M\""), MEM_FORM("\" 512M\""), MEM_FORM("\"512M \""), MEM_FORM("\"-1M\""),
		  MEM_FORM("\"+1M\""), MEM_FORM("\"1.5G\""), MEM_FORM("\"0x10M\""), MEM_FORM("\"1_024M\""),
		  MEM_FORM("\"1KM\""), MEM_FORM("\"512P\""));
	CHECK_BAD(MEM_RANGE("0"), MEM_RANGE("\"0\""), MEM_RANGE("\"0G\""), MEM_RANGE("-1"),
		  MEM_RANGE("\"65T\""), MEM_RANGE("70368744177665"), MEM_RANGE("9223372036854775807"),
		  MEM_RANGE("\"16777216T\""), MEM_RANGE("\"16777217T\""),
		  MEM_RANGE("\"18446744073709551615\""), MEM_RANGE("\"18446744073709551616\""),
		  MEM_RANGE("\"18446744073709551616K\""), MEM_RANGE("\"18014398509481985K\""),
		  MEM_RANGE("\"99999999999999999999999999999999M\""));
	CHECK_BAD(
		{ MEM("\"1000\""),
		  { 0 },
		  "2:10: [vm]: memory is not a multiple of the backing's pages of 4K (it is in bytes; \"512M\" are MiB)\n" },
		{ MEM("4097"),
		  { 0 },
		  "2:10: [vm]: memory is not a multiple of the backing's pages of 4K (it is in bytes; \"512M\" are MiB)\n" },
		{ "[vm]\nbacking = \"hugetlb-2M\"\nmemory = \"513M\"\n" BOOT,
		  { 0 },
		  "3:10: [vm]: memory is not a multiple of the backing's pages of 2048K\n" },
		{ "[vm]\nbacking = \"hugetlb-1G\"\n" BOOT,
		  { 0 },
		  "2:11: [vm]: memory is not a multiple of the backing's pages of 1048576K\n" },
		{ "[vm]\nbacking = \"hugetlb-4M\"\n" BOOT,
		  { 0 },
		  "2:11: [vm]: backing = \"hugetlb-4M\" is not known (did you mean \"hugetlb-2M\"?)\n" },
		{ MEM("1.5"), { 0 }, "2:10: [vm]: memory is a float, expected a string\n" });
}

TEST(texts)
{
	CHECK_BAD(
		{ "[boot]\nkernel = \"\"\n", { 0 }, "2:10: [boot]: kernel is empty, expected a path\n" },
		{ "[boot]\nkernel = \"a\\u0000b\"\n",
		  { 0 },
		  "2:10: [boot]: kernel has a NUL character in it\n" },
		{ "[boot]\nkernel = \"a\\u0000\"\ninitrd = 5\n",
		  { 0 },
		  "2:10: [boot]: kernel has a NUL character in it\n3:10: [boot]: initrd is an integer, expected a string\n" },
		{ BOOT "[serial]\nto = \"tty\"\n",
		  { 0 },
		  "4:6: [serial]: to = \"tty\" is none of \"stdio\", \"pty\", \"file:PATH\", \"unix:PATH\", \"none\"\n" },
		{ BOOT "[serial]\nto = \"file:\"\n",
		  { 0 },
		  "4:6: [serial]: to = \"file:\" is none of \"stdio\", \"pty\", \"file:PATH\", \"unix:PATH\", \"none\"\n" },
		{ BOOT "[vm]\non_reboot = \"halt\"\n",
		  { 0 },
		  "4:13: [vm]: on_reboot = \"halt\" is not known\n" },
		{ BOOT "[vm]\nname = \"\"\n", { 0 }, "4:8: [vm]: name has 0 bytes, not 1 to 64\n" },
		{ BOOT "[vm]\nname = \"a\\tb\"\n",
		  { 0 },
		  "4:8: [vm]: name has something in it that is not printable ASCII\n" },
		{ BOOT DISK "serial = \"123456789012345678901\"\n",
		  { 0 },
		  "7:10: [device] \"d\": serial has 21 bytes, not 0 to 20\n" });
}

TEST(slots)
{
	CHECK_BAD({ BOOT DISK "slot = 0\n",
		    { 0 },
		    "7:8: [device] \"d\": slot = 0 is not in the range from 1 to 31\n" },
		  { BOOT DISK "slot = 32\n",
		    { 0 },
		    "7:8: [device] \"d\": slot = 32 is not in the range from 1 to 31\n" },
		  { BOOT DISK "slot = 5\n" USER "socket = \"s\"\nslot = 5\n",
		    { 0 },
		    "13:8: [device] \"u\": slot 5 is taken by the device in line 3\n" });
}

static char *many_devices(unsigned count)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	fputs(BOOT, f);
	for (unsigned i = 0; i < count; i++)
		fprintf(f, "[[device]]\nid = \"d%u\"\nvirtio = \"blk\"\nimage = \"i\"\n", i);
	fclose(f);
	return text;
}

TEST(device_count)
{
	struct vm_config c;
	int r;
	char *text = many_devices(31);
	free(read_text(text, strlen(text), NULL, &c, &r));
	free(text);
	CHECK_EQ(r, 0);
	CHECK_EQ(c.device_count, 31);
	config_free(&c);
	text = many_devices(20000);
	char *got = read_text(text, strlen(text), NULL, &c, &r);
	bool same = strcmp(got, "127:1: [device]: more than 31 devices\n") == 0;
	free(text);
	free(got);
	CHECK(same);
}

TEST(all_errors_in_one_run)
{
	CHECK_BAD(
		{ "x = 1\n[vm]\ncpus = 0\nmemory = \"1X\"\n[boot]\ninitrd = 1\n[serial]\nto = \"\"\n"
		  "[[device]]\nid = \"a\"\nvirtio = \"blk\"\nqueues = 0\n[[device]]\nid = \"a\"\nvirtio = \"blk\"\nimage = \"i\"\n",
		  { "vm.colour=red" },
		  "1:1: key \"x\" is not known\n"
		  "3:8: [vm]: cpus = 0 is not in the range from 1 to 4096\n"
		  "4:10: [vm]: memory = \"1X\" is not a size: digits, then nothing or one of K M G T, as in \"512M\"\n"
		  "--set vm.colour=red: [vm]: key \"colour\" is not known\n"
		  "6:10: [boot]: initrd is an integer, expected a string\n"
		  "5:1: [boot]: key \"kernel\" is missing\n"
		  "8:6: [serial]: to = \"\" is none of \"stdio\", \"pty\", \"file:PATH\", \"unix:PATH\", \"none\"\n"
		  "12:10: [device] \"a\": queues = 0 is not in the range from 1 to 1024\n"
		  "9:1: [device] \"a\": key \"image\" is missing\n"
		  "14:6: [device] \"a\": the id is taken by the device in line 9\n" });
}

TEST(errors_are_not_endless)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	for (unsigned i = 0; i < 50000; i++)
		fprintf(f, "k%u = 1\n", i);
	fclose(f);
	struct vm_config c;
	int r;
	char *got = read_text(text, len, NULL, &c, &r);
	unsigned lines = 0;
	for (const char *p = got; *p; p++)
		lines += *p == '\n';
	bool told = strstr(got, "more errors are not shown\n") != NULL;
	free(text);
	free(got);
	CHECK_EQ(r, -EINVAL);
	CHECK_EQ(lines, 101);
	CHECK(told);
}

// ---- files ----

TEST(relative_paths_start_at_the_file)
{
	static const char text[] =
		"[vm]\ncontrol = \"c\"\n[boot]\nkernel = \"k\"\ninitrd = \"fd:x\"\n[serial]\nto = \"file:log\"\n"
		"[[device]]\nid = \"a\"\nvirtio = \"blk\"\nimage = \"../i\"\n"
		"[[device]]\nid = \"b\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\nsocket = \"s\"\n"
		"[[device]]\nid = \"c\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\nsandbox = \"none\"\n"
		"exec = [\"bin/p\", \"dir/{fd}\"]\n"
		"[[device]]\nid = \"e\"\nvia = \"vhost-user\"\nvirtio = \"fs\"\nsocket = \"fd:3\"\n"
		"[[device]]\nid = \"f\"\nvirtio = \"console\"\nports = [\"p=socket:s\", \"q=file:/f\", \"r=socket:fd:4\"]\n"
		"[[device]]\nid = \"g\"\nvirtio = \"vsock\"\ncid = 3\npath = \"v\"\n";
	char folder[] = "/tmp/minivmm-config-XXXXXX", path[64], want[80];
	CHECK(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/my vm.toml", folder);
	FILE *f = fopen(path, "w");
	CHECK(f);
	fputs(text, f);
	fclose(f);
	const char *sets[] = { "device.b.socket=here" };
	struct vm_config c;
	int r = config_read(&c, path, sets, 1, stdout), directory, missing;
	struct vm_config none;
	char *printed = NULL;
	size_t len;
	f = open_memstream(&printed, &len);
	directory = config_read(&none, folder, NULL, 0, f);
	unlink(path);
	missing = config_read(&none, path, NULL, 0, f);
	rmdir(folder);
	fclose(f);
	char lines[300];
	snprintf(lines, sizeof(lines),
		 "minivmm: read %s: Is a directory\nminivmm: open %s: No such file or directory\n", folder,
		 path);
	bool same = strcmp(printed, lines) == 0;
	if (!same)
		printf("%s", printed);
	free(printed);
	CHECK_EQ(r, 0);
	CHECK_EQ(directory, -EINVAL);
	CHECK_EQ(missing, -EINVAL);
	CHECK(same);
	CHECK_STR(c.name, "my vm");
	CHECK_STR(c.file, path);
#define IN_FOLDER(field, name)                      \
	snprintf(want, sizeof(want), name, folder); \
	CHECK_STR(field, want)
	IN_FOLDER(c.control, "%s/c");
	IN_FOLDER(c.kernel, "%s/k");
	CHECK_STR(c.initrd, "fd:x");
	IN_FOLDER(c.serial_to, "file:%s/log");
	IN_FOLDER(c.devices[0].image, "%s/../i");
	CHECK_STR(c.devices[1].socket, "here");
	IN_FOLDER(c.devices[2].exec[0], "%s/bin/p");
	CHECK_STR(c.devices[2].exec[1], "dir/{fd}");
	CHECK_STR(c.devices[3].socket, "fd:3");
	IN_FOLDER(c.devices[4].ports[0], "p=socket:%s/s");
	CHECK_STR(c.devices[4].ports[1], "q=file:/f");
	CHECK_STR(c.devices[4].ports[2], "r=socket:fd:4");
	IN_FOLDER(c.devices[5].path, "%s/v");
	config_free(&c);
}
