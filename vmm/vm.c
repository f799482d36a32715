// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/vm.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/seal.h"
#include "vmm/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>

// ---- events -----------------------------------------------------------------------------------------------------

void vm_post_event(struct vm *vm, enum vm_event event)
{
	int now = atomic_load(&vm->event);
	while (now < (int)event && !atomic_compare_exchange_weak(&vm->event, &now, (int)event))
		;
	fd_event_signal(vm->event_source.fd);
}

static void event_ready(struct loop_source *s, uint32_t events)
{
	struct vm *vm = CONTAINER_OF(s, struct vm, event_source);
	(void)events;
	fd_event_take(s->fd);
	loop_stop(&vm->loop);
}

static void console_quit(void *owner)
{
	vm_post_event(owner, VM_QUIT);
}

// ---- the KVM side, made anew at each boot -----------------------------------------------------------------------

static int kvm_side_build(struct vm *vm, struct err *e)
{
	int rc = kvm_vm_create(&vm->kvm, e);
	// Memory first: KVM waits here for what the interrupt controllers' making leaves to the kernel's next tick.
	for (unsigned i = 0; rc == 0 && i < vm->memory.ram.count; i++) {
		const struct mem_region *r = &vm->memory.ram.region[i];
		rc = kvm_memory_slot(&vm->kvm, i, r->gpa, r->size, r->hva, 0);
		if (rc < 0)
			err_sys(e, -rc, "vm.memory: KVM takes no %llu MiB at %#llx",
				(unsigned long long)(r->size >> 20), (unsigned long long)r->gpa);
	}
	if (rc == 0)
		rc = arch_vm_setup(vm, e);
	return rc;
}

static void vcpus_close(struct vm *vm)
{
	for (unsigned i = 0; vm->vcpus && i < vm->config->cpus; i++)
		vcpu_close(&vm->vcpus[i]);
}

