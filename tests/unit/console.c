// SPDX-License-Identifier: BSD-2-Clause
// The host's side of the serial port: every kind of it, readers that block, leave or were never there.
#include "vmm/console.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"
#include "vmm/terminal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

static struct console console;
static struct loop loop;
static struct err err;
static char dir[] = "/tmp/minivmm-console.XXXXXX";
static char path[64];

// The guest: takes all input until it is told to take only so much.
static char typed[4096];
static size_t typed_len, room;
static unsigned quits;

static size_t input(void *owner, const uint8_t *bytes, size_t len)
{
	(void)owner;
	if (!bytes)
		return room;
	size_t n = MIN(len, MIN(room, sizeof(typed) - 1 - typed_len));
	memcpy(typed + typed_len, bytes, n);
	typed_len += n;
	typed[typed_len] = '\0';
	room -= n;
	return n;
}

static void quit(void *owner)
{
	(void)owner;
	quits++;
}

static int open_console(const char *to)
{
	typed_len = 0;
	typed[0] = '\0';
	room = 100000;
	quits = 0;
	err.text[0] = '\0';
	int rc = console_open(&console, to, &err);
	console.input = input;
	console.quit = quit;
	return rc;
}

static int start(const char *to)
{
	int rc = loop_init(&loop);
	if (rc == 0)
		rc = open_console(to);
	return rc < 0 ? rc : console_start(&console, &loop, &err);
}

static void finish(void)
{
	console_close(&console);
	loop_destroy(&loop);
}

static void say(const char *s)
{
	console_write(&console, (const uint8_t *)s, strlen(s));
}

// Runs the loop for as long as it has something to do, and at least `ms`.
static void turn(int ms)
{
	int64_t end = now_ms() + ms;
	do {
		loop_once(&loop, 1);
	} while (now_ms() < end);
	for (int i = 0; i < 100 && loop_once(&loop, 0) > 0; i++)
		;
}

// Runs the loop until something that takes the kernel's workers has come about; a test that waits in vain fails by what it checks next.
#define TURN_UNTIL(cond)                                                          \
	do {                                                                      \
		for (int64_t end_ = now_ms() + 5000; !(cond) && now_ms() < end_;) \
			loop_once(&loop, 1);                                      \
	} while (0)

static bool folder(void)
{
	if (path[0] == '\0' && !mkdtemp(dir))
		return false;
	snprintf(path, sizeof(path), "%s/serial", dir);
	return true;
}

static pid_t folder_owner;

__attribute__((constructor)) static void folder_own(void)
{
	folder_owner = getpid();
	signal(SIGPIPE, SIG_IGN); // as signals_block() does
}

__attribute__((destructor)) static void folder_remove(void)
{
	if (getpid() == folder_owner && path[0]) {
		unlink(path);
		rmdir(dir);
	}
}

TEST(none)
{
	uint64_t before = fds_open();
	CHECK_EQ(start("none"), 0);
	say("nobody\n");
	console_unmute(&console);
	finish();
	console_close(&console);
	CHECK_EQ(fds_open(), before);
}

TEST(never_opened)
{
	uint64_t before = fds_open();
	console_init(&console);
	say("nobody\n");
	console_close(&console);
	CHECK_EQ(fds_open(), before); // descriptor 0 above all
}

TEST(unknown_kinds_are_refused)
{
	static const char *const bad[] = { "", "tty", "file", "unix", "stdio:", "Stdio", "pipe:x" };
	uint64_t before = fds_open();
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CHECK_EQ(open_console(bad[i]), (unsigned long long)-EINVAL);
		CHECK(strstr(err.text, "is none of stdio, pty, file:PATH, unix:PATH, none") != NULL);
	}
	CHECK(open_console("file:/nonexistent/x") < 0);
	CHECK_STR(err.text, "serial: open /nonexistent/x: No such file or directory");
	CHECK(open_console("unix:/nonexistent/x") < 0);
	CHECK(strncmp(err.text, "serial: ", 8) == 0);
	CHECK_EQ(fds_open(), before);
}

static const char *file_text(void)
{
	static char text[65536];
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n < 0 ? 0 : n] = '\0';
	return text;
}

TEST(file)
{
	char to[80];
	uint64_t before = fds_open();
	CHECK(folder());
	snprintf(to, sizeof(to), "file:%s", path);
	CHECK_EQ(start(to), 0);
	say("one line\n");
	CHECK_STR(file_text(), "one line\n"); // at once
	say("pro");
	say("mpt> ");
	CHECK_STR(file_text(), "one line\n");
	turn(20);
	CHECK_STR(file_text(), "one line\nprompt> ");
	say("the end");
	finish(); // what is left is written
	CHECK_STR(file_text(), "one line\nprompt> the end");
	CHECK_EQ(start(to), 0); // begun anew
	finish();
	CHECK_STR(file_text(), "");
	CHECK_EQ(fds_open(), before);
	unlink(path);
}

