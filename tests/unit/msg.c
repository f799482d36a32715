// SPDX-License-Identifier: BSD-2-Clause
#include "tests/unit/count_fds.h"
#include "tests/unit/test.h"

#include "vmm/base/fd.h"
#include "vmm/base/msg.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int a, b; // a connected pair

static void pair_open(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	a = pair[0];
	b = pair[1];
}

static void pair_close(void)
{
	fd_close(&a);
	fd_close(&b);
}

static int send_text(const char *text, const int *fds, unsigned count)
{
	char copy[256];
	size_t len = strlen(text);
	memcpy(copy, text, len + 1);
	struct iovec iov[3] = { { copy, len / 2 }, { copy, 0 }, { copy + len / 2, len - len / 2 } };
	return msg_send(a, iov, 3, fds, count, deadline_in_ms(1000));
}

TEST(bytes_and_descriptors_arrive)
{
	unsigned before = count_fds();
	pair_open();
	char in[16] = "";
	int fds[2] = { a, b };
	struct msg_fds got = { .count = 0 };
	CHECK_EQ(send_text("hello world", fds, 2), 0);
	CHECK_EQ(msg_recv(b, in, 5, &got, deadline_in_ms(1000)), 0);
	CHECK_EQ(got.count, 2);
	CHECK_EQ(fcntl(got.fd[0], F_GETFD), FD_CLOEXEC);
	CHECK_EQ(msg_recv(b, in + 5, 6, &got, deadline_in_ms(1000)), 0);
	CHECK_EQ(got.count, 2);
	CHECK_STR(in, "hello world");
	CHECK_EQ(msg_fds_take_one(&got), -1); // two: all closed
	CHECK_EQ(got.count, 0);
	CHECK_EQ(send_text("x", fds, 1), 0);
	CHECK_EQ(msg_recv(b, in, 1, &got, deadline_in_ms(1000)), 0);
	int one = msg_fds_take_one(&got);
	CHECK(one >= 0);
	close(one);
	pair_close();
	CHECK_EQ(count_fds(), before);
}

TEST(descriptors_without_room_are_closed)
{
	unsigned before = count_fds();
	pair_open();
	char in[4];
	int fds[MSG_FDS_MAX];
	for (unsigned i = 0; i < MSG_FDS_MAX; i++)
		fds[i] = a;
	struct msg_fds got = { .count = 0 };
	CHECK_EQ(send_text("x", fds, 1), 0);
	CHECK_EQ(-msg_recv(b, in, 1, NULL, deadline_in_ms(1000)), EMSGSIZE);
	CHECK_EQ(send_text("x", fds, MSG_FDS_MAX), 0);
	CHECK_EQ(msg_recv(b, in, 1, &got, deadline_in_ms(1000)), 0);
	CHECK_EQ(got.count, MSG_FDS_MAX);
	CHECK_EQ(send_text("y", fds, 1), 0);
	CHECK_EQ(-msg_recv(b, in, 1, &got, deadline_in_ms(1000)), EMSGSIZE);
	CHECK_EQ(got.count, 0);
	CHECK_EQ(-msg_send(a, NULL, 0, fds, MSG_FDS_MAX + 1, 0), EINVAL);
	pair_close();
	CHECK_EQ(count_fds(), before);
}

TEST(deadlines_hold_in_both_directions)
{
	pair_open();
	char in[8], big[4096];
	memset(big, 0, sizeof(big));
	struct iovec iov = { big, sizeof(big) };
	deadline_ns start = deadline_now();
	CHECK_EQ(-msg_recv(b, in, 1, NULL, deadline_in_ms(40)), ETIMEDOUT);
	int rc = 0;
	while (rc == 0)
		rc = msg_send(a, &iov, 1, NULL, 0, deadline_in_ms(40));
	CHECK_EQ(-rc, ETIMEDOUT);
	CHECK(deadline_now() - start >= 80 * NS_PER_MS && deadline_now() - start < 2000 * NS_PER_MS);
	// A deadline that has passed still takes what is there.
	CHECK_EQ(msg_recv(b, in, 8, NULL, 0), 0);
	pair_close();
}

