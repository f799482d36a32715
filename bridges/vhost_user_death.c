// SPDX-License-Identifier: BSD-2-Clause
// The end of a vhost-user back-end, as the loop's thread finds it out.
//
// Once for each death, when the connection is gone and the process behind it, if it is ours: a line in the log with the reason, and word
// to the thread that gets it back (vhost_user_again.c), or to the owner when nobody does.  What that thread has to say in turn is passed
// on here.  Never waits, but for a process's last words.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_WORDS_MS 20

static void tell_died(struct vhost_user *vu)
{
	atomic_store(&vu->death.gone, true);
	if (vu->backend.events && vu->backend.events->died)
		vu->backend.events->died(vu->backend.owner, vu->death.reason);
}

// Whose end it was is told by both, the connection and the process; who was killed by us said something wrong before.
static void reason_set(struct vhost_user *vu, const char *what)
{
	const char *words = vu->child ? vu->child->last : "";
	snprintf(vu->death.reason, sizeof(vu->death.reason), "%s%s%s", what,
		 *words ? "; its last words: " : "", words);
}

// Both are gone.
static void down(struct vhost_user *vu)
{
	struct again *a = &vu->again;
	if (again_stays_dead(a, vu->child)) {
		tell_died(vu);
		return;
	}
	log_limited(LOG_WARN, "%s: %s: %s; %s", vu->backend.id, vu->peer, vu->death.reason,
		    again_next_step(&a->how));
	a->since = a->down_at;
	atomic_store(&vu->death.down, true);
	fd_event_signal(a->lost);
}

void vu_link_lost(struct vu_link *l)
{
	struct vhost_user *vu = CONTAINER_OF(l, struct vhost_user, link);
	struct again *a = &vu->again;
	vu->death.link_down = true;
	if (a->child_up || !vu->child)
		a->down_at = deadline_now();
	vu_channel_close(&vu->channel);
	vu_doorbell_lost(vu);
	vu_shared_end(vu);
	vu_objects_end(vu);
	if (vu->child && a->child_up) {
		// The socket's end comes a moment before the process's, and only the process can say why.  One
		// without its connection is of no use; its end is reported and reaped as any other.
		spawn_last_words(vu->child, LAST_WORDS_MS);
		a->killed = vu->child->log_fd >= 0;
		reason_set(vu, l->why);
		if (vu->child->pidfd >= 0)
			syscall(SYS_pidfd_send_signal, vu->child->pidfd, SIGKILL, NULL, 0);
		if (!a->has_thread) {
			loop_remove(l->loop, &vu->err_source);
			tell_died(vu);
		}
		return;
	}
	if (!vu->child)
		reason_set(vu, l->why);
	if (!a->has_thread)
		loop_remove(l->loop, &vu->err_source);
	down(vu);
}

void vu_child_exited(struct child *c, const char *how)
{
	struct vhost_user *vu = c->owner;
	struct again *a = &vu->again;
	a->child_up = false;
	if (!vu->death.link_down)
		a->down_at = deadline_now();
	if (!a->killed)
		reason_set(vu, how);
	if (!a->has_thread || atomic_load(&vu->death.gone))
		log_warn("%s: process %d: %s", vu->backend.id, (int)c->pid, how);
	if (!vu->death.link_down)
		vu_link_condemn(&vu->link, "its process ended");
	else if (a->has_thread && !atomic_load(&vu->death.gone))
		down(vu);
}

void vu_config_changed(struct vu_channel *c)
{
	struct vhost_user *vu = CONTAINER_OF(c, struct vhost_user, channel);
	atomic_store(&vu->config_stale, true);
	if (vu->backend.events && vu->backend.events->config_changed)
		vu->backend.events->config_changed(vu->backend.owner);
}

static void watch_again(struct vhost_user *vu)
{
	struct again *a = &vu->again;
	struct loop *l = vu->link.loop;
	vu->death.link_down = a->killed = false;
	a->child_up = vu->child != NULL;
	int rc = vu_link_watch(&vu->link);
	if (rc == 0)
		rc = vu_channel_watch(&vu->channel);
	if (rc == 0 && vu->child)
		rc = spawn_watch(vu->child, l, vu_child_exited, vu);
	if (rc < 0)
		vu_link_condemn(&vu->link, "cannot be watched");
}

static void woken(struct loop_source *s, uint32_t events)
{
	struct vhost_user *vu = CONTAINER_OF(s, struct vhost_user, death.wake);
	const struct backend_events *to = vu->backend.events;
	(void)events;
	fd_event_take(s->fd);
	const unsigned posted = atomic_exchange(&vu->death.posted, 0);
	if ((posted & VU_POST_CONFIG) && to && to->config_changed)
		to->config_changed(vu->backend.owner);
	if ((posted & VU_POST_FAILED) && to && to->queue_failed)
		to->queue_failed(vu->backend.owner);
	if (posted & VU_POST_OBJECT)
		vu_objects_answer(vu);
	if (posted & VU_POST_GONE)
		tell_died(vu);
	if (posted & VU_POST_WATCH)
		watch_again(vu);
}

int vu_again_init(struct vhost_user *vu)
{
	vu->death.wake = (struct loop_source){ .fd = fd_eventfd(), .ready = woken };
	return vu->death.wake.fd < 0 ? vu->death.wake.fd : 0;
}

int vu_again_watch(struct vhost_user *vu)
{
	return loop_add(vu->link.loop, &vu->death.wake, EPOLLIN);
}

void vu_again_post(struct vhost_user *vu, unsigned bits)
{
	atomic_fetch_or(&vu->death.posted, bits);
	fd_event_signal(vu->death.wake.fd);
}
