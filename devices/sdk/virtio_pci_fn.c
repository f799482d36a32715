// SPDX-License-Identifier: BSD-2-Clause
// A virtio device as a PCI function (virtio 1.2 §4.1): what a guest's driver talks to when a device is served over vfio-user.
//
// Same registers at the same places as the monitor's own transport (vmm/virtio_pci.c), with INTx beside MSI-X; the queues behind
// them are the device's, with nothing in between.  What the driver did is kept when the client leaves: the queues rest, and go on
// where they were when a client comes back that has set the interrupts or rings a doorbell, or start afresh after a reset.
#include "devices/sdk/virtio_fn_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

// The places and wrap counters of a packed ring that begins, as vq_stop() says them.
#define BASE_PACKED 0x80008000u

static struct virtio_fn *fn_of(struct virtio_regs *r)
{
	return CONTAINER_OF(r, struct virtio_fn, regs);
}

// ---- interrupts ---------------------------------------------------------------------------------------------------

static void interrupt(struct virtio_fn *f, uint16_t vector, uint8_t isr)
{
	if (vector != VIRTIO_NO_VECTOR) {
		pdev_interrupt(f->pdev, vector);
	} else if (!pdev_msix_on(f->pdev)) {
		f->regs.isr |= isr;
		pdev_set_intx(f->pdev, true);
	}
}

static void queue_call(struct vq *q)
{
	struct virtio_fn *f = q->carrier;
	interrupt(f, f->regs.queue[q->index].vector, VP_ISR_QUEUE);
}

static void device_broken(struct virtio_regs *r, const char *why)
{
	log_limited(LOG_WARN, "%s; the device needs a reset by its driver", why);
	r->state = VIRTIO_BROKEN;
	r->status |= VS_NEEDS_RESET;
	fn_of(r)->state_len = 0; // nobody goes on from it
	interrupt(fn_of(r), r->config_vector, VP_ISR_CONFIG);
}

static void queue_failed(struct vq *q)
{
	struct virtio_fn *f = q->carrier;
	if (f->regs.state == VIRTIO_RUNNING)
		device_broken(&f->regs, "a queue broke the rules");
}

static void config_changed(struct vdev *d)
{
	struct virtio_fn *f = d->pci->priv;
	f->regs.generation++;
	if (f->regs.status & VS_DRIVER_OK)
		interrupt(f, f->regs.config_vector, VP_ISR_CONFIG);
}

// ---- queues -------------------------------------------------------------------------------------------------------

static void queue_rest(struct virtio_fn *f, unsigned i)
{
	struct vq *q = &f->d->queues[i];
	if (!q->running)
		return;
	f->d->ops->drain(f->d, q);
	f->queue[i].base = vq_stop(q);
	f->d->again &= ~(UINT64_C(1) << i);
}

// What is written through it is noted if the guest is about to move; a ring has one address here.
static void queue_log(struct virtio_fn *f, unsigned i)
{
	struct vq *q = &f->d->queues[i];
	q->dirty = f->pdev->dirty;
	q->dirty_used_gpa = f->regs.queue[i].device;
}

static struct vq_place queue_place(const struct virtio_fn *f, unsigned i)
{
	const struct virtio_reg_queue *reg = &f->regs.queue[i];
	return (struct vq_place){ .size = reg->size,
				  .base = f->queue[i].base,
				  .desc = reg->desc,
				  .avail = reg->driver,
				  .used = reg->device };
}

// -EFAULT: its ring is not in memory that is mapped, at least not now.
static int queue_run(struct virtio_fn *f, unsigned i)
{
	struct vq *q = &f->d->queues[i];
	const struct vq_place at = queue_place(f, i);
	q->carrier = f;
	q->on_fail = queue_failed;
	q->on_call = queue_call;
	queue_log(f, i);
	int rc = vq_start(q, &f->d->mem, &at, f->regs.taken);
	if (rc < 0)
		return rc;
	q->resumed = f->queue[i].resumed;
	f->queue[i].resumed = false;
	q->enabled = true;
	f->d->ops->kick(f->d, q);
	return 0;
}

static int device_start(struct virtio_fn *f)
{
	if (f->started)
		return 0;
	if (f->state_len && f->d->ops->state_load)
		f->d->ops->state_load(f->d, f->state, f->state_len);
	f->state_len = 0;
	int rc = f->d->ops->start(f->d, f->regs.taken);
	if (rc < 0)
		return rc;
	f->d->negotiated = f->regs.taken;
	f->started = true;
	return 0;
}

