// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config_key.h"

#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"
#include "vmm/config_value.h"

#include <string.h>

#define QUEUES_MAX   1024
#define QUEUE_MAX    32768 // virtio 1.2 §2.7
#define NAME_MAX_LEN 64
#define TAG_LEN	     36 // virtio 1.2 §5.11.4
#define SERIAL_LEN   20 // VIRTIO_BLK_ID_BYTES, virtio 1.2 §5.2.6
#define CPUS_LEN     200
#define MTU_MIN	     68 // virtio 1.2 §5.1.4.1
#define RATE_MAX     CONFIG_MEMORY_MAX
#define SHARED_MAX   (UINT64_C(1) << 40)
#define CID_MIN	     3 // virtio 1.2 §5.10.4
#define CID_MAX	     0xfffffffe

#define BUILTIN	   (1u << VIA_BUILTIN)
#define VHOST_USER (1u << VIA_VHOST_USER)
#define VHOST	   (1u << VIA_VHOST)
#define VDPA	   (1u << VIA_VHOST_VDPA)
#define VFIO	   (1u << VIA_VFIO)
#define VFIO_USER  (1u << VIA_VFIO_USER)
#define VIRTIO	   (BUILTIN | VHOST_USER | VHOST | VDPA) // what virtio_pci.c has in front of it
#define ANY	   (VIRTIO | VFIO | VFIO_USER)

const char *const config_via_names[] = {
	[VIA_BUILTIN] = "",
	[VIA_VHOST_USER] = "vhost-user",
	[VIA_VHOST] = "vhost",
	[VIA_VHOST_VDPA] = "vhost-vdpa",
	[VIA_VFIO] = "vfio",
	[VIA_VFIO_USER] = "vfio-user",
	NULL,
};
_Static_assert(ARRAY_LEN(config_via_names) == VIA_COUNT + 1, "one name for each via");

static const char *const backings[] = { [MEM_BACKING_MEMFD] = "memfd",
					[MEM_BACKING_HUGETLB_2M] = "hugetlb-2M",
					[MEM_BACKING_HUGETLB_1G] = "hugetlb-1G",
					NULL };
static const char *const reboots[] = { [REBOOT_RESTART] = "restart", [REBOOT_EXIT] = "exit", NULL };
static const char *const restarts[] = {
	[RESTART_ALWAYS] = "always", [RESTART_ON_FAILURE] = "on-failure", [RESTART_NEVER] = "never", NULL
};
static const char *const dma_ways[] = { [DMA_SHARED] = "shared", [DMA_MESSAGES] = "messages", NULL };
static const char *const returns[] = { [RETURN_RESET] = "reset", [RETURN_REPLUG] = "replug", NULL };
static const char *const serials[] = { "stdio", "pty", "none", NULL };

#define FIELD(type, member) \
	.offset = offsetof(struct type, member), .width = sizeof(((struct type *)0)->member)
#define VM(member)     FIELD(vm_config, member)
#define DEVICE(member) .table = "device", FIELD(device_config, member)

