// SPDX-License-Identifier: BSD-2-Clause
// How a vfio-user server comes back.
//
// A thread of the link's own waits for its death (vfio_user_death.c), gets a new connection (again.h), shakes hands, sees that it is the
// same device, and has the owner say again what the guest has set up; the loop then watches the new connection.  Nobody else's
// call reaches the new server before that.
#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <errno.h>

static bool region_same(const struct vfio_region *a, const struct vfio_region *b)
{
	return a->size == b->size && a->readable == b->readable && a->writable == b->writable;
}

static bool irq_same(const struct vfio_irq *a, const struct vfio_irq *b)
{
	return a->count == b->count && a->eventfd == b->eventfd && a->noresize == b->noresize;
}

// What it says of itself is the guest's machine: 0, or -ENODEV with the sentence.
static int compare(const struct vfio_user *v, const struct vfu_said *before, struct err *e)
{
	const struct vfu_said *now = &v->said;
	for (unsigned i = 0; i < VFU_REGIONS; i++)
		if (!region_same(&before->region[i], &now->region[i]))
			return err_set(e, ENODEV, "another device: region %u of %llu bytes, it was of %llu%s",
				       i, (unsigned long long)now->region[i].size,
				       (unsigned long long)before->region[i].size,
				       now->region[i].size == before->region[i].size ? " with other rights"
										     : "");
	for (unsigned i = 0; i < VFU_IRQS; i++)
		if (!irq_same(&before->irq[i], &now->irq[i]))
			return err_set(e, ENODEV, "another device: %u interrupts of kind %u, there were %u%s",
				       now->irq[i].count, i, before->irq[i].count,
				       now->irq[i].count == before->irq[i].count ? " with other properties"
										 : "");
	if (before->can_reset != now->can_reset)
		return err_set(e, ENODEV, "another device: one that can%s be reset",
			       now->can_reset ? "" : "not");
	return 0;
}

static int shake_again(struct vfio_user *v, struct err *e)
{
	const deadline_ns deadline = deadline_in_ms(v->control_ms);
	int rc = vfu_negotiate(v, deadline);
	v->said.twin = v->said.caps.twin_socket;
	if (rc == 0)
		rc = vfu_ask_all(v, deadline);
	if (rc == 0)
		return 0;
	if (rc == -EPIPE && vfu_link_dead(&v->io)) // which also makes io.why this thread's to read
		return err_set(e, EAGAIN, "handshake: the server %s", v->io.why);
	return err_set(e, EAGAIN, "handshake: the server refuses it: %s", err_text(-rc));
}

// Of the new one, once it is known to be the device that went away.
static int take_over(struct vfio_user *v, struct err *e)
{
	pthread_mutex_lock(&v->dma_lock);
	v->mapped.count = 0;
	pthread_mutex_unlock(&v->dma_lock);
	atomic_store(&v->posts, VFU_POSTS_UNTRIED);
	atomic_store(&v->intx_eventfd, false);
	atomic_store(&v->live, true);
	int rc = v->link.events->returned(v->link.owner, e);
	atomic_store(&v->answered, false); // what the owner asked is no use of it
	if (rc < 0)
		atomic_store(&v->live, false);
	return rc;
}

// One attempt on a connection that is there.  -ENODEV: no other will do, either.
static int attempt(struct vfio_user *v, int sock, struct err *e)
{
	if (vfu_link_renew(&v->io, sock) < 0) {
		if (v->child)
			spawn_stop(v->child, 0);
		return err_set(e, EAGAIN, "calls of the connection before do not end");
	}
	struct vfu_said before = v->said;
	vfu_said_init(&v->said);
	// The owner asks for much, and a vCPU may wait for it.
	vfu_link_budget(&v->io, v->reset_ms * NS_PER_MS);
	int rc = shake_again(v, e);
	if (rc == 0)
		rc = compare(v, &before, e);
	if (rc == 0)
		rc = take_over(v, e);
	vfu_link_budget(&v->io, VFU_NO_BUDGET);
	if (rc == 0) {
		vfu_said_free(&before);
		return 0;
	}
	vfu_said_free(&v->said);
	v->said = before;
	v->link.can_reset = before.can_reset;
	vfu_broken(&v->io, "is not taken");
	if (v->child)
		spawn_stop(v->child, 0);
	return rc;
}

static bool gone(struct vfio_user *v, const char *why)
{
	fd_close(&v->again.how.line); // or it would be connected some day, and not served
	log_warn("%s: %s: %s; it stays dead", v->link.id, v->peer, why);
	vfu_gone(v);
	return false;
}

// True: connected.  False: the end, of the machine or of the waiting.
static bool recover(void *arg)
{
	struct vfio_user *v = arg;
	struct again *a = &v->again;
	struct err e = { "" };
	if (atomic_load(&v->answered) || a->since - a->back >= AGAIN_SERVED_MS * NS_PER_MS)
		a->tries = 0;
	for (;;) {
		int sock;
		int rc = again_connect(a, v->child, &sock, &e);
		if (rc == -ECANCELED)
			return false;
		if (rc == -ETIMEDOUT || rc == -EPIPE)
			return gone(v, e.text);
		if (rc == 0) {
			rc = attempt(v, sock, &e);
			if (rc == 0)
				break;
			if (rc == -ENODEV)
				return gone(v, e.text);
		}
		log_limited(LOG_WARN, "%s: %s: %s; %s", v->link.id, v->peer, e.text,
			    again_next_step(&a->how));
	}
	a->back = deadline_now();
	log_limited(LOG_WARN, "%s: %s is back after %lld ms", v->link.id, v->peer,
		    (long long)((a->back - a->since) / NS_PER_MS));
	atomic_store(&v->fresh, true);
	fd_event_signal(v->io.died_fd);
	return true;
}

int vfio_user_keep(struct vfio_link *l, const struct again_how *how, struct err *e)
{
	struct vfio_user *v = CONTAINER_OF(l, struct vfio_user, link);
	return again_begin(&v->again, how, l->id, recover, v, e);
}

void vfu_again_close(struct vfio_user *v)
{
	vfu_link_end(&v->io); // what the thread waits for
	again_end(&v->again);
}
