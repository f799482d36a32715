// SPDX-License-Identifier: BSD-2-Clause
// Messages to a vfio-user server, on any thread: a call, what is posted, and the replies to its own commands.
#include "bridges/vfio_user_link.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

// ---- sending ------------------------------------------------------------------------------------

// sendmsg(2) only reads what iov_base points to.
static struct iovec piece(const void *p, size_t len)
{
	union {
		const void *in;
		void *out;
	} body = { .in = p };
	return (struct iovec){ .iov_base = body.out, .iov_len = len };
}

// With the send lock.
static int send_command(struct vfu_link *l, const struct vfu_call *c, uint16_t id, uint32_t flags,
			deadline_ns deadline)
{
	const struct vfio_user_header h = { .id = id,
					    .command = c->command,
					    .size = (uint32_t)(sizeof(h) + c->head_len + c->data_len),
					    .flags = VFIO_USER_COMMAND | flags };
	const struct iovec iov[] = { piece(&h, sizeof(h)), piece(c->head, c->head_len),
				     piece(c->data, c->data_len) };
	int rc = msg_send(l->sock, iov, ARRAY_LEN(iov), c->fds, c->fd_count, deadline);
	if (rc == -ETIMEDOUT)
		vfu_broken(l, "does not read its commands (%s, deadline missed)", vfu_name_of(c->command));
	else if (rc == -EPIPE)
		vfu_broken(l, "closed its connection (during %s)", vfu_name_of(c->command));
	else if (rc < 0)
		vfu_broken(l, "%s: %s", vfu_name_of(c->command), err_text(-rc));
	return rc < 0 ? -EPIPE : 0;
}

struct vfu_pending *vfu_pending_of(struct vfu_link *l, uint16_t id)
{
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++)
		if (l->pending[i].used && !l->pending[i].done && l->pending[i].id == id)
			return &l->pending[i];
	return NULL;
}

// With the lock.  NULL: all are taken.
static struct vfu_pending *pending_take(struct vfu_link *l, uint16_t command)
{
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++) {
		struct vfu_pending *p = &l->pending[i];
		if (p->used)
			continue;
		while (vfu_pending_of(l, l->next_id))
			l->next_id++;
		*p = (struct vfu_pending){ .used = true, .id = l->next_id++, .command = command };
		return p;
	}
	return NULL;
}

// What was posted before goes before.  With the send lock.
void vfu_flush_posts(struct vfu_link *l)
{
	for (;;) {
		struct vfu_post post;
		pthread_mutex_lock(&l->lock);
		struct vfu_pending *p =
			l->post_count && !l->dead ? pending_take(l, l->post[0].command) : NULL;
		if (!p) {
			pthread_mutex_unlock(&l->lock);
			return;
		}
		p->posted = true;
		p->deadline = deadline_in_ms(l->control_ms);
		const uint16_t id = p->id;
		const deadline_ns deadline = p->deadline;
		post = l->post[0];
		memmove(l->post, l->post + 1, sizeof(post) * --l->post_count);
		pthread_mutex_unlock(&l->lock);
		const struct vfu_call c = { .command = post.command,
					    .head = post.payload,
					    .head_len = post.len };
		send_command(l, &c, id, 0, deadline);
	}
}

int vfu_post(struct vfu_link *l, uint16_t command, const void *payload, size_t len)
{
	struct vfu_post post = { .command = command, .len = (uint16_t)len };
	assert(len <= sizeof(post.payload));
	memcpy(post.payload, payload, len);
	pthread_mutex_lock(&l->lock);
	const bool there = l->post_count && memcmp(&l->post[l->post_count - 1], &post, sizeof(post)) == 0;
	if (!there && l->post_count == VFU_POSTS_MAX)
		vfu_die_locked(l, "does not read its commands (%s)", vfu_name_of(command));
	else if (!there && !l->dead)
		l->post[l->post_count++] = post;
	const bool dead = l->dead, alone = !l->has_thread;
	pthread_mutex_unlock(&l->lock);
	if (!dead && alone) {
		pthread_mutex_lock(&l->send_lock);
		vfu_flush_posts(l);
		pthread_mutex_unlock(&l->send_lock);
	} else {
		fd_event_signal(l->wake.fd);
	}
	return dead ? -EPIPE : 0;
}

// ---- calls --------------------------------------------------------------------------------------