static void device_stop(struct virtio_fn *f)
{
	f->d->again = 0;
	if (f->started)
		f->d->ops->stop(f->d);
	f->started = false;
}

// Queues that are to run and do not: their memory may be there by now.
static void queues_resume(struct virtio_fn *f)
{
	if (f->away || f->pdev->stopped || f->regs.state != VIRTIO_RUNNING)
		return;
	const bool again = !f->started;
	int rc = device_start(f);
	if (rc < 0) {
		device_broken(&f->regs, err_text(-rc));
		return;
	}
	for (unsigned i = 0; i < f->regs.queue_count; i++) {
		struct vq *q = &f->d->queues[i];
		f->queue[i].resumed |= again;
		if (f->queue[i].live && !q->running && queue_run(f, i) == 0)
			queue_call(q); // an interrupt may have been lost with who was to get it
	}
}

// What a driver does to a device that it has not reset: it is the one that was.
static void come_back(struct virtio_fn *f)
{
	if (!f->away)
		return;
	f->away = false;
	queues_resume(f);
}

// ---- what follows from the registers ------------------------------------------------------------------------------

static bool on_is_memory(struct virtio_regs *r, uint64_t gpa, uint64_t len)
{
	return pdev_memory(fn_of(r)->pdev, gpa, len);
}

static int on_negotiate(struct virtio_regs *r)
{
	(void)r;
	return 0; // the device is told when it starts
}

static void on_queue_start(struct virtio_regs *r, unsigned index)
{
	struct virtio_fn *f = fn_of(r);
	come_back(f);
	f->queue[index] =
		(struct fn_queue){ .live = true, .base = r->taken & VF_RING_PACKED ? BASE_PACKED : 0 };
	int rc = r->state == VIRTIO_RUNNING ? queue_run(f, index) : 0;
	if (rc < 0)
		device_broken(r, err_text(-rc));
}

static void on_start(struct virtio_regs *r)
{
	struct virtio_fn *f = fn_of(r);
	int rc = device_start(f);
	if (rc < 0) {
		device_broken(r, err_text(-rc));
		return;
	}
	r->state = VIRTIO_RUNNING;
	for (unsigned i = 0; i < r->queue_count && r->state == VIRTIO_RUNNING; i++)
		if (r->queue[i].enabled)
			on_queue_start(r, i);
}

static void on_queue_stop(struct virtio_regs *r, unsigned index)
{
	queue_rest(fn_of(r), index);
	fn_of(r)->queue[index].live = false;
}

static void on_stop(struct virtio_regs *r)
{
	struct virtio_fn *f = fn_of(r);
	for (unsigned i = 0; i < r->queue_count; i++)
		on_queue_stop(r, i);
	device_stop(f);
	f->away = false;
	f->state_len = 0;
	pdev_set_intx(f->pdev, false);
}

static const struct virtio_regs_ops regs_ops = {
	.is_memory = on_is_memory,
	.negotiate = on_negotiate,
	.start = on_start,
	.stop = on_stop,
	.queue_start = on_queue_start,
	.queue_stop = on_queue_stop,
	.broken = device_broken,
};

// ---- the BAR ------------------------------------------------------------------------------------------------------

static uint64_t device_config_read(const struct virtio_fn *f, uint64_t offset, unsigned size)
{
	uint64_t val = 0;
	for (unsigned i = 0; i < size; i++)
		if (offset + i < f->d->config_len)
			val |= (uint64_t)((const uint8_t *)f->d->config)[offset + i] << (8 * i);
	return val;
}

static void device_config_write(struct virtio_fn *f, uint64_t offset, unsigned size, uint64_t val)
{
	uint8_t bytes[8];
	if (f->regs.state == VIRTIO_RESET || f->regs.state == VIRTIO_BROKEN ||
	    !range_in(offset, size, f->d->config_len))
		return;
	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(val >> (8 * i));
	come_back(f);
	f->d->ops->config_write(f->d, (uint32_t)offset, bytes, size);
}

