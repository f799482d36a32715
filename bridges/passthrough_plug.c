// SPDX-License-Identifier: BSD-2-Clause
// How a passthrough function leaves the guest, and how a guest sees that one has gone.
//
// Where the host wants the device back the guest is asked to let go of it (vmm/pci_hotplug.h), and when it says that it has, or GUEST_MS later, the device is closed: that is what
// the host waits for.  The function stays, without a device, and reads as an empty slot.
// A function whose carrier died reads as an empty slot, too; a guest that is to know of it (link->replug) is asked to look at the bus.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/pci_hotplug.h"

#include <errno.h>
#include <poll.h>
#include <sys/timerfd.h>

#define GUEST_MS 5000

static int64_t guest_ms(const struct passthrough *pt)
{
	return pt->host.guest_ms ? pt->host.guest_ms : GUEST_MS;
}

// The host waits until the link is closed.
static void give_back(struct passthrough *pt)
{
	pt->leaving = false;
	pt_cut(pt);
	if (!pt->link)
		return;
	pt_bars_free(pt);
	pt_dma_unmap(pt);
	pt->link->ops->close(pt->link);
	pt->link = NULL;
}

static void timer_set(struct passthrough *pt, int64_t ms)
{
	const struct itimerspec t = { .it_value = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * NS_PER_MS } };
	timerfd_settime(pt->late.fd, 0, &t, NULL);
}

void pt_plug_wanted(struct passthrough *pt)
{
	if (pt->leaving) // it asks until it is answered
		return;
	if (!pt_alive(pt) || pt->late.fd < 0 || !pci_hotplug_eject(&pt->func)) {
		pt_die(pt, "the host wants the device back");
		give_back(pt);
		return;
	}
	log_limited(LOG_WARN, "%s: the host wants the device back; the guest is asked to let go of it",
		    pt->func.id);
	pt->leaving = true;
	timer_set(pt, guest_ms(pt));
}

void pt_plug_late(struct passthrough *pt)
{
	if (!pt->leaving)
		return;
	pt_die(pt, "the host wants the device back, and the guest did not let go of it in time");
	give_back(pt);
}

static void ejected(struct passthrough *pt)
{
	if (pt->leaving) {
		timer_set(pt, 0);
		give_back(pt);
		log_limited(LOG_WARN, "%s: the guest let go of the device, and the host has it back",
			    pt->func.id);
	} else if (pt->link) {
		log_limited(LOG_INFO, "%s: the guest let go of it unasked: it stays in its slot, reset",
			    pt->func.id);
	}
	pci_func_reset(&pt->func);
}

void pt_plug_gone(struct passthrough *pt)
{
	pt->gone = pt->dead && pt->link && pt->link->replug;
	if (pt->gone)
		pci_hotplug_look(&pt->func);
}

bool pt_plug_pull(struct passthrough *pt)
{
	const deadline_ns until = deadline_in_ms(guest_ms(pt));
	struct pollfd p = { .fd = pt->looked, .events = POLLIN };
	int n;
	fd_event_take(pt->looked);
	if (!pci_hotplug_look(&pt->func))
		return false;
	pt->awaited = true;
	pci_func_unlock(&pt->func);
	do {
		n = poll(&p, 1, deadline_left_ms(until));
	} while (n < 0 && errno == EINTR);
	pci_func_lock(&pt->func);
	pt->awaited = false;
	return n > 0;
}

void pt_plug_end(struct passthrough *pt)
{
	if (pt->awaited)
		fd_event_signal(pt->looked);
}

static void looked(struct passthrough *pt)
{
	if (pt->awaited)
		fd_event_signal(pt->looked);
	else if (pt->gone) // where its BARs were others may be now
		pci_func_reset(&pt->func);
}

void pt_hotplug(struct pci_func *f, enum pci_hotplug_end end)
{
	if (end == PCI_HOTPLUG_EJECTED)
		ejected(pt_of(f));
	else
		looked(pt_of(f));
}

// The loop's thread, without the lock.
static void late_ready(struct loop_source *s, uint32_t events)
{
	struct passthrough *pt = CONTAINER_OF(s, struct passthrough, late);
	(void)events;
	if (fd_event_take(s->fd)) // a timer is read like an eventfd
		pci_func_post(&pt->func, PT_EVENT_LATE);
}

static int timer_make(struct passthrough *pt, struct err *e)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd < 0)
		return err_sys(e, errno, "%s: timerfd", pt->func.id);
	pt->late = (struct loop_source){ .fd = fd, .ready = late_ready };
	int rc = loop_add(pt->host.loop, &pt->late, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "%s: epoll", pt->func.id) : 0;
}

int pt_plug_init(struct passthrough *pt, struct err *e)
{
	pt->late.fd = pt->looked = -1;
	if (pt->link->replug && (pt->looked = fd_eventfd()) < 0)
		return err_sys(e, -pt->looked, "%s: eventfd", pt->func.id);
	return pt->wanted.fd >= 0 ? timer_make(pt, e) : 0;
}

void pt_plug_free(struct passthrough *pt)
{
	fd_close(&pt->looked);
	loop_remove(pt->host.loop, &pt->late);
	fd_close(&pt->late.fd);
}