struct timespec vfu_when(deadline_ns deadline)
{
	return (struct timespec){ .tv_sec = (time_t)(deadline / NS_PER_S),
				  .tv_nsec = (long)(deadline % NS_PER_S) };
}

// With the lock.
static void await(struct vfu_link *l, struct vfu_pending *p)
{
	const struct timespec until = vfu_when(p->deadline);
	while (!p->done && !l->dead) {
		if (l->reader == VFU_NOBODY) {
			l->reader = VFU_WAITER;
			do {
				pthread_mutex_unlock(&l->lock);
				vfu_receive(l, p->deadline, p);
				pthread_mutex_lock(&l->lock);
			} while (l->reader == VFU_WAITER && vfu_ahead(l) && !l->dead);
			if (l->reader == VFU_WAITER)
				l->reader = VFU_NOBODY;
			pthread_cond_broadcast(&l->changed);
		} else if (pthread_cond_timedwait(&l->changed, &l->lock, &until) == ETIMEDOUT && !p->done) {
			vfu_die_locked(l, "does not answer (%s, deadline missed)", vfu_name_of(p->command));
		}
	}
}

static uint32_t to_watch(const struct vfu_link *l)
{
	bool posted = false;
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++)
		posted |= l->pending[i].used && l->pending[i].posted;
	// With a twin socket nothing comes here that nobody waits for.
	if (l->twin >= 0 && !posted)
		return VFU_ARMED_END;
	return l->callers ? VFU_DISARMED : VFU_ARMED;
}

// While somebody waits, what arrives is for them, and does not wake the thread.
void vfu_watch_main(struct vfu_link *l)
{
	const uint32_t events = to_watch(l);
	if (!l->has_thread || l->dead || events == l->watched)
		return;
	l->watched = events;
	loop_modify(&l->loop, &l->main_source, events);
}

// With the lock: NULL if the link is dead.
static struct vfu_pending *pending_await(struct vfu_link *l, uint16_t command, deadline_ns deadline)
{
	const struct timespec until = vfu_when(deadline);
	struct vfu_pending *p = NULL;
	while (!l->dead && !(p = pending_take(l, command)))
		if (pthread_cond_timedwait(&l->changed, &l->lock, &until) == ETIMEDOUT)
			vfu_die_locked(l, "does not answer (%s, deadline missed)", vfu_name_of(command));
	return p;
}

// The same.
static struct vfu_pending *call_begin(struct vfu_link *l, const struct vfu_call *c, deadline_ns deadline)
{
	struct vfu_pending *p = pending_await(l, c->command, deadline);
	if (!p)
		return NULL;
	p->deadline = deadline;
	p->buf = c->reply;
	p->cap = c->reply_cap;
	p->fds = c->reply_fds;
	if (l->callers++ == 0)
		vfu_watch_main(l);
	return p;
}

int vfu_call(struct vfu_link *l, const struct vfu_call *c)
{
	const deadline_ns begun = deadline_now();
	deadline_ns deadline = c->deadline ? c->deadline : begun + l->control_ms * NS_PER_MS;
	if (c->reply_fds)
		c->reply_fds->count = 0;
	pthread_mutex_lock(&l->lock);
	if (l->budget_ns != VFU_NO_BUDGET)
		deadline = MIN(deadline, begun + l->budget_ns);
	struct vfu_pending *p = call_begin(l, c, deadline);
	pthread_mutex_unlock(&l->lock);
	if (!p)
		return -EPIPE;
	pthread_mutex_lock(&l->send_lock);
	vfu_flush_posts(l);
	int rc = send_command(l, c, p->id, 0, deadline);
	pthread_mutex_unlock(&l->send_lock);

	pthread_mutex_lock(&l->lock);
	if (rc == 0)
		await(l, p);
	rc = !p->done ? -EPIPE : p->error ? p->error : (int)p->len;
	p->used = false;
	if (l->budget_ns != VFU_NO_BUDGET)
		l->budget_ns = MAX(l->budget_ns - (deadline_now() - begun), 0);
	pthread_cond_broadcast(&l->changed); // for who waits for a free place
	if (--l->callers == 0 && l->reader != VFU_THREAD)
		vfu_watch_main(l);
	pthread_mutex_unlock(&l->lock);
	if (rc < 0 && c->reply_fds)
		msg_fds_close(c->reply_fds);
	return rc;
}