static int vcpus_open(struct vm *vm, struct err *e)
{
	for (unsigned i = 0; i < vm->config->cpus; i++) {
		int rc = vcpu_open(&vm->vcpus[i], vm, i, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

// ---- vCPU threads -----------------------------------------------------------------------------------------------

static void vcpus_wait_parked(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	while (vm->parked < vm->vcpu_count)
		pthread_cond_wait(&vm->run_changed, &vm->run_lock);
	pthread_mutex_unlock(&vm->run_lock);
}

static void vcpus_resume(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	vm->run = true;
	vm->generation++;
	pthread_cond_broadcast(&vm->run_changed);
	pthread_mutex_unlock(&vm->run_lock);
}

static void vcpus_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	vm->run = false;
	pthread_mutex_unlock(&vm->run_lock);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_kick(&vm->vcpus[i]);
}

static void vcpus_pause(struct vm *vm)
{
	vcpus_stop(vm);
	vcpus_wait_parked(vm);
}

static void vcpus_join(struct vm *vm)
{
	if (vm->vcpu_count == 0)
		return;
	vcpus_pause(vm);
	pthread_mutex_lock(&vm->run_lock);
	vm->leave = true;
	pthread_cond_broadcast(&vm->run_changed);
	pthread_mutex_unlock(&vm->run_lock);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
	vm->vcpu_count = 0;
}

// ---- building ---------------------------------------------------------------------------------------------------

static int check_cpus(struct vm *vm, struct err *e)
{
	int max = kvm_capability(&vm->kvm, KVM_CAP_MAX_VCPUS);
	if (vm->config->cpus <= (unsigned)MAX(max, 1))
		return 0;
	return err_set(e, EINVAL, "vm.cpus: %u; this host's KVM makes %d at most", vm->config->cpus, max);
}

static int boot_files_open(struct vm *vm, struct err *e)
{
	const struct vm_config *c = vm->config;
	// Non-blocking: a FIFO is refused by the loader and not waited for here.
	vm->kernel_fd = fd_open_path(c->kernel, O_RDONLY | O_NONBLOCK, e);
	if (vm->kernel_fd >= 0 && c->initrd)
		vm->initrd_fd = fd_open_path(c->initrd, O_RDONLY | O_NONBLOCK, e);
	if (vm->kernel_fd >= 0 && (vm->initrd_fd >= 0 || !c->initrd))
		return 0;
	err_prefix(e, vm->kernel_fd < 0 ? "boot.kernel" : "boot.initrd");
	return vm->kernel_fd < 0 ? vm->kernel_fd : vm->initrd_fd;
}

static int event_source_make(struct vm *vm, struct err *e)
{
	int fd = fd_eventfd();
	if (fd < 0)
		return err_sys(e, -fd, "eventfd");
	vm->event_source = (struct loop_source){ .fd = fd, .ready = event_ready };
	int rc = loop_add(&vm->loop, &vm->event_source, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "epoll") : 0;
}

int vm_init(struct vm *vm, const struct vm_config *config, struct err *e)
{
	*vm = (struct vm){ .config = config, .kernel_fd = -1, .initrd_fd = -1 };
	console_init(&vm->console); // 0 would be a descriptor
	control_init(&vm->control);
	vm->event_source.fd = vm->kvm.fd = vm->kvm.vm_fd = vm->kvm.vfio_fd = vm->memory.fd =
		vm->loop.epoll_fd = -1;
	pthread_mutex_init(&vm->run_lock, NULL);
	pthread_cond_init(&vm->run_changed, NULL);
	bus_init(&vm->mmio);
	bus_init(&vm->pio);
	int rc = loop_init(&vm->loop);
	return rc < 0 ? err_sys(e, -rc, "epoll") : event_source_make(vm, e);
}

int vm_build(struct vm *vm, struct err *e)
{
	const struct vm_config *c = vm->config;
	const struct arch_layout *l = &vm->layout;
	int rc;
	if ((rc = boot_files_open(vm, e)) < 0 || (rc = kvm_open(&vm->kvm, "/dev/kvm", e)) < 0 ||
	    (rc = check_cpus(vm, e)) < 0 || (rc = arch_layout_plan(&vm->layout, c->memory, e)) < 0 ||
	    (rc = memmap_create(&vm->memory, c->memory, c->backing, l->ram_hole_start, l->ram_high_start,
				e)) < 0 ||
	    (rc = kvm_side_build(vm, e)) < 0 || (rc = irq_init(&vm->irq, &vm->kvm, e)) < 0 ||
	    (rc = console_open(&vm->console, c->serial_to, e)) < 0 ||
	    (rc = control_open(&vm->control, c->control, e)) < 0 || (rc = arch_create(vm, e)) < 0)
		return rc;
	vm->console.quit = console_quit;
	vm->console.quit_owner = vm;
	rc = pci_host_init(&vm->pci, &vm->mmio, &vm->pio, l->ecam_gpa, l->window32, l->window64, l->window_io,
			   e);
	pci_host_set_intx(&vm->pci, l->intx_first, l->intx_count);
	return rc;
}

static void hotplug_raise(void *owner)
{
	arch_pci_event(owner);
}

static int hotplug_start(struct vm *vm, struct err *e)
{
	const struct pci_hotplug_place place = {
		.bus = &vm->pio, .at = vm->layout.hotplug_port, .raise = hotplug_raise, .owner = vm
	};
	return pci_hotplug_start(&vm->hotplug, &vm->pci, &place, &vm->loop, e);
}

int vm_prepare(struct vm *vm, struct err *e)
{
	int rc = hotplug_start(vm, e);
	if (rc < 0 || (rc = arch_boot_load(vm, e)) < 0)
		return rc;
	vm->vcpus = calloc(vm->config->cpus, sizeof(vm->vcpus[0]));
	if (!vm->vcpus)
		return err_set(e, ENOMEM, "out of memory");
	for (unsigned i = 0; i < vm->config->cpus; i++)
		vm->vcpus[i].fd = -1;
	if ((rc = vcpus_open(vm, e)) < 0 || (rc = vcpu_init_signal(e)) < 0 ||
	    (rc = console_start(&vm->console, &vm->loop, e)) < 0 ||
	    (rc = control_start(&vm->control, vm, e)) < 0)
		return rc;
	for (unsigned i = 0; i < vm->config->cpus; i++) {
		rc = vcpu_thread_start(&vm->vcpus[i], e);
		if (rc < 0)
			return rc;
		vm->vcpu_count++;
	}
	vcpus_wait_parked(vm);
	return 0;
}

// ---- running ----------------------------------------------------------------------------------------------------

// The guest reset itself: the same machine from its first instruction, on connections that stay.
static int vm_reboot(struct vm *vm, struct err *e)
{
	vcpus_pause(vm);
	pci_host_reset(&vm->pci);
	arch_reset(vm);
	vcpus_close(vm);
	kvm_vm_destroy(&vm->kvm);
	irq_reset(&vm->irq);
	int rc = memmap_clear(&vm->memory);
	if (rc < 0)
		return err_sys(e, -rc, "guest RAM: clear");
	if ((rc = kvm_side_build(vm, e)) < 0 || (rc = arch_boot_load(vm, e)) < 0)
		return rc;
	return vcpus_open(vm, e);
}

// A vCPU may wait for a back-end that waits for the loop, so the loop does not wait for vCPUs here: the last one that parks calls it.
static bool vcpus_parked(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	bool all = vm->parked == vm->vcpu_count;
	vm->tell_parked = !all;
	pthread_mutex_unlock(&vm->run_lock);
	return all;
}

static void pause_follow(struct vm *vm)
{
	if (vm->pause_wanted != vm->paused) {
		if (!vcpus_parked(vm))
			return;
		pci_host_pause(&vm->pci, vm->pause_wanted);
		for (unsigned i = 0; !vm->pause_wanted && i < vm->vcpu_count; i++)
			vcpu_tell_paused(&vm->vcpus[i]);
		vm->paused = vm->pause_wanted;
		log_info("%s", vm->paused ? "paused" : "the guest goes on");
	}
	if (vm->pause_settled)
		vm->pause_settled(vm->pause_owner);
}

static void pause_want(struct vm *vm, bool on)
{
	vm->pause_wanted = on;
	if (on)
		vcpus_stop(vm);
	loop_stop(&vm->loop); // vm_run() does the rest
}

void vm_pause(struct vm *vm)
{
	pause_want(vm, true);
}

void vm_resume(struct vm *vm)
{
	pause_want(vm, false);
}

enum vm_event vm_run(struct vm *vm)
{
	for (;;) {
		pause_follow(vm);
		if (!vm->pause_wanted)
			vcpus_resume(vm);
		int rc = loop_run(&vm->loop);
		if (rc < 0) {
			log_error("event loop: %s", err_text(-rc));
			vm_post_event(vm, VM_CRASH);
		}
		enum vm_event event = (enum vm_event)atomic_load(&vm->event);
		if (event ==
		    VM_RUNNING) // a pause, its end, or a second CPU asked for the reboot that is already done
			continue;
		if (event != VM_REBOOT || vm->config->on_reboot == REBOOT_EXIT) {
			vcpus_pause(vm);
			return event;
		}
		struct err e = { 0 };
		log_limited(LOG_INFO, "the guest reset the machine");
		rc = vm_reboot(vm, &e);
		if (rc < 0) {
			log_error("reboot: %s", e.text);
			return VM_CRASH;
		}
		int expected = VM_REBOOT;
		atomic_compare_exchange_strong(&vm->event, &expected, VM_RUNNING);
	}
}

void vm_dump(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (vm->paused) { // its thread is parked
			arch_vcpu_dump(&vm->vcpus[i]);
			continue;
		}
		atomic_store(&vm->vcpus[i].dump, true);
		vcpu_kick(&vm->vcpus[i]);
	}
}

void vm_destroy(struct vm *vm)
{
	vcpus_join(vm);
	pci_host_destroy(&vm->pci);
	pci_hotplug_stop(&vm->hotplug);
	arch_destroy(vm);
	control_close(&vm->control);
	console_close(&vm->console);
	vcpus_close(vm);
	free(vm->vcpus);
	irq_destroy(&vm->irq);
	kvm_close(&vm->kvm);
	memmap_destroy(&vm->memory);
	fd_close(&vm->initrd_fd);
	fd_close(&vm->kernel_fd);
	loop_remove(&vm->loop, &vm->event_source);
	fd_close(&vm->event_source.fd);
	loop_destroy(&vm->loop);
	bus_destroy(&vm->pio);
	bus_destroy(&vm->mmio);
	pthread_cond_destroy(&vm->run_changed);
	pthread_mutex_destroy(&vm->run_lock);
}