static uint64_t fn_bar_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	struct virtio_fn *f = p->priv;
	(void)bar;
	if (range_in(offset, size, VC_SIZE))
		return virtio_regs_read(&f->regs, offset, size);
	if (offset == VP_ISR) {
		const uint8_t isr = virtio_regs_isr_take(&f->regs);
		pdev_set_intx(p, false);
		return isr;
	}
	if (offset >= VP_DEVICE && range_in(offset - VP_DEVICE, size, VP_DEVICE_ROOM))
		return device_config_read(f, offset - VP_DEVICE, size);
	return 0;
}

static void fn_bar_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	struct virtio_fn *f = p->priv;
	(void)bar;
	if (range_in(offset, size, VC_SIZE))
		virtio_regs_write(&f->regs, offset, size, val);
	else if (offset >= VP_DEVICE && range_in(offset - VP_DEVICE, size, VP_DEVICE_ROOM))
		device_config_write(f, offset - VP_DEVICE, size, val);
}

static void fn_doorbell(struct pdev *p, unsigned index)
{
	struct virtio_fn *f = p->priv;
	come_back(f);
	if (f->regs.state == VIRTIO_RUNNING && f->d->queues[index].running)
		f->d->ops->kick(f->d, &f->d->queues[index]);
}

// ---- configuration space ------------------------------------------------------------------------------------------

// The window into the BAR (§4.1.4.9): true if the guest has pointed it at something that can be accessed.
static bool window_target(const struct virtio_fn *f, unsigned offset, unsigned size, uint32_t *target)
{
	const uint32_t len = pdev_config_get32(f->pdev, f->window_cap + VCAP_LENGTH_OFF);
	*target = pdev_config_get32(f->pdev, f->window_cap + VCAP_OFFSET_OFF);
	return offset == f->window_cap + VCAP_DATA_OFF && size == len && (len == 1 || len == 2 || len == 4) &&
	       *target % len == 0 && f->pdev->config[f->window_cap + VCAP_BAR_OFF] == VP_BAR &&
	       range_in(*target, len, VP_BAR_SIZE);
}

static void fn_config(struct pdev *p, unsigned offset, unsigned size, bool written)
{
	uint32_t target;
	if (window_target(p->priv, offset, size, &target))
		pdev_bar_access(p, VP_BAR, target, p->config + offset, size, written);
}

static unsigned add_capability(struct pdev *p, uint8_t type, unsigned cap_len, uint32_t offset, uint32_t len)
{
	const unsigned cap = pdev_add_capability(p, PCI_CAP_ID_VNDR, cap_len);
	p->config[cap + PCI_CAP_FLAGS] = (uint8_t)cap_len;
	p->config[cap + VCAP_TYPE_OFF] = type;
	p->config[cap + VCAP_BAR_OFF] = VP_BAR;
	pdev_config_set32(p, cap + VCAP_OFFSET_OFF, offset);
	pdev_config_set32(p, cap + VCAP_LENGTH_OFF, len);
	return cap;
}

static void describe(struct virtio_fn *f, struct pdev *p)
{
	const unsigned queues = f->regs.queue_count;
	const uint16_t type = f->d->ops->virtio_type;
	pdev_set_identity(p, VIRTIO_PCI_VENDOR, (uint16_t)(VIRTIO_PCI_DEVICE_BASE + type),
			  virtio_id_pci_class(type), 1); // §4.1.2.1: not a transitional device
	pdev_set_subsystem(p, VIRTIO_PCI_VENDOR, (uint16_t)(0x40 + type));
	pdev_add_bar(p, VP_BAR, VP_BAR_SIZE, true);
	pdev_add_intx(p);
	add_capability(p, VCAP_COMMON, VCAP_LEN, VP_COMMON, VC_SIZE);
	add_capability(p, VCAP_ISR, VCAP_LEN, VP_ISR, 1);
	if (f->d->config_len)
		add_capability(p, VCAP_DEVICE, VCAP_LEN, VP_DEVICE, f->d->config_len);
	unsigned cap = add_capability(p, VCAP_NOTIFY, VCAP_LEN_DATA, VP_NOTIFY, queues * VP_NOTIFY_STEP);
	pdev_config_set32(p, cap + VCAP_DATA_OFF, VP_NOTIFY_STEP);
	cap = add_capability(p, VCAP_PCI, VCAP_LEN_DATA, 0, 0);
	p->writable[cap + VCAP_BAR_OFF] = 0xff;
	memset(&p->writable[cap + VCAP_OFFSET_OFF], 0xff, VCAP_LEN_DATA - VCAP_OFFSET_OFF);
	f->window_cap = cap;
	pdev_add_msix(p, queues + 1, VP_BAR, VP_MSIX_TABLE, VP_MSIX_PBA);
	for (unsigned i = 0; i < queues; i++)
		pdev_add_doorbell(p, VP_BAR, VP_NOTIFY + VP_NOTIFY_STEP * i, 0);
}

