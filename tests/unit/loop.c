// SPDX-License-Identifier: BSD-2-Clause
// The event loop: sources that vanish inside callbacks, one-shot sources, stale events, signals (K07).
#include "vmm/base/loop.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/time.h>

static struct loop loop;

struct counted {
	struct loop_source source;
	unsigned count;
	uint32_t events;
	bool keep; // leave the eventfd signalled
	struct counted *remove[3];
};

static void ready(struct loop_source *s, uint32_t events)
{
	struct counted *c = CONTAINER_OF(s, struct counted, source);
	c->count++;
	c->events = events;
	if (!c->keep)
		fd_event_take(s->fd);
	for (unsigned i = 0; i < 3; i++)
		if (c->remove[i]) {
			struct counted *other = c->remove[i];
			loop_remove(&loop, &other->source);
			fd_close(&other->source.fd); // the number may be anybody's from now on
		}
}

static struct counted *counted_new(uint32_t events)
{
	struct counted *c = calloc(1, sizeof(*c));
	c->source = (struct loop_source){ .fd = fd_eventfd(), .ready = ready };
	if (loop_add(&loop, &c->source, events))
		abort();
	return c;
}

static void counted_free(struct counted *c)
{
	loop_remove(&loop, &c->source);
	fd_close(&c->source.fd);
	free(c);
}

TEST(level_triggered)
{
	CHECK_EQ(loop_init(&loop), 0);
	struct counted *c = counted_new(EPOLLIN);
	CHECK_EQ(loop_once(&loop, 0), 0);
	c->keep = true;
	fd_event_signal(c->source.fd);
	CHECK_EQ(loop_once(&loop, 0), 1);
	CHECK_EQ(loop_once(&loop, 0), 1);
	c->keep = false;
	CHECK_EQ(loop_once(&loop, 0), 1);
	CHECK_EQ(loop_once(&loop, 0), 0);
	CHECK_EQ(c->count, 3);
	counted_free(c);
	loop_destroy(&loop);
}

TEST(removed_by_itself)
{
	CHECK_EQ(loop_init(&loop), 0);
	struct counted *c = counted_new(EPOLLIN);
	c->remove[0] = c;
	fd_event_signal(c->source.fd);
	CHECK_EQ(loop_once(&loop, 0), 1);
	CHECK_EQ(loop_once(&loop, 0), 0);
	CHECK_EQ(c->count, 1);
	counted_free(c);
	loop_destroy(&loop);
}

// All three are ready in one batch; whichever comes first removes the other two.
TEST(removed_by_another_in_the_same_batch)
{
	CHECK_EQ(loop_init(&loop), 0);
	struct counted *c[3];
	for (unsigned i = 0; i < 3; i++)
		c[i] = counted_new(EPOLLIN);
	for (unsigned i = 0; i < 3; i++) {
		c[i]->remove[0] = c[(i + 1) % 3];
		c[i]->remove[1] = c[(i + 2) % 3];
		fd_event_signal(c[i]->source.fd);
	}
	CHECK_EQ(loop_once(&loop, 0), 3);
	CHECK_EQ(c[0]->count + c[1]->count + c[2]->count, 1);
	CHECK_EQ(loop_once(&loop, 0), 0);
	for (unsigned i = 0; i < 3; i++)
		counted_free(c[i]);
	loop_destroy(&loop);
}

static struct counted *to_free;

static void free_other(struct loop_source *s, uint32_t events)
{
	(void)events;
	fd_event_take(s->fd);
	if (to_free)
		counted_free(to_free);
	to_free = NULL;
}

TEST(freed_in_the_same_batch)
{
	CHECK_EQ(loop_init(&loop), 0);
	struct loop_source first = { .fd = fd_eventfd(), .ready = free_other };
	CHECK_EQ(loop_add(&loop, &first, EPOLLIN), 0);
	to_free = counted_new(EPOLLIN);
	fd_event_signal(first.fd); // ready lists are in the order of becoming ready
	fd_event_signal(to_free->source.fd);
	CHECK_EQ(loop_once(&loop, 0), 2); // the sanitizer watches
	CHECK(to_free == NULL);
	loop_remove(&loop, &first);
	fd_close(&first.fd);
	loop_destroy(&loop);
}

TEST(more_sources_than_a_batch)
{
	struct counted *c[3 * LOOP_BATCH];
	CHECK_EQ(loop_init(&loop), 0);
	for (unsigned i = 0; i < ARRAY_LEN(c); i++) {
		c[i] = counted_new(EPOLLIN);
		fd_event_signal(c[i]->source.fd);
	}
	for (int left = (int)ARRAY_LEN(c); left > 0; left -= LOOP_BATCH)
		CHECK_EQ(loop_once(&loop, 0), LOOP_BATCH);
	for (unsigned i = 0; i < ARRAY_LEN(c); i++) {
		CHECK_EQ(c[i]->count, 1);
		counted_free(c[i]);
	}
	loop_destroy(&loop);
}

