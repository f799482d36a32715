// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vfio_user.h"

#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct vfio_user *of(struct vfio_link *l)
{
	return CONTAINER_OF(l, struct vfio_user, link);
}

int vfu_ask(struct vfio_user *v, const struct vfu_call *c)
{
	if (!atomic_load(&v->live))
		return -EPIPE;
	int rc = vfu_call(&v->io, c);
	if (rc >= 0)
		atomic_store(&v->answered, true);
	return rc;
}

static int call(struct vfio_user *v, uint16_t command, const void *head, size_t head_len, void *reply,
		size_t reply_cap)
{
	return vfu_ask(v, &(struct vfu_call){ .command = command,
					      .head = head,
					      .head_len = head_len,
					      .reply = reply,
					      .reply_cap = reply_cap });
}

int vfu_refused(struct vfio_user *v, int rc, const char *what)
{
	if (rc != -EPIPE)
		log_limited(LOG_WARN, "%s: the server refuses %s: %s", v->link.id, what, err_text(-rc));
	return rc;
}

// ---- regions ------------------------------------------------------------------------------------

static int region_info(struct vfio_link *l, unsigned index, struct vfio_region *out)
{
	if (index >= VFU_REGIONS || of(l)->said.region[index].size == 0)
		return -EINVAL;
	*out = of(l)->said.region[index];
	return 0;
}

static int region_doorbells(struct vfio_link *l, unsigned index, struct vfio_doorbell *out, unsigned room)
{
	if (index >= VFU_BARS)
		return 0;
	const struct vfu_doorbells *d = &of(l)->said.doorbells[index];
	const unsigned n = MIN(d->count, room);
	memcpy(out, d->doorbell, sizeof(*out) * n);
	return (int)n;
}

// ---- interrupts ---------------------------------------------------------------------------------

static int irq_info(struct vfio_link *l, unsigned index, struct vfio_irq *out)
{
	if (index >= VFU_IRQS || of(l)->said.irq[index].count == 0)
		return -EINVAL;
	*out = of(l)->said.irq[index];
	return 0;
}

// How many from the first are all there, or all missing.
static unsigned run_of(const int *fds, unsigned count, uint64_t most)
{
	unsigned n = 1;
	while (n < count && n < most && (fds[n] >= 0) == (fds[0] >= 0))
		n++;
	return n;
}

static int set_eventfds(struct vfio_user *v, struct vfio_user_irq_set set, const int *fds, unsigned count)
{
	const uint64_t most = MIN(MAX(v->said.caps.max_msg_fds, 1), MSG_FDS_MAX);
	const unsigned start = set.start;
	set.flags |= VFIO_IRQ_SET_DATA_EVENTFD;
	for (unsigned done = 0; done < count;) {
		const unsigned n = run_of(fds + done, count - done, most);
		set.start = start + done;
		set.count = n;
		int rc = vfu_ask(v, &(struct vfu_call){ .command = VFIO_USER_DEVICE_SET_IRQS,
							.head = &set,
							.head_len = sizeof(set),
							.fds = fds + done,
							.fd_count = fds[done] >= 0 ? n : 0 });
		if (rc < 0)
			return rc;
		done += n;
	}
	if (set.index == VFIO_PCI_INTX_IRQ_INDEX && set.flags & VFIO_IRQ_SET_ACTION_UNMASK)
		atomic_store(&v->intx_eventfd, true);
	return 0;
}

static int irq_set(struct vfio_link *l, unsigned index, enum vfio_irq_action action, unsigned start,
		   unsigned count, const int *fds)
{
	static const uint32_t actions[] = {
		[VFIO_LINK_MASK] = VFIO_IRQ_SET_ACTION_MASK,
		[VFIO_LINK_UNMASK] = VFIO_IRQ_SET_ACTION_UNMASK,
		[VFIO_LINK_TRIGGER] = VFIO_IRQ_SET_ACTION_TRIGGER,
	};
	struct vfio_user_irq_set set = {
		.argsz = sizeof(set), .flags = actions[action], .index = index, .start = start, .count = count
	};
	if (!atomic_load(&of(l)->live))
		return -EPIPE;
	if (fds)
		return set_eventfds(of(l), set, fds, count);
	set.flags |= VFIO_IRQ_SET_DATA_NONE;
	if (index == VFIO_PCI_INTX_IRQ_INDEX && action == VFIO_LINK_TRIGGER && count == 0)
		atomic_store(&of(l)->intx_eventfd, false);
	return vfu_post(&of(l)->io, VFIO_USER_DEVICE_SET_IRQS, &set, sizeof(set));
}

