// SPDX-License-Identifier: BSD-2-Clause
// Guest memory for a PCI function: in place where the client handed it over, else by what the carrier can do.
#include "devices/sdk/pdev.h"

#include "devices/sdk/dev.h"
#include "devices/sdk/dirty.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <string.h>

void *pdev_memory(struct pdev *p, uint64_t gpa, uint64_t len)
{
	return guest_mem_at(&p->d->mem, GUEST_PHYSICAL, gpa, len);
}

static void *dma_piece(struct pdev *p, uint64_t gpa, uint64_t len, uint64_t *got)
{
	return guest_mem_translate(&p->d->mem, GUEST_PHYSICAL, gpa, len, got);
}

// The piece at `gpa` that is not at hand.
static int far_piece(struct pdev *p, bool write, uint64_t gpa, void *bytes, uint64_t len, uint64_t *got)
{
	return p->far && p->client ? p->far(p, write, gpa, bytes, len, got) : -EFAULT;
}

int pdev_dma_read(struct pdev *p, uint64_t gpa, void *to, uint64_t len)
{
	for (uint64_t done = 0, got; done < len; done += got) {
		uint8_t *bytes = (uint8_t *)to + done;
		const void *at = dma_piece(p, gpa + done, len - done, &got);
		int rc = at ? 0 : far_piece(p, false, gpa + done, bytes, len - done, &got);
		if (rc < 0)
			return rc;
		if (at)
			memcpy(bytes, at, got);
	}
	return 0;
}

int pdev_dma_write(struct pdev *p, uint64_t gpa, const void *from, uint64_t len)
{
	for (uint64_t done = 0, got; done < len; done += got) {
		// Only read, by sendmsg(2), whose types are older than const.
		union {
			const uint8_t *in;
			uint8_t *out;
		} bytes = { .in = (const uint8_t *)from + done };
		void *at = dma_piece(p, gpa + done, len - done, &got);
		int rc = at ? 0 : far_piece(p, true, gpa + done, bytes.out, len - done, &got);
		if (rc < 0)
			return rc;
		if (at)
			memcpy(at, bytes.in, got);
		if (p->dirty)
			dirty_mark(p->dirty, gpa + done, got);
	}
	return 0;
}

void pdev_wrote(struct pdev *p, const void *at, uint64_t len)
{
	const uint64_t first = (uintptr_t)at;
	for (unsigned i = 0; p->dirty && i < p->d->mem.count; i++) {
		const struct guest_region *r = &p->d->mem.region[i];
		const uint64_t host = (uintptr_t)r->host;
		const uint64_t from = MAX(first, host), to = MIN(first + len, host + r->len);
		if (from < to)
			dirty_mark(p->dirty, r->base[GUEST_PHYSICAL] + (from - host), to - from);
	}
}
