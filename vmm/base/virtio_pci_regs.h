// SPDX-License-Identifier: BSD-2-Clause
// Layout of the first BAR of a virtio function, and register offsets of virtio 1.2 §4.1.4.3.
#ifndef MINIVMM_BASE_VIRTIO_PCI_REGS_H
#define MINIVMM_BASE_VIRTIO_PCI_REGS_H

#define VIRTIO_PCI_VENDOR      0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040

#define VP_BAR		 0
#define VP_BAR_SIZE	 0x10000
#define VP_COMMON	 0x0000
#define VP_ISR		 0x1000
#define VP_DEVICE	 0x2000
#define VP_DEVICE_ROOM	 0x1000
#define VP_NOTIFY	 0x3000
#define VP_NOTIFY_ROOM	 0x1000
#define VP_NOTIFY_STEP	 4 // notify_off_multiplier
#define VP_MSIX_TABLE	 0x4000
#define VP_MSIX_PBA	 0x8000
#define VP_MSIX_PBA_ROOM 0x1000

// Where a back-end may give pages as doorbells, they lie behind all that, one for each queue.
#define VP_PAGES	VP_BAR_SIZE
#define VP_PAGED_QUEUES 64 // at most PCI_MEMORY_SLOTS

// Shared memory regions, one after the other, are a BAR of their own.
#define VP_SHARED_BAR	2
#define VP_SHARED_PARTS 256 // of all regions that are there at one time; each is a KVM memory slot

#define VP_QUEUES_MAX	  (VP_NOTIFY_ROOM / VP_NOTIFY_STEP - 1) // one vector is the configuration's
#define VP_QUEUE_SIZE_MAX 32768					// §2.7

// struct virtio_pci_common_cfg
#define VC_DEVICE_FEATURE_SELECT 0x00
#define VC_DEVICE_FEATURE	 0x04
#define VC_DRIVER_FEATURE_SELECT 0x08
#define VC_DRIVER_FEATURE	 0x0c
#define VC_CONFIG_MSIX_VECTOR	 0x10
#define VC_NUM_QUEUES		 0x12
#define VC_DEVICE_STATUS	 0x14
#define VC_CONFIG_GENERATION	 0x15
#define VC_QUEUE_SELECT		 0x16
#define VC_QUEUE_SIZE		 0x18
#define VC_QUEUE_MSIX_VECTOR	 0x1a
#define VC_QUEUE_ENABLE		 0x1c
#define VC_QUEUE_NOTIFY_OFF	 0x1e
#define VC_QUEUE_DESC		 0x20
#define VC_QUEUE_DRIVER		 0x28
#define VC_QUEUE_DEVICE		 0x30
#define VC_QUEUE_NOTIFY_DATA	 0x38 // reads as 0: NOTIF_CONFIG_DATA is not carried
#define VC_QUEUE_RESET		 0x3a
#define VC_SIZE			 0x3c

// Device status, §2.1
#define VS_ACKNOWLEDGE 0x01
#define VS_DRIVER      0x02
#define VS_DRIVER_OK   0x04
#define VS_FEATURES_OK 0x08
#define VS_NEEDS_RESET 0x40
#define VS_FAILED      0x80

#define VIRTIO_NO_VECTOR 0xffff

#define VP_ISR_QUEUE  0x01
#define VP_ISR_CONFIG 0x02

#define VF_VERSION_1   (UINT64_C(1) << 32)
#define VF_RING_PACKED (UINT64_C(1) << 34)
#define VF_RING_RESET  (UINT64_C(1) << 40)
// Feature bits that this transport carries: those of the device types (0-23, 50-63) and, of its own,
//   INDIRECT_DESC 28, EVENT_IDX 29, VERSION_1 32, RING_PACKED 34, IN_ORDER 35, ORDER_PLATFORM 36: the two ends' affair;
//   ACCESS_PLATFORM 33: there is no IOMMU, so what a driver writes are guest addresses with it as without;
//   NOTIFICATION_DATA 38: a doorbell takes a write of any length and value.  What it says arrives where the device looks
//     at its doorbell page itself; behind an eventfd it is lost, and a device looks into the ring anyway (§2.9);
//   RING_RESET 40.
// Not: NOTIF_CONFIG_DATA 39, for no back-end has a way to tell its values; SR_IOV 37 and ADMIN_VQ 41, which there is nothing for.
#define VF_CARRIED (UINT64_C(0xfffc015f30ffffff))

// struct virtio_pci_cap, §4.1.4
#define VCAP_COMMON	1
#define VCAP_NOTIFY	2
#define VCAP_ISR	3
#define VCAP_DEVICE	4
#define VCAP_PCI	5
#define VCAP_SHARED	8 // struct virtio_pci_cap64, §4.1.4.7
#define VCAP_TYPE_OFF	3
#define VCAP_BAR_OFF	4
#define VCAP_ID_OFF	5
#define VCAP_OFFSET_OFF 8
#define VCAP_LENGTH_OFF 12
#define VCAP_DATA_OFF	16 // notify: the multiplier; pci: the data window
#define VCAP_OFFSET_HI	16
#define VCAP_LENGTH_HI	20
#define VCAP_LEN	16
#define VCAP_LEN_64	24
#define VCAP_LEN_DATA	20

#endif