TEST(a_full_disk_costs_its_bytes_and_no_work)
{
	CHECK_EQ(start("file:/dev/full"), 0);
	capture();
	for (int i = 0; i < 3000; i++)
		say("a line that cannot be written\n");
	turn(60);
	unsigned turns = 0;
	for (int i = 0; i < 100; i++)
		turns += loop_once(&loop, 1) > 0;
	const char *log = captured();
	bool empty = console.head == console.tail;
	finish();
	CHECK(strstr(log, "bytes dropped") != NULL);
	CHECK(empty);
	CHECK(turns <= 1);
}

static int saved[2] = { -1, -1 };

static void stdio_is(int in, int out)
{
	fflush(stdout);
	for (int i = 0; i < 2; i++)
		saved[i] = dup(i);
	dup2(in, 0);
	dup2(out, 1);
}

static void stdio_back(void)
{
	for (int i = 0; i < 2; i++) {
		dup2(saved[i], i);
		close(saved[i]);
	}
}

TEST(a_blocked_pipe_drops_and_counts)
{
	int pair[2], null = open("/dev/null", O_RDWR);
	CHECK_EQ(pipe(pair), 0);
	fcntl(pair[1], F_SETPIPE_SZ, 16384);
	stdio_is(null, pair[1]);
	close(pair[1]);
	int rc = start("stdio");
	int64_t begin = now_ms();
	enum { BYTES = 100000 };
	for (int i = 0; i < BYTES / 10; i++)
		say("123456789\n");
	int64_t took = now_ms() - begin;
	capture();
	turn(50);
	const char *quiet = captured();
	bool told_early = strstr(quiet, "dropped") != NULL;
	static char text[BYTES];
	size_t len = 0;
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	capture();
	for (int i = 0; i < 30; i++) {
		ssize_t n = read(pair[0], text + len, sizeof(text) - len);
		len += n > 0 ? (size_t)n : 0;
		turn(5);
	}
	const char *log = captured();
	finish();
	stdio_back();
	close(pair[0]);
	close(null);
	CHECK_EQ(rc, 0);
	CHECK(took < 1000); // a vCPU never waits
	CHECK(!told_early);
	unsigned long dropped = 0;
	CHECK_EQ(sscanf(log, "minivmm: serial: the reader was too slow or is gone: %lu bytes dropped",
			&dropped),
		 1);
	CHECK_EQ(dropped + len, BYTES);
	CHECK(len >= CONSOLE_RING);
	CHECK(memcmp(text, "123456789\n123456789\n", 20) == 0);
}

TEST(a_reader_that_is_gone_costs_no_work)
{
	int pair[2], null = open("/dev/null", O_RDWR);
	CHECK_EQ(pipe(pair), 0);
	stdio_is(null, pair[1]);
	close(pair[1]);
	int rc = start("stdio");
	say("read\n");
	close(pair[0]);
	capture();
	for (int i = 0; i < 100; i++)
		say("not read\n");
	turn(60);
	unsigned turns = 0;
	for (int i = 0; i < 100; i++)
		turns += loop_once(&loop, 1) > 0;
	captured();
	finish();
	stdio_back();
	close(null);
	CHECK_EQ(rc, 0);
	CHECK(turns <= 1);
}

// ---- a terminal -------------------------------------------------------------------------------------------------

static int pty_new(int *slave)
{
	char name[64];
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof(name)))
		return -1;
	*slave = open(name, O_RDWR | O_NOCTTY);
	fcntl(master, F_SETFL, O_NONBLOCK);
	return master;
}

static bool same_settings(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && memcmp(a->c_cc, b->c_cc, VEOL2 + 1) == 0;
}

TEST(escape_sequences_on_a_terminal)
{
	int slave, master = pty_new(&slave);
	struct termios was, in_use, after;
	CHECK(master >= 0);
	tcgetattr(slave, &was);
	stdio_is(slave, slave);
	int rc = start("stdio");
	tcgetattr(slave, &in_use);
	bool all = true;
	static const char keys[] = "ab\001\001c\001zd\003\004";
	all &= write(master, keys, sizeof(keys) - 1) == (ssize_t)sizeof(keys) - 1;
	TURN_UNTIL(typed_len >= strlen("ab\001cd\003\004"));
	char first[sizeof(typed)];
	strcpy(first, typed);
	all &= write(master, "\001", 1) == 1; // the two keys may come apart
	TURN_UNTIL(console.escape);
	capture();
	all &= write(master, "h", 1) == 1;
	TURN_UNTIL(!console.escape);
	const char *help = captured();
	unsigned before = quits;
	all &= write(master, "x\001x", 3) == 3;
	TURN_UNTIL(quits > before);
	finish();
	stdio_back();
	tcgetattr(slave, &after);
	close(slave);
	close(master);
	CHECK_EQ(rc, 0);
	CHECK(all);
	CHECK(was.c_lflag & ICANON);
	CHECK_EQ(in_use.c_lflag & (ICANON | ECHO | ISIG), 0);
	CHECK_STR(first, "ab\001cd\003\004"); // Ctrl-C and Ctrl-D are the guest's
	CHECK(strstr(help, "Ctrl-A x quits") != NULL);
	CHECK_EQ(before, 0);
	CHECK_EQ(quits, 1);
	CHECK_STR(typed + strlen(first), "x");
	CHECK(same_settings(&was, &after)); // restored
}

