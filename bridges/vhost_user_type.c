// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vhost_user_type.h"

#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"

#include <stddef.h>
#include <string.h>

// clang-format off
static const struct vu_type types[] = {
	{ 1,  "net",     .queues = 2, .keeps_order = true },
	{ 2,  "blk",     .queues = 1, .needs_config = true,
	  .queues_bit = 12, .queues_off = 34, .queues_width = 2, .queues_each = 1 },
	{ 3,  "console", .queues = 2, .needs_config = true, .keeps_order = true, // two for each port, two for control
	  .queues_bit = 1, .queues_off = 4, .queues_width = 4, .queues_base = 2, .queues_each = 2 },
	{ 4,  "rng",     .queues = 1, .keeps_order = true },
	{ 5,  "balloon", .queues = 5, .needs_config = true },
	{ 7,  "rpmsg",   .queues = 2 },
	{ 8,  "scsi",    .queues = 3, .needs_config = true, // control, events, requests
	  .queues_bit = VU_ALWAYS, .queues_off = 0, .queues_width = 4, .queues_base = 2, .queues_each = 1 },
	{ 9,  "9p",      .queues = 1, .needs_config = true, .config_unknown = true }, // a name of any length
	{ 11, "rproc-serial", .queues = 2 },
	{ 16, "gpu",     .queues = 2, .needs_config = true },
	{ 17, "clock",   .queues = 2 },
	{ 18, "input",   .queues = 2, .needs_config = true, .keeps_order = true },
	{ 19, "vsock",   .queues = 3, .needs_config = true, .keeps_order = true },
	{ 20, "crypto",  .queues = 2, .needs_config = true, .fixed_queues = true, // data queues, then control
	  .queues_bit = VU_ALWAYS, .queues_off = 4, .queues_width = 4, .queues_base = 1, .queues_each = 1 },
	{ 23, "iommu",   .queues = 2, .needs_config = true },
	{ 24, "mem",     .queues = 1, .needs_config = true },
	{ 25, "sound",   .queues = 4, .needs_config = true },
	{ 26, "fs",      .queues = 2, .needs_config = true, // urgent ones, then requests
	  .queues_bit = VU_ALWAYS, .queues_off = 36, .queues_width = 4, .queues_base = 1, .queues_each = 1 },
	{ 27, "pmem",    .queues = 1, .needs_config = true },
	{ 28, "rpmb",    .queues = 1, .needs_config = true },
	{ 29, "hwsim",   .queues = 2 },
	{ 30, "video-encoder", .queues = 2, .config_unknown = true },
	{ 31, "video-decoder", .queues = 2, .config_unknown = true },
	{ 32, "scmi",    .queues = 2 },
	{ 33, "nsm",     .queues = 1 },
	{ 34, "i2c",     .queues = 1 },
	{ 36, "can",     .queues = 3, .needs_config = true },
	{ 40, "bluetooth", .queues = 2, .config_unknown = true },
	{ 41, "gpio",    .queues = 2, .needs_config = true },
	{ 45, "spi",     .queues = 1, .needs_config = true },
};

// Up to where the configuration space reaches, by feature (virtio 1.2 §5): a back-end may refuse to show more.
static const struct {
	uint16_t virtio_type;
	uint8_t feature;
	uint16_t end;
} config_ends[] = {
	{ 1,  VU_ALWAYS, 6 },  { 1, 16, 8 },  { 1, 22, 10 }, { 1, 3, 12 },  { 1, 63, 17 }, { 1, 57, 24 }, { 1, 60, 24 },
	{ 2,  VU_ALWAYS, 36 }, { 2, 13, 48 }, { 2, 14, 60 }, { 2, 16, 72 }, { 2, 17, 96 },
	{ 3,  0, 4 },          { 3, 1, 8 },   { 3, 2, 12 },
	{ 5,  VU_ALWAYS, 8 },  { 5, 3, 12 },  { 5, 4, 16 },
	{ 8,  VU_ALWAYS, 36 },
	{ 16, VU_ALWAYS, 16 }, { 16, 5, 20 },
	{ 18, VU_ALWAYS, 136 },
	{ 19, VU_ALWAYS, 8 },
	{ 20, VU_ALWAYS, 56 },
	{ 23, VU_ALWAYS, 36 }, { 23, 6, 40 },
	{ 24, VU_ALWAYS, 56 },
	{ 25, VU_ALWAYS, 12 }, { 25, 0, 16 },
	{ 26, VU_ALWAYS, 40 }, { 26, 0, 44 },
	{ 27, VU_ALWAYS, 16 },
	{ 28, VU_ALWAYS, 3 },
	{ 36, VU_ALWAYS, 2 },
	{ 41, VU_ALWAYS, 8 },
	{ 45, VU_ALWAYS, 32 },
};