TEST(one_shot)
{
	CHECK_EQ(loop_init(&loop), 0);
	struct counted *c = counted_new(EPOLLIN | EPOLLONESHOT);
	c->keep = true;
	fd_event_signal(c->source.fd);
	CHECK_EQ(loop_once(&loop, 0), 1);
	CHECK_EQ(loop_once(&loop, 0), 0);
	CHECK_EQ(loop_modify(&loop, &c->source, EPOLLIN | EPOLLONESHOT), 0);
	CHECK_EQ(loop_once(&loop, 0), 1);
	CHECK_EQ(loop_once(&loop, 0), 0);
	counted_free(c);
	loop_destroy(&loop);
}

TEST(one_shot_hides_a_hang_up)
{
	int pair[2];
	CHECK_EQ(loop_init(&loop), 0);
	CHECK_EQ(pipe(pair), 0);
	struct counted c = { .source = { .fd = pair[0], .ready = ready }, .keep = true };
	CHECK_EQ(loop_add(&loop, &c.source, EPOLLIN | EPOLLONESHOT), 0);
	CHECK_EQ(write(pair[1], "x", 1), 1);
	CHECK_EQ(loop_once(&loop, 0), 1);
	close(pair[1]);
	CHECK_EQ(loop_once(&loop, 0), 0);
	CHECK_EQ(loop_modify(&loop, &c.source, EPOLLIN | EPOLLONESHOT), 0);
	CHECK_EQ(loop_once(&loop, 0), 1);
	CHECK_EQ(c.events, EPOLLIN | EPOLLHUP);
	loop_remove(&loop, &c.source);
	close(pair[0]);
	loop_destroy(&loop);
}

TEST(what_cannot_be_watched)
{
	CHECK_EQ(loop_init(&loop), 0);
	struct loop_source s = { .fd = -1, .ready = ready };
	CHECK_EQ(loop_add(&loop, &s, EPOLLIN), (unsigned long long)-EBADF);
	CHECK(!s.added);
	s.fd = memfd_create("file", MFD_CLOEXEC);
	CHECK_EQ(loop_add(&loop, &s, EPOLLIN), (unsigned long long)-EPERM);
	CHECK(loop_modify(&loop, &s, EPOLLIN) < 0);
	loop_remove(&loop, &s); // never added: nothing
	close(s.fd);
	struct counted *c = counted_new(EPOLLIN);
	CHECK_EQ(loop_add(&loop, &c->source, EPOLLIN), (unsigned long long)-EEXIST);
	counted_free(c);
	loop_destroy(&loop);
	loop_destroy(&loop);
}

static unsigned alarms;

static void on_alarm(int number)
{
	(void)number;
	alarms++;
}

static void stop(struct loop_source *s, uint32_t events)
{
	(void)events;
	fd_event_take(s->fd);
	loop_stop(&loop);
}

static void stop_in_time(struct loop_source *s, uint32_t events)
{
	if (alarms >= 3)
		stop(s, events);
	else
		sleep_ms(1);
}

TEST(survives_signals_and_stops)
{
	CHECK_EQ(loop_init(&loop), 0);
	const struct sigaction action = { .sa_handler = on_alarm };
	struct sigaction old;
	CHECK_EQ(sigaction(SIGALRM, &action, &old), 0);
	const struct itimerval every = { .it_interval.tv_usec = 2000, .it_value.tv_usec = 2000 },
			       never = { 0 };
	setitimer(ITIMER_REAL, &every, NULL);
	int rc = loop_once(&loop, 500); // EINTR: nothing delivered, no error
	struct loop_source s = { .fd = fd_eventfd(), .ready = stop_in_time };
	CHECK_EQ(loop_add(&loop, &s, EPOLLIN), 0);
	fd_event_signal(s.fd);
	int run = loop_run(&loop);
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &old, NULL);
	CHECK_EQ(rc, 0);
	CHECK_EQ(run, 0);
	CHECK(alarms >= 3);
	loop_remove(&loop, &s);
	close(s.fd);
	loop_destroy(&loop);
}

TEST(a_broken_epoll_ends_it)
{
	CHECK_EQ(loop_init(&loop), 0);
	int fd = loop.epoll_fd;
	loop.epoll_fd = fd_eventfd();
	CHECK_EQ(loop_run(&loop), (unsigned long long)-EINVAL);
	loop_destroy(&loop);
	close(fd);
}

static void *arm(void *arg)
{
	for (int i = 0; i < 2000; i++)
		if (loop_modify(&loop, arg, EPOLLIN | EPOLLONESHOT))
			abort();
	return NULL;
}

TEST(armed_from_another_thread)
{
	pthread_t thread;
	CHECK_EQ(loop_init(&loop), 0);
	struct counted *c = counted_new(EPOLLIN | EPOLLONESHOT);
	c->keep = true;
	fd_event_signal(c->source.fd);
	CHECK_EQ(pthread_create(&thread, NULL, arm, &c->source), 0);
	int64_t end = now_ms() + 2000;
	while (c->count < 20 && now_ms() < end)
		CHECK(loop_once(&loop, 10) >= 0);
	pthread_join(thread, NULL);
	CHECK(c->count > 0);
	counted_free(c);
	loop_destroy(&loop);
}
