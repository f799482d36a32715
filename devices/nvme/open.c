// SPDX-License-Identifier: BSD-2-Clause
// The life of the controller: its images, what it is as a PCI function, its end.
#include "devices/nvme/nvme.h"

#include <errno.h>

#define BAR	 0
#define BAR_SIZE 0x4000u
#define MSIX_PBA 0x3000u

static int namespace_open(struct nvme *n, unsigned i, struct err *e)
{
	struct nvme_namespace *ns = &n->ns[i];
	ns->nvme = n;
	ns->nsid = i + 1;
	int rc = blk_image_open(&ns->img, &ns->options, e);
	if (rc == 0)
		rc = blk_engine_open(&ns->engine, &ns->img, n->engine, NVME_REQUESTS, e);
	if (rc < 0)
		return rc;
	ns->completions = (struct loop_source){ .fd = blk_engine_fd(&ns->engine), .ready = nvme_completed };
	rc = ns->completions.fd < 0 ? 0 : loop_add(&n->d->loop, &ns->completions, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "watch io_uring") : 0;
}

int nvme_open(struct nvme *n, struct vdev *d, struct err *e)
{
	struct pdev *p = d->pci;
	int rc = 0;
	n->d = d;
	n->p = p;
	p->priv = n;
	n->record_file.fd = -1;
	for (unsigned i = 0; i < n->ns_count; i++) {
		n->ns[i].img.fd = n->ns[i].img.direct_fd = -1;
		n->ns[i].engine.ring.fd = -1; // until they are open
	}
	for (unsigned i = 0; i < n->ns_count && rc == 0; i++)
		rc = namespace_open(n, i, e);
	nvme_features_reset(n);
	if (rc == 0)
		rc = nvme_record_open(n, n->record_path, e);
	if (rc < 0) {
		nvme_close(n);
		return rc;
	}
	pdev_set_identity(p, 0x1af4, 0x10f1, 0x010802, 1);
	pdev_set_subsystem(p, 0x1af4, 0x10f1);
	pdev_add_bar(p, BAR, BAR_SIZE, true);
	pdev_add_intx(p);
	pdev_add_msix(p, n->io_queues + 1, BAR, NVME_MSIX_TABLE, MSIX_PBA);
	for (unsigned i = 1; i <= n->io_queues && n->eventfds; i++)
		pdev_add_doorbell(p, BAR, NVME_DOORBELLS + 8 * i, 4);
	return 0;
}

void nvme_close(struct nvme *n)
{
	for (unsigned i = 0; i < n->ns_count; i++) {
		blk_engine_close(&n->ns[i].engine);
		blk_image_close(&n->ns[i].img);
	}
	nvme_record_close(n);
}
