// SPDX-License-Identifier: BSD-2-Clause
// What the server of vfio-user does to a PCI function (pdev.c); nobody else includes this.
#ifndef MINIVMM_SDK_PDEV_IMPL_H
#define MINIVMM_SDK_PDEV_IMPL_H

#include "devices/sdk/pdev.h"

// Accesses that lie within configuration space or the BAR, of any length; split into aligned ones of a register's size.
void pdev_config_access(struct pdev *p, unsigned offset, uint8_t *bytes, unsigned len, bool write);
void pdev_bar_access(struct pdev *p, unsigned bar, uint64_t offset, uint8_t *bytes, uint64_t len, bool write);

// As after power-on.  The client's eventfds stay.
void pdev_reset(struct pdev *p);

// A client came: 0 or -errno.  It went, and its eventfds are closed.
int pdev_attach(struct pdev *p);
void pdev_detach(struct pdev *p);

// Sets (and takes) or takes back (-1) the eventfd of a vector; says ops->vectors_changed when all are set.
void pdev_vector_set(struct pdev *p, unsigned vector, int fd);
void pdev_vectors_changed(struct pdev *p);
void pdev_vector_mask(struct pdev *p, unsigned vector, bool masked);
// The same of the pin.  The one that unmasks is watched in the device's loop: 0 or -errno, taken only on success.
void pdev_intx_set(struct pdev *p, int fd);
int pdev_intx_set_unmask(struct pdev *p, int fd);
void pdev_intx_mask(struct pdev *p, bool masked);
// Raises the pin's interrupt if its level, its mask and the command register say so; what is watched of intx_unmask.
void pdev_intx_deliver(struct pdev *p);
void pdev_intx_unmasked(struct loop_source *src, uint32_t events);

// The function that stands for a virtio device (virtio_pci_fn.c).  0 or -errno and the sentence.
int virtio_fn_create(struct pdev **out, struct vdev *d, struct err *e);
void virtio_fn_destroy(struct pdev *p);

#endif