// Ends by a fatal signal with the terminal taken.
static int slave_of_child;

static int die_raw(void)
{
	dup2(slave_of_child, 0);
	if (!terminal_take(0))
		return 1;
	struct termios t;
	tcgetattr(0, &t);
	if (t.c_lflag & ICANON)
		return 2;
	signal(SIGABRT, SIG_DFL);
	raise(SIGFPE);
	return 3;
}

static int exit_raw(void)
{
	dup2(slave_of_child, 0);
	if (!terminal_take(0))
		return 1;
	fclose(stdout);
	exit(0);
}

TEST(the_terminal_is_restored_by_exit_and_by_a_fatal_signal)
{
	struct termios was, after[2];
	int master = pty_new(&slave_of_child);
	tcgetattr(slave_of_child, &was);
	int status = in_fork(die_raw);
	tcgetattr(slave_of_child, &after[0]);
	pid_t pid = fork();
	if (pid == 0)
		exit_raw();
	int exited;
	waitpid(pid, &exited, 0);
	tcgetattr(slave_of_child, &after[1]);
	close(slave_of_child);
	close(master);
	CHECK_EQ(status, 1000 + SIGFPE);
	CHECK(WIFEXITED(exited));
	CHECK(same_settings(&was, &after[0]));
	CHECK(same_settings(&was, &after[1]));
}

TEST(a_client_without_a_descriptor_for_it_waits_in_peace)
{
	char to[80];
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct rlimit old, none;
	CHECK(folder());
	snprintf(to, sizeof(to), "unix:%s", path);
	CHECK_EQ(start(to), 0);
	memcpy(sa.sun_path, path, strlen(path) + 1);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = connect(client, (struct sockaddr *)&sa, sizeof(sa));
	getrlimit(RLIMIT_NOFILE, &old);
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	unsigned wakes = 0;
	for (int64_t end = now_ms() + 200; now_ms() < end;)
		wakes += (unsigned)loop_once(&loop, 5);
	int while_none = console.in_fd;
	setrlimit(RLIMIT_NOFILE, &old);
	turn(100);
	say("at last\n");
	turn(20);
	char text[16] = "";
	ssize_t n = recv(client, text, sizeof(text) - 1, MSG_DONTWAIT);
	close(client);
	finish();
	CHECK_EQ(rc, 0);
	CHECK_EQ(while_none, -1);
	CHECK(wakes > 0 && wakes <= 2 * 200 / 20 + 2);
	CHECK_EQ(n, 8);
	CHECK_STR(text, "at last\n");
}

TEST(pty)
{
	uint64_t before = fds_open();
	char name[64] = "";
	capture();
	int rc = start("pty");
	const char *log = captured();
	CHECK_EQ(rc, 0);
	CHECK_EQ(sscanf(log, "minivmm: serial port is %63s", name), 1);
	say("before anybody came\n");
	for (int round = 0; round < 3; round++) {
		int fd = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
		CHECK(fd >= 0);
		char text[64];
		say("hello\n");
		ssize_t n = -1;
		TURN_UNTIL((n = read(fd, text, sizeof(text))) > 0);
		CHECK(n > 0);
		CHECK_EQ(write(fd, "typed", 5), 5);
		TURN_UNTIL(typed_len >= 5 * (size_t)(round + 1));
		close(fd); // and nobody is there: no hang-up
		turn(5);
	}
	CHECK_STR(typed, "typedtypedtyped");
	for (int i = 0; i < 10000; i++)
		say("nobody reads this\n"); // does not wait
	finish();
	CHECK_EQ(fds_open(), before);
}

// ---- socket -----------------------------------------------------------------------------------------------------