// ---- memory -------------------------------------------------------------------------------------

static int dma_map(struct vfio_link *l, const struct mem_region *r, struct err *e)
{
	struct vfio_user *v = of(l);
	const int fd = v->keep_memory ? -1 : r->fd;
	const uint64_t page = v->said.caps.pgsizes & -v->said.caps.pgsizes;
	struct err unheard;
	if (!e)
		e = &unheard;
	if ((r->gpa | r->size) & (page - 1))
		return err_set(
			e, EINVAL,
			"%s: map %#llx bytes of guest memory at %#llx: the server takes pages of %#llx",
			l->id, (unsigned long long)r->size, (unsigned long long)r->gpa,
			(unsigned long long)page);
	if (v->mapped.count >= v->said.caps.max_dma_maps)
		return err_set(e, ENOSPC, "%s: the server takes %llu maps of guest memory, %u are needed",
			       l->id, (unsigned long long)v->said.caps.max_dma_maps, v->mapped.count + 1);
	const struct vfio_user_dma_map map = { .argsz = sizeof(map),
					       .flags = VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE,
					       .offset = fd < 0 ? 0 : r->fd_offset,
					       .iova = r->gpa,
					       .size = r->size };
	// It may use what it was given before it says so.
	int rc = vfu_mapped_add(v, r);
	if (rc < 0)
		return err_set(e, -rc, "%s: more than %d maps of guest memory", l->id, MEM_REGIONS_MAX);
	rc = vfu_ask(v, &(struct vfu_call){ .command = VFIO_USER_DMA_MAP,
					    .head = &map,
					    .head_len = sizeof(map),
					    .fds = &fd,
					    .fd_count = fd >= 0 });
	if (rc >= 0)
		return 0;
	vfu_mapped_remove(v, r->gpa, r->size);
	if (rc == -EPIPE && !v->again.has_thread)
		v->told = true;
	return err_set(e, -rc, "%s: map %#llx bytes of guest memory at %#llx: the server %s%s", l->id,
		       (unsigned long long)r->size, (unsigned long long)r->gpa,
		       rc == -EPIPE ? v->io.why : "refuses it: ", rc == -EPIPE ? "" : err_text(-rc));
}

static int dma_unmap(struct vfio_link *l, uint64_t gpa, uint64_t size)
{
	struct vfio_user *v = of(l);
	const struct vfio_user_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = gpa, .size = size };
	struct vfio_user_dma_unmap done = { 0 };
	int rc = call(v, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), &done, sizeof(done));
	if (rc < 0)
		return vfu_refused(v, rc, "DMA_UNMAP");
	if (done.iova != gpa || done.size != size) {
		vfu_broken(&v->io, "broke the protocol (reply to DMA_UNMAP: it is not what was asked for)");
		return -EPIPE;
	}
	vfu_mapped_remove(v, gpa, size);
	return 0;
}

// ---- life ---------------------------------------------------------------------------------------

static int reset(struct vfio_link *l)
{
	struct vfio_user *v = of(l);
	if (!l->can_reset)
		return -ENOTSUP;
	int rc = vfu_ask(v, &(struct vfu_call){ .command = VFIO_USER_DEVICE_RESET,
						.deadline = deadline_in_ms(v->reset_ms) });
	return rc < 0 ? rc : 0;
}

static void close_link(struct vfio_link *l)
{
	struct vfio_user *v = of(l);
	if (!v->told && vfu_link_dead(&v->io)) // before there was somebody to tell
		log_warn("%s: the server %s", l->id, v->io.why);
	loop_remove(v->loop, &v->died);
	vfu_again_close(v);
	vfu_link_close(&v->io);
	if (v->child)
		spawn_stop(v->child, 0);
	free(v->child);
	vfu_said_free(&v->said);
	pthread_mutex_destroy(&v->dma_lock);
	free(v);
}

int vfio_user_serve(struct vfio_link *l, int (*seal)(struct err *e), struct err *e)
{
	return vfu_link_start(&of(l)->io, seal, e);
}

const struct vfio_link_ops vfu_ops = {
	.kind = "vfio-user",
	.region_info = region_info,
	.irq_info = irq_info,
	.region_read = vfu_region_read,
	.region_write = vfu_region_write,
	.region_doorbells = region_doorbells,
	.irq_set = irq_set,
	.dma_map = dma_map,
	.dma_unmap = dma_unmap,
	.reset = reset,
	.close = close_link,
};