static const char *const transport_names[] = { // virtio 1.2 §6, from bit 24
	"NOTIFY_ON_EMPTY", NULL, "LOG_ALL", "ANY_LAYOUT", "INDIRECT_DESC", "EVENT_IDX", "PROTOCOL_FEATURES", NULL,
	"VERSION_1", "ACCESS_PLATFORM", "RING_PACKED", "IN_ORDER", "ORDER_PLATFORM", "SR_IOV", "NOTIFICATION_DATA",
	"NOTIF_CONFIG_DATA", "RING_RESET", "ADMIN_VQ",
};

// By type, the bits from 0; those from 50 up are a network device's only.
#define NAMES(...) (const char *const[24]){ __VA_ARGS__ }
static const char *const *const feature_names[] = {
	[1] = NAMES("CSUM", "GUEST_CSUM", "CTRL_GUEST_OFFLOADS", "MTU", NULL, "MAC", "GSO", "GUEST_TSO4", "GUEST_TSO6",
		    "GUEST_ECN", "GUEST_UFO", "HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "MRG_RXBUF", "STATUS",
		    "CTRL_VQ", "CTRL_RX", "CTRL_VLAN", "CTRL_RX_EXTRA", "GUEST_ANNOUNCE", "MQ", "CTRL_MAC_ADDR"),
	[2] = NAMES("BARRIER", "SIZE_MAX", "SEG_MAX", NULL, "GEOMETRY", "RO", "BLK_SIZE", "SCSI", NULL, "FLUSH",
		    "TOPOLOGY", "CONFIG_WCE", "MQ", "DISCARD", "WRITE_ZEROES", "LIFETIME", "SECURE_ERASE", "ZONED"),
	[3] = NAMES("SIZE", "MULTIPORT", "EMERG_WRITE"),
	[5] = NAMES("MUST_TELL_HOST", "STATS_VQ", "DEFLATE_ON_OOM", "FREE_PAGE_HINT", "PAGE_POISON", "PAGE_REPORTING"),
	[7] = NAMES("NS"),
	[8] = NAMES("INOUT", "HOTPLUG", "CHANGE", "T10_PI"),
	[9] = NAMES("MOUNT_TAG"),
	[16] = NAMES("VIRGL", "EDID", "RESOURCE_UUID", "RESOURCE_BLOB", "CONTEXT_INIT", "BLOB_ALIGNMENT"),
	[17] = NAMES("ALARM"),
	[19] = NAMES("STREAM", "SEQPACKET", "NO_IMPLIED_STREAM"),
	[20] = NAMES("REVISION_1", "CIPHER_STATELESS_MODE", "HASH_STATELESS_MODE", "MAC_STATELESS_MODE",
		     "AEAD_STATELESS_MODE", "AKCIPHER_STATELESS_MODE"),
	[23] = NAMES("INPUT_RANGE", "DOMAIN_RANGE", "MAP_UNMAP", "BYPASS", "PROBE", "MMIO", "BYPASS_CONFIG"),
	[24] = NAMES("ACPI_PXM", "UNPLUGGED_INACCESSIBLE", "PERSISTENT_SUSPEND"),
	[25] = NAMES("CTLS"),
	[26] = NAMES("NOTIFICATION"),
	[27] = NAMES("SHMEM_REGION"),
	[32] = NAMES("P2A_CHANNELS", "SHARED_MEMORY"),
	[34] = NAMES("ZERO_LENGTH_REQUEST"),
	[36] = NAMES("CAN_CLASSIC", "CAN_FD", "RTR_FRAMES", "LATE_TX_ACK"),
	[40] = NAMES("VND_HCI", "MSFT_EXT", "AOSP_EXT", "CONFIG_V2"),
	[41] = NAMES("IRQ"),
};
static const char *const net_high_names[] = {
	"DEVICE_STATS", "HASH_TUNNEL", "VQ_NOTF_COAL", "NOTF_COAL", "GUEST_USO4", "GUEST_USO6", "HOST_USO",
	"HASH_REPORT", NULL, "GUEST_HDRLEN", "RSS", "RSC_EXT", "STANDBY", "SPEED_DUPLEX",
};
// clang-format on

#define NET_CTRL_VQ  17
#define NET_MQ	     22
#define NET_PAIRS_AT 8

#define TYPE_FEATURES	    24 // bits 0 to 23
#define TYPE_FEATURES_AGAIN 50

const struct vu_type *vu_type_of(uint16_t virtio_type)
{
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		if (types[i].virtio_type == virtio_type)
			return &types[i];
	return NULL;
}

