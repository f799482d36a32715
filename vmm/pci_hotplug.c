// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/pci_hotplug.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/pci_host.h"

#include <errno.h>

#define LOOK	     UINT32_C(1) // slot 0 is the host bridge's
#define SLOT_BIT(s)  (UINT32_C(1) << (s))
#define REGISTER_LEN PCI_HOTPLUG_REGISTER_SIZE

uint32_t pci_hotplug_slots(const struct pci_host *host)
{
	uint32_t slots = 0;
	for (unsigned i = 1; i < PCI_SLOTS; i++)
		if (host->func[i] && host->func[i]->ops->hotplug)
			slots |= SLOT_BIT(i);
	return slots;
}

// ---- the guest's side -------------------------------------------------------------------------------------------

static void register_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	struct pci_hotplug *h = CONTAINER_OF(r, struct pci_hotplug, range);
	*val = 0;
	if (offset != 0 || size != REGISTER_LEN)
		return;
	pthread_mutex_lock(&h->lock);
	*val = h->ask;
	if (h->ask & LOOK)
		h->looks_begun++;
	h->ask = 0;
	pthread_mutex_unlock(&h->lock);
}

// Functions whose look is over.
static uint32_t looks_end(struct pci_hotplug *h)
{
	uint32_t over = 0;
	if (h->looks_done == h->looks_begun)
		return 0; // of none that was asked for
	h->looks_done++;
	for (unsigned i = 1; i < PCI_SLOTS; i++)
		if (h->looking & SLOT_BIT(i) && (int32_t)(h->looks_done - h->look_of[i]) >= 0)
			over |= SLOT_BIT(i);
	h->looking &= ~over;
	return over;
}

static void tell(struct pci_hotplug *h, uint32_t slots, enum pci_hotplug_end end)
{
	for (unsigned i = 1; i < PCI_SLOTS; i++) {
		struct pci_func *f = slots & SLOT_BIT(i) ? h->host->func[i] : NULL;
		if (!f || !f->ops->hotplug)
			continue;
		pci_func_lock(f);
		f->ops->hotplug(f, end);
		pci_func_unlock(f);
	}
}

static void register_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct pci_hotplug *h = CONTAINER_OF(r, struct pci_hotplug, range);
	uint32_t looked = 0;
	if (offset != 0 || size != REGISTER_LEN)
		return;
	pthread_mutex_lock(&h->lock);
	h->leaving &= ~(uint32_t)val;
	if (val & LOOK)
		looked = looks_end(h);
	pthread_mutex_unlock(&h->lock);
	tell(h, (uint32_t)val & ~LOOK, PCI_HOTPLUG_EJECTED);
	tell(h, looked, PCI_HOTPLUG_LOOKED);
}

// ---- the functions' side ----------------------------------------------------------------------------------------

static void asked_ready(struct loop_source *s, uint32_t events)
{
	struct pci_hotplug *h = CONTAINER_OF(s, struct pci_hotplug, asked);
	(void)events;
	if (fd_event_take(s->fd))
		h->place.raise(h->place.owner);
}

bool pci_hotplug_eject(struct pci_func *f)
{
	struct pci_hotplug *h = f->host->hotplug;
	if (!h)
		return false;
	pthread_mutex_lock(&h->lock);
	h->ask |= SLOT_BIT(f->slot);
	h->leaving |= SLOT_BIT(f->slot);
	pthread_mutex_unlock(&h->lock);
	fd_event_signal(h->asked.fd);
	return true;
}

bool pci_hotplug_look(struct pci_func *f)
{
	struct pci_hotplug *h = f->host->hotplug;
	if (!h)
		return false;
	pthread_mutex_lock(&h->lock);
	h->ask |= LOOK;
	h->looking |= SLOT_BIT(f->slot);
	h->look_of[f->slot] = h->looks_begun + 1;
	pthread_mutex_unlock(&h->lock);
	fd_event_signal(h->asked.fd);
	return true;
}

void pci_hotplug_reset(struct pci_hotplug *h)
{
	pthread_mutex_lock(&h->lock);
	const uint32_t leaving = h->leaving, looking = h->looking;
	h->ask = h->leaving = h->looking = 0;
	h->looks_begun = h->looks_done = 0;
	pthread_mutex_unlock(&h->lock);
	tell(h, leaving, PCI_HOTPLUG_EJECTED);
	tell(h, looking, PCI_HOTPLUG_LOOKED);
}

// ---- life -------------------------------------------------------------------------------------------------------

int pci_hotplug_start(struct pci_hotplug *h, struct pci_host *host, const struct pci_hotplug_place *place,
		      struct loop *loop, struct err *e)
{
	if (!pci_hotplug_slots(host))
		return 0;
	FD_AUTO fd = fd_eventfd();
	if (fd < 0)
		return err_sys(e, -fd, "PCI hot plug: eventfd");
	*h = (struct pci_hotplug){
		.place = *place,
		.loop = loop,
		.range = { .start = place->at,
			   .size = REGISTER_LEN,
			   .name = "PCI hot plug",
			   .read = register_read,
			   .write = register_write },
		.asked = { .fd = fd, .ready = asked_ready },
	};
	int rc = bus_add(place->bus, &h->range);
	if (rc < 0)
		return err_sys(e, -rc, "PCI hot plug: its register");
	rc = loop_add(loop, &h->asked, EPOLLIN);
	if (rc < 0) {
		bus_remove(place->bus, &h->range);
		return err_sys(e, -rc, "PCI hot plug: epoll");
	}
	pthread_mutex_init(&h->lock, NULL);
	fd_steal(&fd);
	h->host = host;
	host->hotplug = h;
	return 0;
}

void pci_hotplug_stop(struct pci_hotplug *h)
{
	if (!h->host)
		return;
	bus_remove(h->place.bus, &h->range);
	loop_remove(h->loop, &h->asked);
	fd_close(&h->asked.fd);
	pthread_mutex_destroy(&h->lock);
	h->host->hotplug = NULL;
	h->host = NULL;
}
