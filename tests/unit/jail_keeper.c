// SPDX-License-Identifier: BSD-2-Clause
// Programs end with the monitor whatever they did before: whoever joined the keeper is killed, and nobody else.
//
// The keeper is forked twice, to be init's; here the test is the subreaper in init's place, which shows how it ends.
#include "vmm/jail_keeper.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/spawn.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static char program[] = "program", *exec_words[] = { program, NULL };
static struct vm_config config = { .device_count = 1 };
static struct device_config device = { .id = "fs0" };
static int life_line[2]; // whoever lives has its other end

static void prepare(void)
{
	device.exec = exec_words;
	config.devices = &device;
	prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L);
}

CHILD(sleep)
{
	sleep_ms(60000);
}

static void *execute_again(void *arg)
{
	static char self[] = SELF, what[] = "child:sleep";
	char *const argv[] = { self, what, NULL };
	char *const no_environment[] = { NULL };
	execve(self, argv, no_environment);
	return arg;
}

// As hard to end as can be: from the third descriptor's other end it is to be seen who is left.
CHILD(hostile)
{
	pthread_t thread;
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, 0L, 0L, 0L, 0L);
	if (fork() == 0) {
		setsid();
		if (fork() == 0)
			setsid();
		child_sleep(0, NULL);
	}
	if (write(SPAWN_FD_FIRST, "x", 1) != 1 || pthread_create(&thread, NULL, execute_again, NULL) != 0)
		_exit(1);
	pthread_join(thread, NULL);
}

static int start(struct child *c, const char *what, int keeper, struct err *e)
{
	const char *argv[] = { "child", what, NULL };
	const struct spawn_request rq = { .id = "fs0",
					  .program = SELF,
					  .argv = argv,
					  .fds = { life_line[1] },
					  .fd_count = 1,
					  .isolate = true,
					  .keeper = keeper };
	return spawn_start(c, &rq, e);
}

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, ms) == 1;
}

static int killed_monitor(void)
{
	struct jail_keeper k;
	struct child c;
	struct err e;
	close(life_line[0]);
	if (jail_keeper_make(&k, &config, -1, &e) < 0 || start(&c, "child:hostile", k.fd, &e) < 0)
		return 1;
	close(life_line[1]);
	sleep_ms(300); // it has executed itself, or does it later: both are to be ended
	kill(getpid(), SIGKILL);
	return 2;
}

TEST(a_program_that_does_what_it_can_ends_with_a_killed_monitor)
{
	char byte;
	prepare();
	CHECK_EQ(pipe2(life_line, O_CLOEXEC), 0);
	CHECK_EQ(in_fork(killed_monitor), 1000 + SIGKILL);
	close(life_line[1]);
	CHECK_EQ(read(life_line[0], &byte, 1), 1);
	CHECK(readable(life_line[0], 1000));
	CHECK_EQ(read(life_line[0], &byte, 1), 0);
	close(life_line[0]);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static pid_t joined[CONFIG_DEVICES_MAX];

// A process of ours that has joined, unless it was killed for that already.
static pid_t join(int keeper)
{
	int ready[2];
	char byte;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = fork();
	if (pid == 0) {
		if (jail_keeper_join(keeper) < 0 || write(ready[1], "", 1) != 1)
			_exit(1);
		close(keeper);
		for (;;)
			pause();
	}
	close(ready[1]);
	while (read(ready[0], &byte, 1) < 0)
		;
	close(ready[0]);
	return pid;
}

// How `pid` ended, 0 if it lives on.
static int ended(pid_t pid, int ms)
{
	int status = 0;
	for (int64_t begin = now_ms(); now_ms() - begin < ms; sleep_ms(1))
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status) + 1;
	return 0;
}