uint16_t vu_type_config_len(uint16_t virtio_type, uint64_t features)
{
	uint16_t len = 0;
	for (size_t i = 0; i < ARRAY_LEN(config_ends); i++) {
		const uint8_t bit = config_ends[i].feature;
		if (config_ends[i].virtio_type == virtio_type && (bit == VU_ALWAYS || features >> bit & 1))
			len = MAX(len, config_ends[i].end);
	}
	return len;
}

static bool counts_queues(const struct vu_type *t, uint32_t config_len)
{
	return t && t->queues_bit && range_in(t->queues_off, t->queues_width, config_len);
}

// A network device's queues are pairs, then one for commands (virtio 1.2 §5.1.2).  Many back-ends offer the
// features of that one and leave it to their front-end, which has no use for it: the number of queues tells.
// The driver then gets one pair and no commands.
static const uint8_t net_commanded[] = { 2, NET_CTRL_VQ, 18, 19, 20, 21, NET_MQ, 23, 52, 53, 57, 60 };

static void net_without_commands(uint64_t *features)
{
	for (size_t i = 0; i < ARRAY_LEN(net_commanded); i++)
		*features &= ~(UINT64_C(1) << net_commanded[i]);
}

// Only a network device, and a file system whose tag we know, can do without (the others: needs_config).  One that leaves the
// configuration space to its front-end leaves the commands to it, too, however many queues it has.
uint64_t vu_type_without_config(uint16_t virtio_type, uint64_t features)
{
	static const uint8_t net_shown[] = { 3, 5, 16, 63 };
	if (virtio_type == VIRTIO_FS)
		return features & ~UINT64_C(1); // NOTIFICATION has a field there
	if (virtio_type != VIRTIO_NET)
		return features;
	for (size_t i = 0; i < ARRAY_LEN(net_shown); i++)
		features &= ~(UINT64_C(1) << net_shown[i]);
	net_without_commands(&features);
	return features;
}

static uint64_t net_queues(uint64_t *features, const uint8_t *config, uint32_t config_len, uint64_t most)
{
	uint16_t pairs = 1;
	if (*features >> NET_MQ & 1 && range_in(NET_PAIRS_AT, 2, config_len))
		memcpy(&pairs, config + NET_PAIRS_AT, 2);
	const uint64_t queues = 2 * MAX((uint64_t)pairs, 1) + 1;
	if (*features >> NET_CTRL_VQ & 1 && queues <= MIN(most, VU_QUEUES_MAX) && most != UINT64_MAX)
		return queues;
	net_without_commands(features);
	return 2;
}

uint64_t vu_type_queues(uint16_t virtio_type, uint16_t wanted, uint64_t *features, const uint8_t *config,
			uint32_t config_len, uint64_t *most)
{
	const struct vu_type *t = vu_type_of(virtio_type);
	if (virtio_type == VIRTIO_NET)
		return net_queues(features, config, config_len,
				  wanted ? MIN(*most, (uint64_t)wanted) : *most);
	if (!t || !t->queues_bit)
		return t ? t->queues : 1;
	uint32_t counted = 0;
	if ((t->queues_bit == VU_ALWAYS || *features >> t->queues_bit & 1) && counts_queues(t, config_len))
		memcpy(&counted, config + t->queues_off, t->queues_width);
	if (counted)
		return t->queues_base + (uint64_t)t->queues_each * counted;
	*most = MIN(*most, (uint64_t)t->queues);
	return t->queues;
}

void vu_type_queues_show(const struct vu_type *t, uint16_t queues, uint8_t *config, uint32_t config_len)
{
	if (!counts_queues(t, config_len))
		return;
	const uint32_t others = t->queues_base, each = t->queues_each;
	const uint32_t counted = queues > others ? (queues - others) / each : 0;
	memcpy(config + t->queues_off, &counted, t->queues_width);
}

const char *vu_type_feature_name(uint16_t virtio_type, unsigned bit)
{
	if (bit >= TYPE_FEATURES && bit < TYPE_FEATURES_AGAIN)
		return bit - TYPE_FEATURES < ARRAY_LEN(transport_names) ? transport_names[bit - TYPE_FEATURES]
									: NULL;
	if (bit >= TYPE_FEATURES_AGAIN)
		return virtio_type == VIRTIO_NET && bit - TYPE_FEATURES_AGAIN < ARRAY_LEN(net_high_names)
			       ? net_high_names[bit - TYPE_FEATURES_AGAIN]
			       : NULL;
	return virtio_type < ARRAY_LEN(feature_names) && feature_names[virtio_type]
		       ? feature_names[virtio_type][bit]
		       : NULL;
}