static int client(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static const char *received(int fd)
{
	static char text[65536];
	size_t len = 0;
	ssize_t n;
	while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	return text;
}

static int start_unix(void)
{
	char to[80];
	if (!folder())
		return -1;
	snprintf(to, sizeof(to), "unix:%s", path);
	return start(to);
}

TEST(unix_clients_come_and_go)
{
	uint64_t before = fds_open();
	struct stat st;
	CHECK_EQ(start_unix(), 0);
	CHECK_EQ(stat(path, &st), 0);
	CHECK_EQ(st.st_mode & 0777, 0600);
	say("nobody hears this\n");
	for (int i = 0; i < 20; i++) {
		int fd = client();
		CHECK(fd >= 0);
		turn(2);
		say("hello\n");
		CHECK_STR(received(fd), "hello\n");
		CHECK_EQ(write(fd, "k", 1), 1);
		turn(2);
		close(fd);
		turn(2);
	}
	CHECK_STR(typed, "kkkkkkkkkkkkkkkkkkkk");
	// The second one waits for the first to leave.
	int first = client(), second = client();
	turn(2);
	say("for the first\n");
	CHECK_STR(received(first), "for the first\n");
	CHECK_STR(received(second), "");
	close(first);
	turn(5);
	say("for the second\n");
	CHECK_STR(received(second), "for the second\n");
	finish();
	CHECK_STR(received(second), "");
	close(second);
	CHECK(stat(path, &st) < 0); // removed
	CHECK_EQ(fds_open(), before);
}

TEST(unix_client_that_types_and_leaves)
{
	CHECK_EQ(start_unix(), 0);
	room = 4;
	int fd = client();
	CHECK_EQ(write(fd, "all of it is read", 17), 17);
	close(fd);
	turn(5);
	CHECK_STR(typed, "all ");
	int next = client();
	turn(5);
	while (room == 0 && typed_len < 17) {
		room = 4;
		console_unmute(&console);
		turn(3);
	}
	CHECK_STR(typed, "all of it is read");
	turn(5);
	say("to the next\n");
	CHECK_STR(received(next), "to the next\n");
	close(next);
	finish();
}

TEST(c08_unix_client_that_never_reads)
{
	CHECK_EQ(start_unix(), 0);
	int fd = client();
	turn(2);
	int64_t begin = now_ms();
	for (int i = 0; i < 50000; i++)
		say("a flood of output that nobody takes\n");
	CHECK(now_ms() - begin < 2000);
	CHECK(console.dropped > 0);
	close(fd);
	capture();
	turn(40);
	const char *log = captured();
	CHECK(strstr(log, "bytes dropped") != NULL);
	finish();
}

// One is served, the others wait with the kernel or are sent away, and cost no descriptor here; those that left before their turn, some
// with half a line said, hold up nobody.
TEST(c08_a_thousand_unix_clients)
{
	static int many[1000]; // most of which are sent away
	const uint64_t before = fds_open();
	unsigned connected = 0;
	CHECK_EQ(start_unix(), 0);
	const uint64_t quiet = fds_open();
	for (unsigned i = 0; i < ARRAY_LEN(many); i++) {
		int fd = client();
		if (fd < 0)
			continue;
		many[connected++] = fd;
		if (i % 2 && write(fd, "\0\xff half", 7) != 7)
			abort();
		turn(1);
	}
	CHECK(connected > 1 && connected < 20);
	CHECK_EQ(__builtin_popcountll(fds_open()), __builtin_popcountll(quiet) + (int)connected + 1);
	typed_len = 0;
	say("for the first\n");
	CHECK_STR(received(many[0]), "for the first\n");
	for (unsigned i = 1; i < connected; i++)
		CHECK_STR(received(many[i]), "");
	for (unsigned i = 0; i < connected; i++)
		close(many[i]);
	TURN_UNTIL(fds_open() == quiet);
	int next = -1;
	TURN_UNTIL((next = client()) >= 0);
	turn(3 * (int)connected); // those before it come first
	say("to the next\n");
	const char *got = received(next);
	CHECK(strstr(got, "to the next\n") != NULL);
	close(next);
	finish();
	CHECK_EQ(fds_open(), before);
}

static atomic_bool over;

static void *guest(void *arg)
{
	(void)arg;
	while (!over) {
		say("x\n");
		console_unmute(&console);
	}
	return NULL;
}

// The guest writes and reads on its own thread while clients come, type and go.
TEST(unix_clients_beside_a_busy_guest)
{
	pthread_t thread;
	CHECK_EQ(start_unix(), 0);
	over = false;
	pthread_create(&thread, NULL, guest, NULL);
	for (int i = 0; i < 50; i++) {
		room = (size_t)i % 3;
		int fd = client();
		turn(1);
		if (fd >= 0) {
			if (write(fd, "typing", 6) < 0)
				abort();
			turn(1);
			received(fd);
			close(fd);
		}
		turn(1);
	}
	over = true;
	pthread_join(thread, NULL);
	finish();
}
