// SPDX-License-Identifier: BSD-2-Clause
// The KVM descriptors: /dev/kvm and the VM made from it.
//
// The VM descriptor is replaced when the guest reboots (vm.c), so users keep a pointer to struct kvm, never the number.
#ifndef MINIVMM_VMM_KVM_H
#define MINIVMM_VMM_KVM_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define KVM_VFIO_FILES_MAX 32

struct kvm {
	int fd;		   // /dev/kvm
	int vm_fd;	   // -1 between two VMs
	int vcpu_map_size; // bytes of struct kvm_run and what follows it
	int vfio_fd;	   // KVM's device for VFIO, or -1
	unsigned vfio_file_count;
	int vfio_file[KVM_VFIO_FILES_MAX]; // kvm_vfio_add()
};

// Opens /dev/kvm ("fd:..." too) and checks version and capabilities; each refusal names what is missing and the mend.
int kvm_open(struct kvm *k, const char *path, struct err *e);
void kvm_close(struct kvm *k);

// Makes the VM.  kvm_vm_destroy() closes it; vCPUs must be closed first for KVM to free it.
int kvm_vm_create(struct kvm *k, struct err *e);
void kvm_vm_destroy(struct kvm *k);

// KVM_CHECK_EXTENSION of the VM (or of /dev/kvm when there is none): the capability's value, 0 if absent.
int kvm_capability(const struct kvm *k, int capability);

// Guest RAM slot; size 0 removes it.  0 or -errno.
int kvm_memory_slot(const struct kvm *k, uint32_t slot, uint64_t gpa, uint64_t size, void *hva,
		    uint32_t flags);

// A write of any size at `gpa` signals the eventfd inside KVM (on), or no longer (off).  0 or -errno.
int kvm_ioeventfd(const struct kvm *k, uint64_t gpa, int eventfd, bool on);

// The same for writes of some size or value only, and in I/O space.
struct kvm_doorbell {
	uint64_t where;	 // gpa or port
	unsigned size;	 // 1, 2, 4, 8; 0: any
	bool match_data; // needs a size
	uint64_t data;
	bool port;
};
int kvm_doorbell(const struct kvm *k, const struct kvm_doorbell *d, int eventfd, bool on);

// A signal on the eventfd raises `gsi` inside KVM (on), or no longer (off).  A signal already pending is delivered. 0 or -errno.
int kvm_irqfd(const struct kvm *k, int eventfd, uint32_t gsi, bool on);

// A level interrupt: a signal on `eventfd` holds the pin `gsi` until the guest has ended the interrupt; `resample_fd` is signalled then.
int kvm_irqfd_level(const struct kvm *k, int eventfd, uint32_t gsi, int resample_fd, bool on);

// Tells KVM of a VFIO group or device, this VM's and, until kvm_vfio_remove(), those of later boots; the descriptor stays the caller's.
// KVM needs to know for devices whose DMA does not snoop caches.  0 or -errno; -ENODEV: this KVM has no such device.
int kvm_vfio_add(struct kvm *k, int fd);
void kvm_vfio_remove(struct kvm *k, int fd);

#endif