// ---- sends --------------------------------------------------------------------------------------

// With the lock, which is let go of meanwhile.
static int send_alone(struct vfu_link *l, const struct vfu_call *c, uint16_t id, deadline_ns deadline)
{
	l->senders++;
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_lock(&l->send_lock);
	vfu_flush_posts(l);
	int rc = send_command(l, c, id, VFIO_USER_NO_REPLY, deadline);
	pthread_mutex_unlock(&l->send_lock);
	pthread_mutex_lock(&l->lock);
	if (l->callers == 0 && l->reader != VFU_THREAD)
		vfu_watch_main(l); // for what was posted
	if (--l->senders == 0 && l->dead)
		pthread_cond_broadcast(&l->changed);
	return rc;
}

int vfu_send(struct vfu_link *l, const struct vfu_call *c)
{
	pthread_mutex_lock(&l->lock);
	while (vfu_pending_of(l, l->next_id))
		l->next_id++;
	int rc = l->dead ? -EPIPE : send_alone(l, c, l->next_id++, deadline_in_ms(l->control_ms));
	pthread_mutex_unlock(&l->lock);
	return rc;
}

int vfu_send_tried(struct vfu_link *l, const struct vfu_call *c)
{
	const struct vfio_user_device_info ask = { .argsz = sizeof(ask) };
	struct vfio_user_device_info info;
	const deadline_ns deadline = deadline_in_ms(l->control_ms);
	pthread_mutex_lock(&l->lock);
	struct vfu_pending *p = pending_await(l, c->command, deadline);
	if (!p) {
		pthread_mutex_unlock(&l->lock);
		return -EPIPE;
	}
	const uint16_t id = p->id;
	p->posted = true;
	p->deadline = INT64_MAX;
	p->cap = VFU_REPLY_MAX;
	l->senders++;
	int rc = send_alone(l, c, id, deadline);
	pthread_mutex_unlock(&l->lock);
	if (rc == 0)
		rc = vfu_call(l, &(struct vfu_call){ .command = VFIO_USER_DEVICE_GET_INFO,
						     .head = &ask,
						     .head_len = sizeof(ask),
						     .reply = &info,
						     .reply_cap = sizeof(info),
						     .deadline = deadline });
	pthread_mutex_lock(&l->lock);
	// Another command may have the place by now.
	const bool answered = !(p->used && p->posted && p->id == id);
	if (!answered)
		p->used = false;
	l->senders--;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return rc == -EPIPE ? rc : answered;
}

// ---- for `serve` --------------------------------------------------------------------------------

bool vfu_serve_recv(struct vfu_link *l, int sock, void *buf, size_t len)
{
	const deadline_ns deadline = deadline_in_ms(l->control_ms);
	int rc = sock == l->sock ? vfu_take(l, buf, len, NULL, deadline)
				 : msg_recv(sock, buf, len, NULL, deadline);
	if (rc == -ETIMEDOUT)
		vfu_broken(l, "does not finish a command (deadline missed)");
	else if (rc < 0)
		vfu_receive_failed(l, rc);
	return rc == 0;
}

bool vfu_serve_reply(struct vfu_link *l, int sock, const struct vfio_user_header *to, int error,
		     const void *head, size_t head_len, const void *data, size_t data_len)
{
	if (to->flags & VFIO_USER_NO_REPLY)
		return true;
	const struct vfio_user_header h = {
		.id = to->id,
		.command = to->command,
		.size = (uint32_t)(sizeof(h) + (error ? 0 : head_len + data_len)),
		.flags = VFIO_USER_REPLY | (error ? VFIO_USER_ERROR : 0),
		.error = (uint32_t)error,
	};
	const struct iovec iov[] = { piece(&h, sizeof(h)), piece(head, head_len), piece(data, data_len) };
	pthread_mutex_lock(&l->send_lock);
	int rc = msg_send(sock, iov, error ? 1 : ARRAY_LEN(iov), NULL, 0, deadline_in_ms(l->control_ms));
	pthread_mutex_unlock(&l->send_lock);
	if (rc == -ETIMEDOUT)
		vfu_broken(l, "does not read the replies to its commands (deadline missed)");
	else if (rc < 0)
		vfu_broken(l, "closed its connection");
	return rc == 0;
}
