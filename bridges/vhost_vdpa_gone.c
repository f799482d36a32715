// SPDX-License-Identifier: BSD-2-Clause
// The removal of a vDPA device while it is in use.
//
// The kernel tells nobody who has the device open, and its removal (`vdpa dev del`) waits until all have closed it.  But the node in /dev
// goes away at once, which inotify tells.  The loop then says that the back-end is dead; a thread of its own lets go of
// the device, for that resets it and may take as long as a mute VDUSE process is waited for.
#include "bridges/vhost_vdpa_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREAD_STACK ((size_t)64 * 1024)

static void node_changed(struct loop_source *s, uint32_t events)
{
	struct vhost_vdpa *v = CONTAINER_OF(s, struct vhost_vdpa, gone.node);
	_Alignas(struct inotify_event) char told[1024];
	struct stat st;
	(void)events;
	while (read(s->fd, told, sizeof(told)) > 0)
		;
	// A change of its rights is told, too.
	if (atomic_load(&v->gone.is) || fstat(v->fd, &st) < 0 || st.st_nlink > 0)
		return;
	atomic_store(&v->gone.is, true);
	if (v->backend.events)
		v->backend.events->died(v->backend.owner, "the device was removed from the host");
	fd_event_signal(v->gone.let_go);
}

int vdpa_gone_watch(struct vhost_vdpa *v, struct err *e)
{
	char path[32];
	v->gone.let_go = fd_eventfd();
	v->gone.node =
		(struct loop_source){ .fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), .ready = node_changed };
	snprintf(path, sizeof(path), "/proc/self/fd/%d", v->fd);
	if (v->gone.let_go < 0 || v->gone.node.fd < 0 ||
	    inotify_add_watch(v->gone.node.fd, path, IN_ATTRIB | IN_DELETE_SELF) < 0)
		return err_sys(e, errno, "%s: watch for its removal (fs.inotify.max_user_instances)",
			       v->path);
	int rc = loop_add(v->loop, &v->gone.node, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "%s: watch for its removal", v->path) : 0;
}

// The number stays valid, for a CPU that is about to use it: another descriptor takes its place, anonymous pages that of the doorbells.
static void let_go(struct vhost_vdpa *v)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	for (unsigned q = 0; v->doorbells && q < v->backend.queue_count; q++)
		if (mmap(v->doorbell[q], page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			log_limited(LOG_WARN, "%s: %s: a doorbell page is kept", v->backend.id, v->path);
	dup3(v->gone.let_go, v->fd, O_CLOEXEC);
}

static void *gone_thread(void *arg)
{
	struct vhost_vdpa *v = arg;
	struct err e = { "" };
	if (v->gone.seal && v->gone.seal(&e) < 0) {
		log_error("%s: %s", v->backend.id, e.text);
		return NULL;
	}
	struct pollfd p = { .fd = v->gone.let_go, .events = POLLIN };
	while (poll(&p, 1, -1) != 1)
		;
	if (atomic_load(&v->gone.is))
		let_go(v);
	return NULL;
}

int vhost_vdpa_keep(struct backend *b, int (*seal)(struct err *e), struct err *e)
{
	struct vhost_vdpa *v = CONTAINER_OF(b, struct vhost_vdpa, backend);
	pthread_attr_t attr;
	sigset_t all, old;
	v->gone.seal = seal;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int error = pthread_create(&v->gone.thread, &attr, gone_thread, v);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	v->gone.has_thread = error == 0;
	return error ? err_sys(e, error, "%s: thread", b->id) : 0;
}

void vdpa_gone_close(struct vhost_vdpa *v)
{
	loop_remove(v->loop, &v->gone.node);
	if (v->gone.has_thread) {
		fd_event_signal(v->gone.let_go);
		pthread_join(v->gone.thread, NULL);
	}
	fd_close(&v->gone.node.fd);
	fd_close(&v->gone.let_go);
}