const struct config_key config_keys[] = {
	{ "vm", "name", config_store_printable, VM(name), .min = 1, .max = NAME_MAX_LEN },
	{ "vm", "cpus", config_store_uint, VM(cpus), .min = 1, .max = CONFIG_CPUS_MAX },
	{ "vm", "memory", config_store_size, VM(memory), .min = 1, .max = CONFIG_MEMORY_MAX },
	{ "vm", "backing", config_store_choice, VM(backing), .words = backings },
	{ "vm", "control", config_store_path, VM(control) },
	{ "vm", "on_reboot", config_store_choice, VM(on_reboot), .words = reboots },
	{ "vm", "insecure", config_store_bool, VM(insecure) },

	{ "boot", "kernel", config_store_path, VM(kernel), .needed_by = 1 },
	{ "boot", "initrd", config_store_path, VM(initrd) },
	{ "boot", "cmdline", config_store_text, VM(cmdline), .max = 65535 },

	{ "serial", "to", config_store_serial_to, VM(serial_to), .words = serials },

	{ .name = "id", .store = config_store_id, DEVICE(id), .vias = ANY, .needed_by = ANY },
	{ .name = "via", .store = config_store_via, DEVICE(via), .vias = ANY, .words = config_via_names },
	{ .name = "virtio",
	  .store = config_store_virtio,
	  DEVICE(virtio_type),
	  .vias = VIRTIO,
	  .needed_by = BUILTIN | VHOST_USER | VHOST,
	  .min = 1,
	  .max = VIRTIO_TYPE_MAX },
	{ .name = "queues",
	  .store = config_store_uint,
	  DEVICE(queues),
	  .vias = VIRTIO,
	  .min = 1,
	  .max = QUEUES_MAX },
	{ .name = "queue_size",
	  .store = config_store_queue_size,
	  DEVICE(queue_size),
	  .vias = VIRTIO,
	  .min = 2,
	  .max = QUEUE_MAX },
	{ .name = "slot",
	  .store = config_store_uint,
	  DEVICE(slot),
	  .vias = ANY,
	  .min = 1,
	  .max = CONFIG_DEVICES_MAX },

	{ .name = "socket", .store = config_store_path, DEVICE(socket), .vias = VHOST_USER | VFIO_USER },
	{ .name = "listen", .store = config_store_path, DEVICE(listen), .vias = VHOST_USER },
	{ .name = "reconnect",
	  .store = config_store_reconnect,
	  DEVICE(reconnect_ms),
	  .vias = VHOST_USER | VFIO_USER },
	{ .name = "restart",
	  .store = config_store_choice,
	  DEVICE(restart),
	  .vias = BUILTIN | VHOST_USER | VFIO_USER,
	  .words = restarts },
	{ .name = "exec", .store = config_store_exec, DEVICE(exec), .vias = VHOST_USER | VFIO_USER },
	{ .name = "sandbox", .store = config_store_sandbox, DEVICE(sandbox), .vias = VHOST_USER | VFIO_USER },
	{ .name = "paths", .store = config_store_paths, DEVICE(paths), .vias = VHOST_USER | VFIO_USER },
	{ .name = "limits", .store = config_store_limits, DEVICE(limits), .vias = VHOST_USER | VFIO_USER },
	{ .name = "host_notifier", .store = config_store_bool, DEVICE(host_notifier), .vias = VHOST_USER },
	{ .name = "shared_memory",
	  .store = config_store_size,
	  DEVICE(shared_memory),
	  .vias = VHOST_USER,
	  .min = 4096,
	  .max = SHARED_MAX },
	{ .name = "dma", .store = config_store_choice, DEVICE(dma), .vias = VFIO_USER, .words = dma_ways },
	{ .name = "io_fds", .store = config_store_bool, DEVICE(io_fds), .vias = VFIO_USER },
	{ .name = "on_return",
	  .store = config_store_choice,
	  DEVICE(on_return),
	  .vias = VFIO_USER,
	  .words = returns },

	{ .name = "image",
	  .store = config_store_path,
	  DEVICE(image),
	  .vias = BUILTIN,
	  .needed_by = BUILTIN,
	  .virtio = VIRTIO_BLK },
	{ .name = "readonly",
	  .store = config_store_bool,
	  DEVICE(readonly),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK },
	{ .name = "direct",
	  .store = config_store_bool,
	  DEVICE(direct),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK },
	{ .name = "block_size",
	  .store = config_store_block_size,
	  DEVICE(block_size),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK },
	{ .name = "serial",
	  .store = config_store_printable,
	  DEVICE(serial),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK,
	  .max = SERIAL_LEN },

	{ .name = "poll", .store = config_store_bool, DEVICE(poll), .vias = BUILTIN, .virtio = VIRTIO_BLK },
	{ .name = "cpus",
	  .store = config_store_cpus,
	  DEVICE(cpus),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK,
	  .min = 1,
	  .max = CPUS_LEN },

	{ .name = "tap",
	  .store = config_store_printable,
	  DEVICE(tap),
	  .vias = BUILTIN | VHOST,
	  .needed_by = BUILTIN | VHOST,
	  .virtio = VIRTIO_NET,
	  .min = 1,
	  .max = 64 },
	{ .name = "mac",
	  .store = config_store_mac,
	  DEVICE(mac),
	  .vias = BUILTIN | VHOST,
	  .virtio = VIRTIO_NET,
	  .max = 17 },
	{ .name = "mtu",
	  .store = config_store_uint,
	  DEVICE(mtu),
	  .vias = BUILTIN | VHOST_USER | VHOST,
	  .virtio = VIRTIO_NET,
	  .min = MTU_MIN,
	  .max = UINT16_MAX },

	{ .name = "tag",
	  .store = config_store_printable,
	  DEVICE(tag),
	  .vias = VHOST_USER,
	  .virtio = VIRTIO_FS,
	  .min = 1,
	  .max = TAG_LEN },

	{ .name = "rate",
	  .store = config_store_size,
	  DEVICE(rate),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_RNG,
	  .min = 1,
	  .max = RATE_MAX },

	{ .name = "ports",
	  .store = config_store_ports,
	  DEVICE(ports),
	  .vias = BUILTIN,
	  .needed_by = BUILTIN,
	  .virtio = VIRTIO_CONSOLE,
	  .max = CONFIG_CONSOLE_PORTS_MAX },

	{ .name = "host", .store = config_store_pci_address, DEVICE(host), .vias = VFIO },
	{ .name = "mdev", .store = config_store_uuid, DEVICE(mdev), .vias = VFIO },
	{ .name = "sysfsdev", .store = config_store_path, DEVICE(sysfsdev), .vias = VFIO },
	{ .name = "cdev", .store = config_store_path, DEVICE(cdev), .vias = VFIO },

	{ .name = "wwpn",
	  .store = config_store_printable,
	  DEVICE(wwpn),
	  .vias = VHOST,
	  .needed_by = VHOST,
	  .virtio = VIRTIO_SCSI,
	  .min = 1,
	  .max = 223 },
	{ .name = "cid",
	  .store = config_store_uint,
	  DEVICE(cid),
	  .vias = BUILTIN | VHOST,
	  .needed_by = BUILTIN | VHOST,
	  .virtio = VIRTIO_VSOCK,
	  .min = CID_MIN,
	  .max = CID_MAX },
	{ .name = "path",
	  .store = config_store_path,
	  DEVICE(path),
	  .vias = BUILTIN | VHOST | VDPA,
	  .needed_by = BUILTIN | VDPA,
	  .virtio = VIRTIO_VSOCK,
	  .any_type = VHOST | VDPA },
};
const unsigned config_key_count = ARRAY_LEN(config_keys);

const struct config_key *config_key_find(const char *table, const struct toml_text *name)
{
	for (const struct config_key *k = config_keys; k < config_keys + config_key_count; k++)
		if (strcmp(k->table, table) == 0 && strlen(k->name) == name->len &&
		    memcmp(k->name, name->bytes, name->len) == 0)
			return k;
	return NULL;
}
