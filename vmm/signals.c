// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/signals.h"

#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/vm.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define SECOND_TERM_MS 5000

static sigset_t watched(void)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGTERM);
	sigaddset(&s, SIGINT);
	sigaddset(&s, SIGHUP);
	sigaddset(&s, SIGUSR1);
	return s;
}

void signals_block(void)
{
	sigset_t s = watched();
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void on_term(struct signals *s)
{
	if (deadline_now() < s->second_until) {
		vm_post_event(s->vm, VM_QUIT);
		return;
	}
	log_info("SIGTERM: power button pressed; once more within 5 s stops the machine");
	s->second_until = deadline_in_ms(SECOND_TERM_MS);
	arch_power_button(s->vm);
}

static void signals_ready(struct loop_source *source, uint32_t events)
{
	struct signals *s = CONTAINER_OF(source, struct signals, source);
	struct signalfd_siginfo info;
	(void)events;
	while (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGTERM)
			on_term(s);
		else if (info.ssi_signo == SIGUSR1)
			vm_dump(s->vm);
		else
			vm_post_event(s->vm, VM_QUIT);
	}
}

int signals_watch(struct signals *s, struct vm *vm, struct err *e)
{
	sigset_t set = watched();
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return err_sys(e, errno, "signalfd");
	*s = (struct signals){ .source = { .fd = fd, .ready = signals_ready }, .vm = vm };
	int rc = loop_add(&vm->loop, &s->source, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "signalfd") : 0;
}
