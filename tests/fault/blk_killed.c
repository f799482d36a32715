// SPDX-License-Identifier: BSD-2-Clause
// Our own block device program, killed at any moment: the front-end notices at once, is left with nothing,
// and the next one can be started (row P01 of the fault list, without a machine around it).
#include "tests/unit/test.h"

#include "bridges/vhost_user_impl.h"
#include "tests/fault/bridge_open.h"
#include "tests/fault/vu_peer.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

static char program_dir[PATH_MAX]; // of the build that this test belongs to
static char image[] = "/tmp/blk-killed-XXXXXX";

static bool prepare(void)
{
	log_init("blk_killed", LOG_ERROR);
	ssize_t n = readlink("/proc/self/exe", program_dir, sizeof(program_dir) - 1);
	for (int up = 0; n > 0 && up < 3; up++)
		*strrchr(program_dir, '/') = '\0';
	char program[PATH_MAX + 16];
	snprintf(program, sizeof(program), "%s/minivmm-blk", program_dir);
	static bool made;
	if (!made) {
		FD_AUTO fd = mkstemp(image);
		made = fd >= 0 && ftruncate(fd, 1 << 20) == 0;
	}
	return made && access(program, X_OK) == 0;
}

static const struct device_config disk = {
	.id = "disk0", .via = VIA_BUILTIN, .virtio_type = 2, .image = image
};

static bool front_open_disk(struct front *f)
{
	static struct bridge_host host;
	memset(f, 0, sizeof(*f));
	if (loop_init(&f->loop) < 0)
		return false;
	host = (struct bridge_host){ .loop = &f->loop,
				     .program_dir = program_dir,
				     .start_deadline = deadline_in_ms(10000),
				     .insecure = true };
	bridges_init(&host);
	f->rc = bridge_open(&f->b, &disk, &host, &f->e);
	bridges_free(&host); // it is not started again
	if (f->rc < 0) {
		printf("%s\n", f->e.text);
		return false;
	}
	f->b->events = &front_events;
	f->b->owner = f;
	return true;
}

static pid_t pid_of(const struct front *f)
{
	return CONTAINER_OF(f->b, struct vhost_user, backend)->child->pid;
}

TEST(killed_while_idle)
{
	if (!prepare())
		SKIP("minivmm-blk is not built");
	unsigned fds = count_fds();
	int64_t best = INT64_MAX; // of three: this machine has other work
	for (int i = 0; i < 3; i++) {
		struct front f;
		CHECK(front_open_disk(&f));
		kill(pid_of(&f), SIGKILL);
		deadline_ns start = deadline_now();
		bool told = loop_until(&f.loop, &f.died, 2000);
		int64_t took = ms_since(start);
		best = took < best ? took : best;
		loop_once(&f.loop, 20);
		CHECK(told && f.died == 1);
		CHECK_EQ(-f.b->ops->run(f.b, true), EPIPE);
		front_close(&f);
		CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
	}
	CHECK(best < 100);
	CHECK_EQ(count_fds(), fds);
}

// Dead is dead: a process whose connection was cut does not linger.
TEST(cut_off_ends_the_process)
{
	if (!prepare())
		SKIP("minivmm-blk is not built");
	struct front f;
	CHECK(front_open_disk(&f));
	struct vhost_user *vu = CONTAINER_OF(f.b, struct vhost_user, backend);
	vu_link_condemn(&vu->link, "for the test");
	CHECK(loop_until(&f.loop, &f.died, 1000));
	CHECK(strstr(f.why, "for the test"));
	for (int i = 0; i < 100 && vu->child->pidfd >= 0; i++)
		loop_once(&f.loop, 20);
	CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); // reaped before close
	front_close(&f);
}

// A second writer of the image is turned away by the program, in its own words, once.
TEST(refused_by_the_program_itself)
{
	if (!prepare())
		SKIP("minivmm-blk is not built");
	struct front first, second;
	struct backend *b;
	struct err e;
	CHECK(front_open_disk(&first));
	CHECK_EQ(loop_init(&second.loop), 0);
	struct bridge_host host = { .loop = &second.loop,
				    .program_dir = program_dir,
				    .start_deadline = deadline_in_ms(10000),
				    .insecure = true };
	bridges_init(&host);
	CHECK(bridge_open(&b, &disk, &host, &e) < 0);
	CHECK(strncmp(e.text, "disk0: minivmm-blk: image ", 26) == 0 && strstr(e.text, "in use"));
	loop_destroy(&second.loop);
	front_close(&first);
}

TEST(killed_before_it_is_ready)
{
	if (!prepare())
		SKIP("minivmm-blk is not built");
	unsigned fds = count_fds();
	struct loop loop;
	struct bridge_end end;
	struct bridge_pending p;
	struct err e;
	CHECK_EQ(loop_init(&loop), 0);
	struct bridge_host host = { .loop = &loop,
				    .program_dir = program_dir,
				    .start_deadline = deadline_in_ms(10000),
				    .insecure = true };
	bridges_init(&host);
	CHECK_EQ(bridge_start(&p, &disk, &host, &e), 0);
	kill(p.child->pid, SIGKILL);
	deadline_ns start = deadline_now();
	CHECK(bridge_finish(&end, &p, &e) < 0);
	CHECK(ms_since(start) < 1000);
	CHECK(strstr(e.text, "disk0") && strstr(e.text, "minivmm-blk"));
	loop_destroy(&loop);
	CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
	CHECK_EQ(count_fds(), fds);
}

static void *kill_later(void *arg)
{
	const int *job = arg; // pid, microseconds
	struct timespec t = { .tv_nsec = job[1] * 1000 };
	nanosleep(&t, NULL);
	kill(job[0], SIGKILL);
	return NULL;
}

// Start, stop and reset over and over while the blow falls somewhere.
TEST(killed_during_start_stop_and_reset)
{
	if (!prepare())
		SKIP("minivmm-blk is not built");
	unsigned fds = count_fds();
	struct mem_table ram = front_memory();
	int kick = fd_eventfd(), call = fd_eventfd();
	for (int round = 0; round < 12; round++) {
		struct front f;
		CHECK(front_open_disk(&f));
		int job[2] = { pid_of(&f), round * 137 };
		pthread_t t;
		CHECK(pthread_create(&t, NULL, kill_later, job) == 0);
		int rc = 0;
		uint32_t base;
		deadline_ns start = deadline_now();
		while (rc != -EPIPE && ms_since(start) < 3000) {
			rc = front_run(&f, &ram, kick, call);
			fd_event_signal(kick);
			if (rc == 0)
				rc = f.b->ops->queue_stop(f.b, 0, &base);
			if (rc == 0)
				rc = f.b->ops->run(f.b, false);
		}
		pthread_join(t, NULL);
		CHECK_EQ(-rc, EPIPE);
		CHECK(loop_until(&f.loop, &f.died, 1000));
		CHECK_EQ(f.died, 1);
		front_close(&f);
	}
	close(kick);
	close(call);
	close(ram.region[0].fd);
	unlink(image);
	CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
	CHECK_EQ(count_fds(), fds);
}
