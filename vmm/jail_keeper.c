// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/jail_keeper.h"

#include "vmm/base/aside.h"
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// ---- the child --------------------------------------------------------------------------------------------------

int jail_keeper_join(int fd)
{
	char byte = 0;
	const struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	const deadline_ns at_once = 0;
	FD_AUTO self = (int)syscall(SYS_pidfd_open, getpid(), 0U); // as its own name space counts
	int rc = self < 0 ? -errno : msg_send(fd, &iov, 1, &self, 1, at_once);
	return rc == -EPIPE ? -ESRCH : rc;
}

// ---- the keeper -------------------------------------------------------------------------------------------------

struct held {
	struct pollfd program[CONFIG_DEVICES_MAX]; // readable: it has ended
	unsigned count;
};

static void end(int pidfd)
{
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0U);
}

// The next one that joins, or -1.
static int receive(int owner)
{
	char byte;
	struct msg_fds fds = { .count = 0 };
	const deadline_ns never = INT64_MAX;
	return msg_recv(owner, &byte, 1, &fds, never) < 0 ? -1 : msg_fds_take_one(&fds);
}

static void forget_ended(struct held *h)
{
	unsigned kept = 0;
	if (poll(h->program, h->count, 0) <= 0)
		return;
	for (unsigned i = 0; i < h->count; i++)
		if (h->program[i].revents)
			close(h->program[i].fd);
		else
			h->program[kept++] = h->program[i];
	h->count = kept;
}

void jail_keeper_hold(int owner)
{
	struct held h = { .count = 0 };
	for (int pidfd; (pidfd = receive(owner)) >= 0;) {
		forget_ended(&h);
		if (h.count < ARRAY_LEN(h.program)) {
			h.program[h.count++] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
			continue;
		}
		end(pidfd); // there are not that many devices
		close(pidfd);
	}
	for (unsigned i = 0; i < h.count; i++)
		end(h.program[i].fd);
}

enum { KEEPER_OWNER }; // its descriptor's number

static const struct sandbox_rule keeper_rules[] = { JAIL_KEEPER_RULES(KEEPER_OWNER) };

static const struct sandbox_spec keeper_spec = {
	.program = "jail-keeper",
	.rules = keeper_rules,
	.rule_count = ARRAY_LEN(keeper_rules),
};

static void keeper_run(const void *arg)
{
	(void)arg;
	jail_keeper_hold(KEEPER_OWNER);
}

void jail_keeper_print(const char *prefix, FILE *out)
{
	sandbox_print(&keeper_spec, prefix, out);
}

// ---- the monitor ------------------------------------------------------------------------------------------------

bool jail_keeper_needed(const struct vm_config *c)
{
	for (unsigned i = 0; i < c->device_count; i++)
		if (c->devices[i].exec)
			return true;
	return false;
}

int jail_keeper_make(struct jail_keeper *k, const struct vm_config *c, int shared, struct err *e)
{
	const struct aside keeper = { .spec = &keeper_spec, .type = SOCK_SEQPACKET, .run = keeper_run };
	*k = (struct jail_keeper){ .fd = shared, .shared = shared >= 0 };
	if (k->shared || !jail_keeper_needed(c))
		return 0;
	k->fd = aside_start(&keeper, e);
	return MIN(k->fd, 0);
}

static void keeper_ended(struct loop_source *source, uint32_t events)
{
	struct jail_keeper *k = CONTAINER_OF(source, struct jail_keeper, source);
	(void)events;
	loop_remove(k->loop, source);
	k->loop = NULL;
	log_warn("the process that would end programs with minivmm has ended: one that dies stays dead");
}

int jail_keeper_watch(struct jail_keeper *k, struct loop *l)
{
	k->loop = l;
	k->source = (struct loop_source){ .fd = k->fd, .ready = keeper_ended };
	return k->fd < 0 ? 0 : loop_add(l, &k->source, EPOLLIN);
}

void jail_keeper_end(struct jail_keeper *k)
{
	char byte = 0;
	const struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	const deadline_ns at_once = 0;
	struct pollfd gone = { .fd = k->fd, .events = POLLIN }; // its end is a hang-up
	if (k->fd < 0)
		return;
	if (k->loop)
		loop_remove(k->loop, &k->source);
	if (!k->shared && msg_send(k->fd, &iov, 1, NULL, 0, at_once) == 0)
		poll(&gone, 1, DEADLINE_CONTROL_MS);
	if (!k->shared)
		fd_close(&k->fd);
}
