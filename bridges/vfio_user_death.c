// SPDX-License-Identifier: BSD-2-Clause
// The end of a vfio-user server, as the loop's thread finds it out.
//
// Once for each death, when the connection is gone: word to the owner with the reason, and, when the process behind it is gone, too, if it is
// ours, to the thread that gets it back (vfio_user_again.c).  Never waits, but for a process's last words.
#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_WORDS_MS 20

// Whose end it was is told by both, the connection and the process, and the process knows better.
static void tell_died(struct vfio_user *v)
{
	char why[800];
	const char *words = v->child ? v->child->last : "";
	snprintf(why, sizeof(why), "%s%s%s%s%s", *v->how ? v->how : v->io.why,
		 *words ? "; its last words: " : "", words, v->again.has_thread ? "; " : "",
		 v->again.has_thread ? again_next_step(&v->again.how) : "");
	v->told = true;
	if (v->link.events && v->link.events->died)
		v->link.events->died(v->link.owner, why);
}

void vfu_gone(struct vfio_user *v)
{
	if (v->link.events && v->link.events->gone)
		v->link.events->gone(v->link.owner);
}

// Both are gone.
static void down(struct vfio_user *v)
{
	struct again *a = &v->again;
	if (again_stays_dead(a, v->child)) {
		if (a->has_thread)
			log_warn("%s: it ended as it should, and stays dead", v->link.id);
		vfu_gone(v);
		return;
	}
	a->since = a->down_at;
	fd_event_signal(a->lost);
}

static void connection_lost(struct vfio_user *v)
{
	struct again *a = &v->again;
	atomic_store(&v->live, false);
	if (a->child_up || !v->child)
		a->down_at = deadline_now();
	// One without its connection is of no use; its end is reported and reaped as any other.
	if (a->child_up && !*v->how) {
		spawn_last_words(v->child, LAST_WORDS_MS);
		a->killed = !spawn_ended(v->child, 0, v->how, sizeof(v->how));
		syscall(SYS_pidfd_send_signal, v->child->pidfd, SIGKILL, NULL, 0);
	}
	tell_died(v);
	if (!a->child_up)
		down(v);
}

static void child_exited(struct child *c, const char *how)
{
	struct vfio_user *v = c->owner;
	v->again.child_up = false;
	if (v->told && !*v->how) // a process ends a moment after its connection
		log_warn("%s: process %d: %s", v->link.id, (int)c->pid, how);
	if (!*v->how)
		snprintf(v->how, sizeof(v->how), "%s", how);
	if (!v->told) {
		v->again.down_at = deadline_now();
		vfu_broken(&v->io, "its process ended");
	} else {
		down(v);
	}
}

static void watch_again(struct vfio_user *v)
{
	v->told = v->again.killed = false;
	v->how[0] = '\0';
	v->again.child_up = v->child != NULL;
	if (v->child && spawn_watch(v->child, v->loop, child_exited, v) < 0)
		vfu_broken(&v->io, "cannot be watched");
}

static void woken(struct loop_source *s, uint32_t events)
{
	struct vfio_user *v = CONTAINER_OF(s, struct vfio_user, died);
	(void)events;
	fd_event_take(s->fd);
	if (atomic_exchange(&v->fresh, false))
		watch_again(v);
	// While it is told to be dead a connection that comes to nothing is the other thread's affair.
	if (!v->told && vfu_link_dead(&v->io)) // which also makes io.why this thread's to read
		connection_lost(v);
}

int vfu_watch(struct vfio_user *v, struct err *e)
{
	v->died = (struct loop_source){ .fd = v->io.died_fd, .ready = woken };
	int rc = loop_add(v->loop, &v->died, EPOLLIN);
	if (rc == 0 && v->child)
		rc = spawn_watch(v->child, v->loop, child_exited, v);
	v->again.child_up = v->child != NULL;
	return rc < 0 ? err_sys(e, -rc, "%s: watch %s", v->link.id, v->peer) : 0;
}