TEST(all_that_joined_are_killed_and_none_is_forgotten)
{
	struct jail_keeper k;
	struct err e;
	prepare();
	uint64_t before = fds_open();
	CHECK_EQ(jail_keeper_make(&k, &config, -1, &e), 0);
	pid_t apart = fork();
	if (apart == 0) {
		close(k.fd);
		for (;;)
			pause();
	}
	// As many as there may be, twice: those that have ended make room.
	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < CONFIG_DEVICES_MAX; i++)
			CHECK((joined[i] = join(k.fd)) > 0);
		for (unsigned i = 0; i < CONFIG_DEVICES_MAX && round == 0; i++) {
			kill(joined[i], SIGKILL);
			CHECK_EQ(ended(joined[i], 2000), 1000 + SIGKILL);
		}
	}
	CHECK_EQ(ended(joined[0], 50), 0);
	pid_t beyond = join(k.fd); // one that cannot be held is not there
	CHECK_EQ(ended(beyond, 2000), 1000 + SIGKILL);
	CHECK_EQ(ended(joined[CONFIG_DEVICES_MAX - 1], 50), 0);
	jail_keeper_end(&k);
	CHECK_EQ(k.fd, -1);
	for (unsigned i = 0; i < CONFIG_DEVICES_MAX; i++)
		CHECK_EQ(ended(joined[i], 2000), 1000 + SIGKILL);
	CHECK_EQ(ended(apart, 50), 0);
	kill(apart, SIGKILL);
	CHECK_EQ(ended(apart, 2000), 1000 + SIGKILL);
	CHECK_EQ(ended(-1, 2000), 0 + 1); // the keeper itself, with status 0
	CHECK(no_children());
	jail_keeper_end(&k);
	CHECK_EQ(fds_open(), before);
}

TEST(only_where_a_device_has_a_program)
{
	struct jail_keeper k;
	struct err e;
	prepare();
	config.devices[0].exec = NULL;
	CHECK_EQ(jail_keeper_make(&k, &config, -1, &e), 0);
	CHECK_EQ(k.fd, -1);
	CHECK(no_children());
	jail_keeper_end(&k);
	// One that does it besides stays whose it is.
	config.devices[0].exec = exec_words;
	FD_AUTO other = fd_eventfd();
	CHECK_EQ(jail_keeper_make(&k, &config, other, &e), 0);
	CHECK_EQ(k.fd, other);
	CHECK(no_children());
	jail_keeper_end(&k);
	CHECK(fcntl(other, F_GETFD) >= 0);
}

// Nothing is started that would not be held.
TEST(without_a_keeper_nothing_is_started)
{
	struct jail_keeper k;
	struct child c;
	struct loop l;
	struct err e = { "" };
	char how[64];
	prepare();
	uint64_t before = fds_open();
	CHECK_EQ(pipe2(life_line, O_CLOEXEC), 0);
	CHECK_EQ(loop_init(&l), 0);
	CHECK_EQ(jail_keeper_make(&k, &config, -1, &e), 0);
	CHECK_EQ(start(&c, "child:sleep", k.fd, &e), 0);
	CHECK_EQ(jail_keeper_watch(&k, &l), 0);
	capture();
	CHECK_EQ(loop_once(&l, 0), 0);
	CHECK_EQ(send(k.fd, "", 1, MSG_NOSIGNAL),
		 1); // as a killed one would leave things: it is gone, and we are not told in advance
	CHECK_EQ(loop_once(&l, 2000), 1);
	CHECK_EQ(loop_once(&l, 0), 0);
	CHECK(strstr(captured(), "has ended: one that dies stays dead"));
	CHECK(spawn_ended(&c, 2000, how, sizeof(how)));
	CHECK_STR(how, "killed by signal 9 (Killed)");
	spawn_stop(&c, 0);
	CHECK_EQ(ended(-1, 2000), 0 + 1);
	CHECK_EQ(start(&c, "child:sleep", k.fd, &e), -ESRCH);
	CHECK(strstr(e.text, ": tie it to its keeper: No such process"));
	CHECK(no_children());
	jail_keeper_end(&k);
	loop_destroy(&l);
	fd_close_all(life_line, 2);
	CHECK_EQ(fds_open(), before);
}
