// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/ctl.h"

#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"
#include "vmm/control.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define ANSWER_MS  60000 // a pause waits for whatever a CPU of the guest's waits for
#define ANSWER_MAX 8192

static int request_make(char *line, size_t size, const char *const *words, struct err *e)
{
	size_t len = 0;
	for (; *words; words++) {
		const size_t n = strlen(*words);
		if (n + 1 > size - len || strpbrk(*words, " \n"))
			return err_set(e, EINVAL, "no command: %s", *words);
		memcpy(line + len, *words, n);
		len += n;
		line[len++] = words[1] ? ' ' : '\n';
	}
	return (int)len;
}

// The last line of what has come, if it is whole.
static char *last_line(char *text, size_t len)
{
	if (len == 0 || text[len - 1] != '\n')
		return NULL;
	text[len - 1] = '\0';
	char *before = strrchr(text, '\n');
	return before ? before + 1 : text;
}

static int verdict(char *text, char *last, FILE *out, struct err *e)
{
	static const char error[] = "error: ";
	const bool ok = strcmp(last, "ok") == 0;
	if (!ok && strncmp(last, error, strlen(error)) != 0) {
		text[strlen(text)] = '\n'; // more is to come
		return -EAGAIN;
	}
	fwrite(text, 1, (size_t)(last - text), out);
	return ok ? 0 : err_set(e, EINVAL, "%s", last + strlen(error));
}

static int answer(int fd, const char *path, FILE *out, struct err *e)
{
	const deadline_ns until = deadline_in_ms(ANSWER_MS);
	char text[ANSWER_MAX + 1];
	size_t len = 0;
	while (len < ANSWER_MAX) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int rc = poll(&p, 1, deadline_left_ms(until));
		if (rc == 0)
			return err_set(e, ETIMEDOUT, "%s: no answer within %d s", path, ANSWER_MS / 1000);
		ssize_t n = recv(fd, text + len, ANSWER_MAX - len, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return err_sys(e, errno, "%s", path);
		if (n == 0)
			return err_set(e, EPIPE, "%s: the connection ended without an answer", path);
		len += (size_t)n;
		text[len] = '\0';
		char *last = last_line(text, len);
		rc = last ? verdict(text, last, out, e) : -EAGAIN;
		if (rc != -EAGAIN)
			return rc;
	}
	return err_set(e, EPROTO, "%s: what answers is no machine of minivmm's", path);
}

int ctl_run(const char *path, const char *const *words, FILE *out, struct err *e)
{
	char line[CONTROL_REQUEST_MAX];
	int len = request_make(line, sizeof(line), words, e);
	if (len < 0)
		return len;
	FD_AUTO fd = msg_connect(path, deadline_in_ms(DEADLINE_CONTROL_MS), e);
	if (fd < 0)
		return fd;
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL) != len)
		return err_sys(e, errno, "%s", path);
	return answer(fd, path, out, e);
}
