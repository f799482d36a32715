// SPDX-License-Identifier: BSD-2-Clause
// Lines on standard error: whole, never waiting, counted when lost, limited when repeated (R06).
#include "vmm/base/log.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/err.h"

#include <pthread.h>
#include <signal.h>

static int saved, reader;

// Standard error becomes a pipe; what is in it is read through `reader`.
static void pipe_begin(void)
{
	int pair[2];
	saved = dup(2);
	if (pipe(pair) || fcntl(pair[1], F_SETPIPE_SZ, 4096) < 0)
		abort();
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	dup2(pair[1], 2);
	close(pair[1]);
	reader = pair[0];
}

static void pipe_end(void)
{
	dup2(saved, 2);
	close(saved);
	close(reader);
}

static char text[65536];

static size_t drain(void)
{
	size_t len = 0;
	ssize_t n;
	while ((n = read(reader, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	return len;
}

TEST(one_line_a_call)
{
	capture();
	log_error("disk%d: %s", 0, "gone");
	log_info("not shown");
	log_init("tester", LOG_INFO);
	log_info("shown");
	log_debug("not shown");
	log_init("minivmm", LOG_WARN);
	CHECK_STR(captured(), "minivmm: disk0: gone\ntester: shown\n");
}

TEST(long_lines_are_cut_and_end)
{
	static char big[5000];
	memset(big, 'a', sizeof(big) - 1);
	capture();
	log_error("%s", big);
	const char *line = captured();
	CHECK(strlen(line) > 900 && strlen(line) <= 1024);
	CHECK(strchr(line, '\n') == line + strlen(line) - 1);
}

TEST(errno_is_kept)
{
	capture();
	errno = EXDEV;
	log_error("x");
	int after = errno;
	captured();
	CHECK_EQ(after, EXDEV);
}

TEST(a_full_pipe_never_waits)
{
	pipe_begin();
	int64_t begin = now_ms();
	for (int i = 0; i < 5000; i++)
		log_error("line %d of a storm that nobody reads", i);
	int64_t took = now_ms() - begin;
	size_t len = drain();
	log_error("after");
	size_t after = drain();
	pipe_end();
	CHECK(took < 1500);
	CHECK(len > 0 && after > 0);
	unsigned lost = 0;
	CHECK_EQ(sscanf(text, "minivmm: (%u lines lost) after\n", &lost), 1);
	CHECK(lost > 4000 && lost < 5000);
	CHECK(strstr(text, "after\n") != NULL);
}

TEST(a_closed_pipe_is_no_end)
{
	signal(SIGPIPE, SIG_IGN); // as signals_block() does
	pipe_begin();
	close(reader);
	for (int i = 0; i < 100; i++)
		log_error("nobody");
	reader = -1;
	pipe_end();
	capture();
	log_error("here again");
	CHECK_STR(captured(), "minivmm: (100 lines lost) here again\n");
	signal(SIGPIPE, SIG_DFL);
}

TEST(standard_error_may_be_closed)
{
	int keep = dup(2);
	close(2);
	log_error("nowhere");
	dup2(keep, 2);
	close(keep);
	capture();
	log_error("back");
	CHECK_STR(captured(), "minivmm: (1 lines lost) back\n");
}

static unsigned lines_in(const char *s)
{
	unsigned n = 0;
	for (; (s = strchr(s, '\n')); s++)
		n++;
	return n;
}

TEST(repeated_lines_are_limited)
{
	struct log_limit limit = { 0 };
	capture();
	for (int i = 0; i < 10000; i++)
		log_line_limited(&limit, LOG_WARN, "the guest did it");
	unsigned at_once = lines_in(captured());
	CHECK_EQ(at_once, LOG_BURST);
	sleep_ms(1005);
	capture();
	for (int i = 0; i < 100; i++)
		log_line_limited(&limit, LOG_WARN, "the guest did it");
	CHECK_STR(captured(), "minivmm: the guest did it (9995 more like this left out)\n");
}

static struct log_limit shared;

static void *shout(void *arg)
{
	for (int i = 0; i < 300; i++) {
		log_error("%s", (const char *)arg);
		log_line_limited(&shared, LOG_WARN, "%s", (const char *)arg);
	}
	return NULL;
}

TEST(lines_of_threads_do_not_mix)
{
	static char a[200], b[200];
	memset(a, 'a', sizeof(a) - 1);
	memset(b, 'b', sizeof(b) - 1);
	pthread_t t;
	pipe_begin();
	fcntl(2, F_SETPIPE_SZ, 1 << 20);
	pthread_create(&t, NULL, shout, a);
	shout(b);
	pthread_join(t, NULL);
	static char all[1 << 20];
	size_t len = 0;
	ssize_t n;
	while ((n = read(reader, all + len, sizeof(all) - 1 - len)) > 0)
		len += (size_t)n;
	pipe_end();
	unsigned whole = 0;
	for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
		const char *body = line + strlen("minivmm: ");
		CHECK(strcmp(body, a) == 0 || strcmp(body, b) == 0);
		whole++;
	}
	CHECK(whole >= 600 && whole <= 600 + 2 * LOG_BURST);
}

TEST(sentences)
{
	struct err e = { 0 };
	CHECK_EQ(err_set(&e, EINVAL, "a %d", 1), (unsigned long long)-EINVAL);
	CHECK_STR(e.text, "a 1");
	CHECK_EQ(err_sys(&e, ENOENT, "open %s", "x"), (unsigned long long)-ENOENT);
	CHECK_STR(e.text, "open x: No such file or directory");
	err_prefix(&e, "disk%d", 0);
	CHECK_STR(e.text, "disk0: open x: No such file or directory");
	CHECK_EQ(err_sys(NULL, ENOENT, "x"), (unsigned long long)-ENOENT);
	err_prefix(NULL, "x");
	static char big[2000];
	memset(big, 'a', sizeof(big) - 1);
	err_sys(&e, ENOENT, "%s", big);
	CHECK_EQ(strlen(e.text), sizeof(e.text) - 1);
	err_prefix(&e, "p");
	CHECK_EQ(strlen(e.text), sizeof(e.text) - 1);
	CHECK(strncmp(e.text, "p: aaa", 6) == 0);
	err_prefix(&e, "%s", big);
	CHECK_EQ(strlen(e.text), sizeof(e.text) - 1);
}