// ---- the function -------------------------------------------------------------------------------------------------

static void fn_drain(struct pdev *p)
{
	p->d->ops->drain(p->d, NULL);
}

// Nothing is in flight.  Another device may go on from here, or this one.
static void fn_rest(struct virtio_fn *f)
{
	for (unsigned i = 0; i < f->regs.queue_count; i++)
		queue_rest(f, i);
	if (f->started && f->regs.state == VIRTIO_RUNNING && f->d->ops->state_save)
		f->state_len = f->d->ops->state_save(f->d, f->state);
	device_stop(f);
}

static void fn_memory_changed(struct pdev *p)
{
	struct virtio_fn *f = p->priv;
	for (unsigned i = 0; i < f->regs.queue_count; i++)
		queue_log(f, i);
	if (p->stopped) {
		fn_rest(f);
		return;
	}
	for (unsigned i = 0; i < f->regs.queue_count; i++) {
		struct vq *q = &f->d->queues[i];
		const struct vq_place at = queue_place(f, i);
		if (q->running && vq_relocate(q, &at) < 0) {
			f->queue[i].base = vq_stop(q);
			f->d->again &= ~(UINT64_C(1) << i);
		}
	}
	queues_resume(f);
}

static void fn_reset(struct pdev *p)
{
	struct virtio_fn *f = p->priv;
	virtio_regs_reset(&f->regs);
}

static void fn_attached(struct pdev *p, bool on)
{
	struct virtio_fn *f = p->priv;
	f->d->config_changed = on ? config_changed : NULL;
	if (on)
		return;
	fn_rest(f);
	f->away |= f->regs.state == VIRTIO_RUNNING;
}

// A driver sets its vectors up after it has reset the device: these are of one that goes on.
static void fn_vectors_changed(struct pdev *p)
{
	if (pdev_msix_on(p))
		come_back(p->priv);
}

static const struct pdev_ops fn_ops = {
	.bar_read = fn_bar_read,
	.bar_write = fn_bar_write,
	.doorbell = fn_doorbell,
	.config = fn_config,
	.drain = fn_drain,
	.memory_changed = fn_memory_changed,
	.reset = fn_reset,
	.attached = fn_attached,
	.vectors_changed = fn_vectors_changed,
	.save = virtio_fn_save,
	.load = virtio_fn_load,
};

int virtio_fn_create(struct pdev **out, struct vdev *d, struct err *e)
{
	if (!d->ops->virtio_type || d->ops->virtio_type > VIRTIO_TYPE_MAX)
		return err_set(
			e, EINVAL,
			"vfio-user: the device does not say its virtio type (virtio_type in its struct vdev_ops)");
	if (d->queue_count == 0 || d->queue_count > VDEV_QUEUES_MAX || d->config_len > VP_DEVICE_ROOM)
		return err_set(
			e, EINVAL,
			"vfio-user: %u queues and %u bytes of configuration; 1 to %d and up to %d are possible",
			d->queue_count, d->config_len, VDEV_QUEUES_MAX, VP_DEVICE_ROOM);
	struct virtio_fn *f = calloc(1, sizeof(*f));
	if (!f)
		return err_sys(e, ENOMEM, "PCI function");
	int rc = pdev_create(&f->pdev, d, &fn_ops, e);
	if (rc < 0) {
		free(f);
		return rc;
	}
	f->d = d;
	f->pdev->priv = f;
	f->regs = (struct virtio_regs){ .ops = &regs_ops,
					.offered = d->features & VF_CARRIED,
					.queue = f->reg_queue,
					.queue_count = d->queue_count,
					.vector_count = (uint16_t)(d->queue_count + 1),
					.queue_size_max = d->queue_size_max };
	describe(f, f->pdev);
	virtio_regs_reset(&f->regs);
	*out = f->pdev;
	return 0;
}

void virtio_fn_destroy(struct pdev *p)
{
	struct virtio_fn *f = p->priv;
	pdev_destroy(p);
	free(f);
}
