// SPDX-License-Identifier: BSD-2-Clause
// What the server of vfio-user does to a PCI function (pdev.c); nobody else includes this.
#ifndef MINIVMM_SDK_PDEV_IMPL_H
#define MINIVMM_SDK_PDEV_IMPL_H

#include "devices/sdk/pdev.h"

// Accesses that lie within configuration space or the BAR, of any length; split into aligned ones of a register's size.
void pdev_config_access(struct pdev *p, unsigned offset, uint8_t *bytes, unsigned len, bool write);
// The BAR's: 0, or -EBUSY for a write to a function that is stopped, where it is of more than MSI-X.
int pdev_bar_access(struct pdev *p, unsigned bar, uint64_t offset, uint8_t *bytes, uint64_t len, bool write);

// As after power-on.  The client's eventfds stay.
void pdev_reset(struct pdev *p);

// Drained, it begins nothing any more until pdev_run(): interrupts stay pending, doorbells and what is due are remembered.
void pdev_stop(struct pdev *p);
void pdev_run(struct pdev *p);

// A client came: 0 or -errno.  It went, and its eventfds are closed.
int pdev_attach(struct pdev *p);
void pdev_detach(struct pdev *p);

// Sets (and takes) or takes back (-1) the eventfd of a vector; says ops->vectors_changed when all are set.
void pdev_vector_set(struct pdev *p, unsigned vector, int fd);
void pdev_vectors_changed(struct pdev *p);
void pdev_vector_mask(struct pdev *p, unsigned vector, bool masked);
// Raises it if it is pending and may be.
void pdev_vector_deliver(struct pdev *p, unsigned vector);
// The same of the pin.  The one that unmasks is watched in the device's loop: 0 or -errno, taken only on success.
void pdev_intx_set(struct pdev *p, int fd);
int pdev_intx_set_unmask(struct pdev *p, int fd);
void pdev_intx_mask(struct pdev *p, bool masked);
// Raises the pin's interrupt if its level, its mask and the command register say so; what is watched of intx_unmask.
void pdev_intx_deliver(struct pdev *p);
void pdev_intx_unmasked(struct loop_source *src, uint32_t events);

// ---- pdev_state.c: the state of a function that is stopped

// Whether it has one.
bool pdev_state_offered(const struct pdev *p);
// The most bytes that it takes.
size_t pdev_state_max(const struct pdev *p);
size_t pdev_state_save(struct pdev *p, uint8_t *to);
// Checks what may be anything, and makes it the function's.  0, or -EINVAL (logged): it is as after power-on.
int pdev_state_load(struct pdev *p, const uint8_t *from, size_t len);

// The function that stands for a virtio device (virtio_pci_fn.c).  0 or -errno and the sentence.
int virtio_fn_create(struct pdev **out, struct vdev *d, struct err *e);
void virtio_fn_destroy(struct pdev *p);

#endif
