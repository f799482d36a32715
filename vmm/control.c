// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/control.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/socket_file.h"
#include "vmm/config_key.h"
#include "vmm/vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// ---- answers ----------------------------------------------------------------------------------------------------

// The one that is being made: a line for each device, and some.
struct answer {
	size_t len;
	char text[CONFIG_DEVICES_MAX * 160 + 512];
};
static struct answer answer;

// A line that does not fit is left out: "ok" still does.
static __attribute__((format(printf, 2, 3))) void say(struct answer *a, const char *fmt, ...)
{
	size_t room = sizeof(a->text) - a->len;
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(a->text + a->len, room, fmt, args);
	va_end(args);
	if (n > 0 && (size_t)n < room)
		a->len += (size_t)n;
}

static void client_end(struct control_client *c)
{
	loop_remove(&c->control->vm->loop, &c->source);
	fd_close(&c->source.fd);
	c->waits = false;
	c->len = 0;
}

static void send_answer(struct control_client *c, const struct answer *a)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)a->text, .iov_len = a->len };
	const struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (sendmsg(c->source.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)a->len)
		client_end(c);
}

// ---- commands ---------------------------------------------------------------------------------------------------

enum done { DONE, LATER };

static enum done do_status(struct control_client *c, struct answer *a)
{
	const struct vm *vm = c->control->vm;
	say(a, "state   %s\n", vm->paused ? "paused" : vm->pause_wanted ? "is being paused" : "running");
	say(a, "name    %s\n", vm->config->name);
	say(a, "pid     %d\n", (int)getpid());
	say(a, "cpus    %u\n", vm->config->cpus);
	say(a, "memory  %llu MiB\n", (unsigned long long)(vm->config->memory >> 20));
	say(a, "up      %lld s\n", (long long)((deadline_now() - c->control->since) / NS_PER_S));
	return DONE;
}

static enum done pause_or_resume(struct control_client *c, bool on)
{
	c->waits = true;
	c->for_pause = on;
	(on ? vm_pause : vm_resume)(c->control->vm);
	return LATER;
}

static enum done do_pause(struct control_client *c, struct answer *a)
{
	(void)a;
	return pause_or_resume(c, true);
}

static enum done do_resume(struct control_client *c, struct answer *a)
{
	(void)a;
	return pause_or_resume(c, false);
}

static enum done do_powerdown(struct control_client *c, struct answer *a)
{
	arch_power_button(c->control->vm);
	if (c->control->vm->pause_wanted)
		say(a, "the machine is paused: its guest sees it when it goes on\n");
	return DONE;
}

static enum done do_quit(struct control_client *c, struct answer *a)
{
	(void)a;
	vm_post_event(c->control->vm, VM_QUIT);
	return DONE;
}

static struct pci_func *func_of(const struct vm *vm, const char *id)
{
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (vm->pci.func[i] && strcmp(vm->pci.func[i]->id, id) == 0)
			return vm->pci.func[i];
	return NULL;
}

static enum done do_device_list(struct control_client *c, struct answer *a)
{
	const struct vm *vm = c->control->vm;
	for (unsigned i = 0; i < vm->config->device_count; i++) {
		const struct device_config *d = &vm->config->devices[i];
		struct pci_func *f = func_of(vm, d->id);
		if (f)
			say(a, "%-16s slot %-2u  %-10s  %-8s  %s\n", d->id, f->slot,
			    d->via == VIA_BUILTIN ? "ours" : config_via_names[d->via],
			    d->virtio_name ? d->virtio_name : "-", pci_func_state(f));
	}
	return DONE;
}

static const struct command {
	const char *name;
	enum done (*run)(struct control_client *c, struct answer *a);
} commands[] = {
	{ "status", do_status },       { "pause", do_pause }, { "resume", do_resume },
	{ "powerdown", do_powerdown }, { "quit", do_quit },   { "device list", do_device_list },
};

static void unknown(struct answer *a)
{
	say(a, "error: not known; there are");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		say(a, "%s %s", i ? "," : "", commands[i].name);
	say(a, "\n");
}

static void request(struct control_client *c, const char *line)
{
	const struct command *found = NULL;
	answer.len = 0;
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, line) == 0)
			found = &commands[i];
	if (!found)
		unknown(&answer);
	else if (found->run(c, &answer) == LATER)
		return;
	else
		say(&answer, "ok\n");
	send_answer(c, &answer);
}

// The machine stands or goes, as the last one who asked wanted it.
static void settled(void *owner)
{
	struct control *c = owner;
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_client *client = &c->client[i];
		if (!client->waits)
			continue;
		client->waits = false;
		answer.len = 0;
		say(&answer, "%s\n",
		    client->for_pause == c->vm->paused ? "ok" : "error: another client wanted the contrary");
		send_answer(client, &answer);
	}
}

// ---- clients ----------------------------------------------------------------------------------------------------

// What has come is one line at most; the next one is looked at after its answer.
static void client_ready(struct loop_source *s, uint32_t events)
{
	struct control_client *c = CONTAINER_OF(s, struct control_client, source);
	(void)events;
	ssize_t n = read(s->fd, c->line + c->len, sizeof(c->line) - c->len);
	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			client_end(c);
		return;
	}
	c->len += (size_t)n;
	char *end = memchr(c->line, '\n', c->len);
	if (!end && c->len < sizeof(c->line))
		return;
	// Also one who says more before there is an answer.
	if (!end || c->waits || end + 1 != c->line + c->len) {
		client_end(c);
		return;
	}
	*end = '\0';
	c->len = 0;
	request(c, c->line);
}

// Edge-triggered: one who waits while there are no descriptors does not keep the loop busy; the next one brings both in.
static void listener_ready(struct loop_source *s, uint32_t events)
{
	struct control *c = CONTAINER_OF(s, struct control, listener);
	int fd;
	(void)events;
	while ((fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		struct control_client *client = &c->client[c->next];
		c->next = (c->next + 1) % CONTROL_CLIENTS;
		client_end(client);
		client->source = (struct loop_source){ .fd = fd, .ready = client_ready };
		if (loop_add(&c->vm->loop, &client->source, EPOLLIN) < 0)
			fd_close(&client->source.fd);
	}
}

// ---- its life ---------------------------------------------------------------------------------------------------

void control_init(struct control *c)
{
	*c = (struct control){ .listener = { .fd = -1 }, .keeper = -1 };
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		c->client[i] = (struct control_client){ .control = c, .source = { .fd = -1 } };
}

int control_open(struct control *c, const char *path, struct err *e)
{
	if (!path)
		return 0;
	int fd = socket_file_listen(path, &c->keeper, e);
	if (fd < 0) {
		err_prefix(e, "vm.control");
		return fd;
	}
	c->listener = (struct loop_source){ .fd = fd, .ready = listener_ready };
	return 0;
}

int control_start(struct control *c, struct vm *vm, struct err *e)
{
	c->vm = vm;
	c->since = deadline_now();
	if (c->listener.fd < 0)
		return 0;
	vm->pause_settled = settled;
	vm->pause_owner = c;
	int rc = loop_add(&vm->loop, &c->listener, EPOLLIN | EPOLLET);
	return rc < 0 ? err_sys(e, -rc, "vm.control") : 0;
}

void control_close(struct control *c)
{
	for (unsigned i = 0; c->vm && i < CONTROL_CLIENTS; i++)
		client_end(&c->client[i]);
	if (c->vm)
		loop_remove(&c->vm->loop, &c->listener);
	fd_close(&c->listener.fd);
	socket_file_remove(&c->keeper);
}