TEST(ends_of_stream)
{
	pair_open();
	char in[8];
	CHECK_EQ(send_text("abc", NULL, 0), 0);
	fd_close(&a);
	CHECK_EQ(-msg_recv(b, in, 4, NULL, deadline_in_ms(1000)), ECONNRESET);
	struct iovec iov = { in, 8 };
	CHECK_EQ(-msg_send(b, &iov, 1, NULL, 0, deadline_in_ms(1000)), EPIPE);
	pair_close();
}

TEST(what_is_there_at_once)
{
	unsigned before = count_fds();
	pair_open();
	char in[8];
	struct msg_fds got = { .count = 0 };
	CHECK_EQ(-msg_recv_now(b, in, 8, &got), EAGAIN);
	CHECK_EQ(send_text("abc", &a, 1), 0);
	CHECK_EQ(msg_recv_now(b, in, 2, &got), 2);
	CHECK_EQ(msg_recv_now(b, in, 8, &got), 1);
	CHECK_EQ(-msg_recv_now(b, in, 8, &got), EAGAIN);
	CHECK_EQ(got.count, 1);
	msg_fds_close(&got);
	fd_close(&a);
	CHECK_EQ(-msg_recv_now(b, in, 8, &got), ECONNRESET);
	pair_close();
	CHECK_EQ(count_fds(), before);
}

#define MEGABYTES 4
static void *reader(void *arg)
{
	static uint8_t in[MEGABYTES << 20];
	(void)arg;
	if (msg_recv(b, in, sizeof(in), NULL, deadline_in_ms(10000)) < 0)
		return NULL;
	for (size_t i = 0; i < sizeof(in); i++)
		if (in[i] != (uint8_t)(i * 7 >> 3))
			return NULL;
	return in;
}

TEST(more_than_the_socket_holds)
{
	static uint8_t out[MEGABYTES << 20];
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 >> 3);
	pair_open();
	pthread_t t;
	void *ok = NULL;
	CHECK(pthread_create(&t, NULL, reader, NULL) == 0);
	struct iovec iov[2] = { { out, 1000 }, { out + 1000, sizeof(out) - 1000 } };
	int rc = msg_send(a, iov, 2, NULL, 0, deadline_in_ms(10000));
	pthread_join(t, &ok);
	pair_close();
	CHECK_EQ(rc, 0);
	CHECK(ok != NULL);
}

TEST(listening_sockets)
{
	char dir[] = "/tmp/msg-XXXXXX", path[64];
	struct err e;
	struct stat st;
	unsigned before = count_fds();
	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	int l = msg_listen(path, &e);
	CHECK(l >= 0);
	CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
	CHECK_EQ(-msg_listen(path, &e), EADDRINUSE); // somebody listens
	int c = msg_connect(path, deadline_in_ms(1000), &e);
	CHECK(c >= 0);
	close(c);
	close(l);
	CHECK(msg_connect(path, deadline_in_ms(1000), &e) < 0);
	l = msg_listen(path, &e); // a stale file is replaced
	CHECK(l >= 0);
	close(l);
	unlink(path);
	int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(file);
	CHECK_EQ(-msg_listen(path, &e), EADDRINUSE); // another kind of file is left alone
	CHECK(stat(path, &st) == 0 && S_ISREG(st.st_mode));
	unlink(path);
	rmdir(dir);
	CHECK(msg_listen(path, &e) < 0);
	CHECK_EQ(count_fds(), before);
}

TEST(sockets_that_were_handed_over)
{
	pair_open();
	char ref[16];
	struct err e;
	snprintf(ref, sizeof(ref), "fd:%d", a);
	int c = msg_connect(ref, 0, &e);
	CHECK(c >= 0 && c != a);
	CHECK_EQ(write(c, "x", 1), 1);
	close(c);
	char in;
	CHECK_EQ(msg_recv(b, &in, 1, NULL, deadline_in_ms(1000)), 0);
	pair_close();
	CHECK(msg_connect(ref, 0, &e) < 0);
}
