// SPDX-License-Identifier: BSD-2-Clause
// vfio-user on the wire: layouts, bits and one table of what each command may look like.
//
// Both ends include this and nothing else of each other: the client (vfio_user.c) builds commands and checks
// replies by it, the server side (devices/sdk) checks what a hostile client sends, and each checks the
// other's commands.  Source: docs/interop/vfio-user.rst of QEMU, with DIRTY_PAGES of its older minors; flags,
// indices and capabilities are those of <linux/vfio.h>.  No state, no I/O; all numbers are in host byte order.
#ifndef MINIVMM_BRIDGES_VFIO_USER_WIRE_H
#define MINIVMM_BRIDGES_VFIO_USER_WIRE_H

#include "vmm/base/check.h"
#include "vmm/base/json.h"

#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// ---- header -------------------------------------------------------------------------------------

struct vfio_user_header {
	uint16_t id; // the sender's own; a reply repeats it
	uint16_t command;
	uint32_t size; // of the whole message, this header included
	uint32_t flags;
	uint32_t error; // of a reply with VFIO_USER_ERROR: an errno, or 0 for one that is not told
};

#define VFIO_USER_HEADER_LEN 16u
#define VFIO_USER_TYPE_MASK  0xfu
#define VFIO_USER_COMMAND    0x0u
#define VFIO_USER_REPLY	     0x1u
#define VFIO_USER_NO_REPLY   0x10u // of a command: none is to be sent
#define VFIO_USER_ERROR	     0x20u // of a reply: failed, and nothing follows the header

// ---- commands -----------------------------------------------------------------------------------

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP = 2,
	VFIO_USER_DMA_UNMAP = 3,
	VFIO_USER_DEVICE_GET_INFO = 4,
	VFIO_USER_DEVICE_GET_REGION_INFO = 5,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
	VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
	VFIO_USER_DEVICE_SET_IRQS = 8,
	VFIO_USER_REGION_READ = 9,
	VFIO_USER_REGION_WRITE = 10,
	VFIO_USER_DMA_READ = 11,  // from the server
	VFIO_USER_DMA_WRITE = 12, // from the server
	VFIO_USER_DEVICE_RESET = 13,
	VFIO_USER_DIRTY_PAGES = 14, // gone from the specification, still in libvfio-user
	VFIO_USER_REGION_WRITE_MULTI = 15,
	VFIO_USER_DEVICE_FEATURE = 16,
	VFIO_USER_MIG_DATA_READ = 17,
	VFIO_USER_MIG_DATA_WRITE = 18,
};

// ---- version ------------------------------------------------------------------------------------

#define VFIO_USER_MAJOR	      0u
#define VFIO_USER_MINOR	      1u
#define VFIO_USER_VERSION_LEN 4u
#define VFIO_USER_JSON_MAX    4096u // of the text after it, its final NUL included
struct vfio_user_version {
	uint16_t major;
	uint16_t minor; // a reply's is the lesser of both ends'
};

// What an end has that says nothing of it in its JSON text.
#define VFIO_USER_DEFAULT_MSG_FDS	 1u
#define VFIO_USER_DEFAULT_DATA_XFER_SIZE (1024u * 1024u)
#define VFIO_USER_DEFAULT_DMA_MAPS	 65535u
#define VFIO_USER_DEFAULT_PGSIZES	 4096u
// The least that an end may state of the data that one message carries: a page.
#define VFIO_USER_DATA_XFER_SIZE_MIN 4096u

struct vfio_user_caps {
	uint64_t max_msg_fds; // that its sender can receive in one message
	uint64_t max_data_xfer_size;
	uint64_t max_dma_maps;
	uint64_t pgsizes;
	bool write_multiple;
	bool migration;	  // it says something of it
	bool twin_socket; // "supported"
	bool has_fd_index;
	uint64_t fd_index; // of the twin socket among the reply's descriptors
};

static inline const char *vfio_user_see_cap(void *arg, const struct json_value *v)
{
	struct vfio_user_caps *c = arg;
	const struct {
		const char *path;
		enum json_kind kind;
		uint64_t *number;
		bool *truth, *there;
	} known[] = {
		{ "", JSON_OBJECT, NULL, NULL, NULL },
		{ "capabilities", JSON_OBJECT, NULL, NULL, NULL },
		{ "capabilities.max_msg_fds", JSON_NUMBER, &c->max_msg_fds, NULL, NULL },
		{ "capabilities.max_data_xfer_size", JSON_NUMBER, &c->max_data_xfer_size, NULL, NULL },
		{ "capabilities.max_dma_maps", JSON_NUMBER, &c->max_dma_maps, NULL, NULL },
		{ "capabilities.pgsizes", JSON_NUMBER, &c->pgsizes, NULL, NULL },
		{ "capabilities.write_multiple", JSON_BOOLEAN, NULL, &c->write_multiple, NULL },
		{ "capabilities.migration", JSON_OBJECT, NULL, NULL, &c->migration },
		{ "capabilities.twin_socket", JSON_OBJECT, NULL, NULL, NULL },
		{ "capabilities.twin_socket.supported", JSON_BOOLEAN, NULL, &c->twin_socket, NULL },
		{ "capabilities.twin_socket.fd_index", JSON_NUMBER, &c->fd_index, NULL, &c->has_fd_index },
	};
	for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(v->path, known[i].path) != 0)
			continue;
		if (v->kind != known[i].kind || (known[i].number && !v->natural))
			return "a capability of the wrong type";
		if (known[i].number)
			*known[i].number = v->number;
		if (known[i].truth)
			*known[i].truth = v->truth;
		if (known[i].there)
			*known[i].there = true;
	}
	return NULL; // capabilities that nobody knows mean nothing
}

// The JSON text behind struct vfio_user_version, `len` bytes (0: none), with or without a NUL at its end.  What is
// not told has its default.  NULL, or what is wrong in a few words.
static inline const char *vfio_user_caps_read(struct vfio_user_caps *c, const char *text, size_t len)
{
	*c = (struct vfio_user_caps){ .max_msg_fds = VFIO_USER_DEFAULT_MSG_FDS,
				      .max_data_xfer_size = VFIO_USER_DEFAULT_DATA_XFER_SIZE,
				      .max_dma_maps = VFIO_USER_DEFAULT_DMA_MAPS,
				      .pgsizes = VFIO_USER_DEFAULT_PGSIZES };
	if (len && text[len - 1] == '\0')
		len--;
	const char *wrong = len ? json_read(text, len, vfio_user_see_cap, c) : NULL;
	if (wrong)
		return wrong;
	if (c->max_data_xfer_size < VFIO_USER_DATA_XFER_SIZE_MIN)
		return "max_data_xfer_size is less than a page";
	if (c->max_dma_maps == 0 || c->pgsizes == 0)
		return "max_dma_maps or pgsizes is 0";
	return NULL;
}

// ---- payloads -----------------------------------------------------------------------------------

// `argsz` in a command: the most that the reply's payload may be long; where there is none, and in replies
// (there also of what was left out because the command's `argsz` was too small): what the payload needs.

#define VFIO_USER_DMA_READABLE	1u
#define VFIO_USER_DMA_WRITEABLE 2u
struct vfio_user_dma_map { // DMA_MAP; with a descriptor the server may map it, without it has to send messages
	uint32_t argsz;
	uint32_t flags;
	uint64_t offset; // in the descriptor's file
	uint64_t iova;
	uint64_t size;
};

struct vfio_user_dma_unmap { // DMA_UNMAP and its reply; names a mapping exactly
	uint32_t argsz;
	uint32_t flags; // VFIO_DMA_UNMAP_FLAG_*, of older minors; 0
	uint64_t iova;
	uint64_t size;
};

struct vfio_user_device_info { // DEVICE_GET_INFO and its reply
	uint32_t argsz;
	uint32_t flags; // VFIO_DEVICE_FLAGS_RESET, _PCI
	uint32_t num_regions;
	uint32_t num_irqs;
};

// DEVICE_GET_REGION_INFO and its reply, which has capabilities after it: struct vfio_info_cap_header and
// vfio_region_info_cap_*, found by offsets from the beginning of this struct.
struct vfio_user_region_info {
	uint32_t argsz;
	uint32_t flags; // VFIO_REGION_INFO_FLAG_*
	uint32_t index; // VFIO_PCI_*_REGION_INDEX
	uint32_t cap_offset;
	uint64_t size;
	uint64_t offset; // of the region in the file of the descriptor that came along
};

struct vfio_user_region_io_fds { // DEVICE_GET_REGION_IO_FDS and its reply, `count` of the following behind it
	uint32_t argsz;
	uint32_t flags; // 0
	uint32_t index;
	uint32_t count;
};

#define VFIO_USER_IO_FD_IOEVENTFD	 0u
#define VFIO_USER_IO_FD_IOREGIONFD	 1u // of kernels that never came to be
#define VFIO_USER_IO_FD_IOEVENTFD_SHADOW 2u // of libvfio-user alone
struct vfio_user_io_fd {
	uint64_t offset; // in the region
	uint64_t size;	 // 1, 2, 4, 8, or 0: of any length
	uint32_t fd_index;
	uint32_t type;
	uint32_t flags; // KVM_IOEVENTFD_FLAG_DATAMATCH 1, _PIO 2
	uint32_t padding;
	uint64_t datamatch;
};

struct vfio_user_irq_info { // DEVICE_GET_IRQ_INFO and its reply
	uint32_t argsz;
	uint32_t flags; // VFIO_IRQ_INFO_*
	uint32_t index; // VFIO_PCI_*_IRQ_INDEX
	uint32_t count;
};

// DEVICE_SET_IRQS.  Eventfds travel as descriptors, `count` of them or none at all to take them away;
// with VFIO_IRQ_SET_DATA_BOOL `count` bytes follow.
struct vfio_user_irq_set {
	uint32_t argsz;
	uint32_t flags; // VFIO_IRQ_SET_*
	uint32_t index;
	uint32_t start;
	uint32_t count;
};

struct vfio_user_region_access { // REGION_READ, REGION_WRITE and the replies; data behind it
	uint64_t offset;
	uint32_t region;
	uint32_t count;
};

struct vfio_user_dma_access { // DMA_READ, DMA_WRITE and the replies; data behind it
	uint64_t iova;
	uint64_t count; // of DMA_WRITE's reply only 4 bytes, by the specification's text
};

#define VFIO_USER_MULTI_MAX 200u // writes in one REGION_WRITE_MULTI, as QEMU has it
struct vfio_user_write_one {
	uint64_t offset;
	uint32_t region;
	uint32_t count; // 1 to 8
	uint8_t data[8];
};
struct vfio_user_write_multi { // `count` writes behind it; the reply is the number of those done
	uint64_t count;
};

struct vfio_user_dirty_pages { // DIRTY_PAGES; with GET_BITMAP a range and a bitmap's header behind it
	uint32_t argsz;
	uint32_t flags; // VFIO_IOMMU_DIRTY_PAGES_FLAG_*
};
struct vfio_user_bitmap_range {
	uint64_t iova;
	uint64_t size;
	uint64_t bitmap_pgsize;
	uint64_t bitmap_size;
};

struct vfio_user_device_feature { // DEVICE_FEATURE and its reply; the feature's data behind it
	uint32_t argsz;
	uint32_t flags; // VFIO_DEVICE_FEATURE_*: index, GET, SET, PROBE
};

struct vfio_user_mig_data { // MIG_DATA_READ, MIG_DATA_WRITE and MIG_DATA_READ's reply; data behind it
	uint32_t argsz;
	uint32_t size;
};

_Static_assert(sizeof(struct vfio_user_header) == VFIO_USER_HEADER_LEN, "header");
_Static_assert(sizeof(struct vfio_user_version) == VFIO_USER_VERSION_LEN, "version");
_Static_assert(sizeof(struct vfio_user_dma_map) == 32, "dma map");
_Static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "dma unmap");
_Static_assert(sizeof(struct vfio_user_device_info) == 16, "device info");
_Static_assert(sizeof(struct vfio_user_region_info) == 32, "region info");
_Static_assert(sizeof(struct vfio_user_region_io_fds) == 16, "region io fds");
_Static_assert(sizeof(struct vfio_user_io_fd) == 40, "io fd");
_Static_assert(sizeof(struct vfio_user_irq_info) == 16, "irq info");
_Static_assert(sizeof(struct vfio_user_irq_set) == 20, "irq set");
_Static_assert(sizeof(struct vfio_user_region_access) == 16, "region access");
_Static_assert(sizeof(struct vfio_user_dma_access) == 16, "dma access");
_Static_assert(sizeof(struct vfio_user_write_one) == 24, "write");
_Static_assert(sizeof(struct vfio_user_bitmap_range) == 32, "bitmap range");

// ---- the table ----------------------------------------------------------------------------------

// What a region's description may come to with its capabilities, and a command's list of interrupts.
#define VFIO_USER_REGION_INFO_MAX 4096u
#define VFIO_USER_IO_FDS_MAX	  64u // sub-regions of one region
#define VFIO_USER_IRQ_BOOL_MAX	  2048u
#define VFIO_USER_FEATURE_MAX	  4096u // data of a device feature
// More descriptors than this never travel in one message (MSG_FDS_MAX of vmm/base/msg.h).
#define VFIO_USER_FDS_MAX 32u

// Lengths are those of the payload; with `data` (`reply_data`) as many bytes more as were agreed on for data.
// What the numbers inside say about the length is for the handler to check.
struct vfio_user_row {
	const char *name; // NULL: no such command
	bool from_server;
	bool data, reply_data;
	uint16_t min, max;
	uint16_t reply_min, reply_max;
	uint8_t fds_max, reply_fds_max;
};

#define VFU_ROW_(id, lo, hi, d, fds, rlo, rhi, rd, rfds, server) \
	[VFIO_USER_##id] = { .name = #id,                        \
			     .from_server = (server),            \
			     .data = (d),                        \
			     .reply_data = (rd),                 \
			     .min = (lo),                        \
			     .max = (hi),                        \
			     .reply_min = (rlo),                 \
			     .reply_max = (rhi),                 \
			     .fds_max = (fds),                   \
			     .reply_fds_max = (rfds) }

// The row of a command, or NULL if the specification has none.
static inline const struct vfio_user_row *vfio_user_row(uint32_t command)
{
	enum { FDS = VFIO_USER_FDS_MAX, VER = 4 + VFIO_USER_JSON_MAX };
	static const struct vfio_user_row rows[] = {
		//     command, length, data, fds,  reply: length, data, fds,  from the server
		// A twin socket comes with VERSION's reply.
		VFU_ROW_(VERSION, 4, VER, 0, 0, 4, VER, 0, FDS, 0),
		VFU_ROW_(DMA_MAP, 32, 32, 0, 1, 0, 0, 0, 0, 0),
		// A bitmap's header behind it is for DIRTY_PAGES' older minors.
		VFU_ROW_(DMA_UNMAP, 24, 40, 0, 0, 24, 24, 1, 0, 0),
		VFU_ROW_(DEVICE_GET_INFO, 16, 16, 0, 0, 16, 16, 0, 0, 0),
		VFU_ROW_(DEVICE_GET_REGION_INFO, 32, 32, 0, 0, 32, VFIO_USER_REGION_INFO_MAX, 0, 1, 0),
		VFU_ROW_(DEVICE_GET_REGION_IO_FDS, 16, 16, 0, 0, 16, 16 + 40 * VFIO_USER_IO_FDS_MAX, 0, FDS,
			 0),
		VFU_ROW_(DEVICE_GET_IRQ_INFO, 16, 16, 0, 0, 16, 16, 0, 0, 0),
		VFU_ROW_(DEVICE_SET_IRQS, 20, 20 + VFIO_USER_IRQ_BOOL_MAX, 0, FDS, 0, 0, 0, 0, 0),
		VFU_ROW_(REGION_READ, 16, 16, 0, 0, 16, 16, 1, 0, 0),
		VFU_ROW_(REGION_WRITE, 16, 16, 1, 0, 16, 16, 0, 0, 0),
		VFU_ROW_(DMA_READ, 16, 16, 0, 0, 16, 16, 1, 0, 1),
		VFU_ROW_(DMA_WRITE, 16, 16, 1, 0, 12, 16, 0, 0, 1),
		VFU_ROW_(DEVICE_RESET, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		VFU_ROW_(DIRTY_PAGES, 8, 8 + 32, 0, 0, 0, 8 + 32, 1, 0, 0),
		VFU_ROW_(REGION_WRITE_MULTI, 8, 8 + 24 * VFIO_USER_MULTI_MAX, 0, 0, 8, 8, 0, 0, 0),
		VFU_ROW_(DEVICE_FEATURE, 8, 8 + VFIO_USER_FEATURE_MAX, 0, 0, 8, 8 + VFIO_USER_FEATURE_MAX, 1,
			 0, 0),
		VFU_ROW_(MIG_DATA_READ, 8, 8, 0, 0, 8, 8, 1, 0, 0),
		VFU_ROW_(MIG_DATA_WRITE, 8, 8, 1, 0, 0, 0, 0, 0, 0),
	};
	return command < ARRAY_LEN(rows) && rows[command].name ? &rows[command] : NULL;
}

#undef VFU_ROW_

// ---- the checks ---------------------------------------------------------------------------------

// Whether a command's header may stand as it is: NULL, or what is wrong with it in a few words.  To be called
// before its payload is read.  `from_server` says which end it came from, `xfer_max` the most data that this
// end takes in one message.  With `row` NULL (no such command) the size is still bounded, so that a reply with
// an error can follow once its payload is read.
static inline const char *vfio_user_command_error(const struct vfio_user_header *h,
						  const struct vfio_user_row *row, bool from_server,
						  uint32_t xfer_max)
{
	if ((h->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_COMMAND)
		return "a reply where a command is due";
	if (h->flags & ~(VFIO_USER_TYPE_MASK | VFIO_USER_NO_REPLY))
		return "unknown flags";
	if (h->size < VFIO_USER_HEADER_LEN)
		return "smaller than its header";
	uint64_t len = h->size - VFIO_USER_HEADER_LEN;
	if (!row)
		return len <= VFIO_USER_DATA_XFER_SIZE_MIN ? "unknown command"
							   : "unknown command of absurd size";
	if (row->from_server != from_server)
		return "a command of the other side";
	if (len < row->min || len > row->max + (row->data ? (uint64_t)xfer_max : 0))
		return "wrong size";
	return NULL;
}

// The same for the header of a reply to `command`, which was found by its id.  A reply that says that the
// command failed is right and has no payload.
static inline const char *vfio_user_reply_error(const struct vfio_user_header *h, uint32_t command,
						uint32_t xfer_max)
{
	const struct vfio_user_row *row = vfio_user_row(command);
	if ((h->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_REPLY)
		return "not marked as a reply";
	if (h->flags & ~(VFIO_USER_TYPE_MASK | VFIO_USER_NO_REPLY | VFIO_USER_ERROR))
		return "unknown flags";
	// Older libvfio-user leaves the command out.
	if (!row || (h->command != command && h->command != 0))
		return "a reply to another command";
	if (h->size < VFIO_USER_HEADER_LEN)
		return "smaller than its header";
	uint64_t len = h->size - VFIO_USER_HEADER_LEN;
	if (h->flags & VFIO_USER_ERROR)
		return len == 0 ? NULL : "data behind an error";
	if (len < row->reply_min || len > row->reply_max + (row->reply_data ? (uint64_t)xfer_max : 0))
		return "wrong size";
	return NULL;
}

// Whether the number of descriptors that came with a message is right: NULL or what is wrong.
static inline const char *vfio_user_fds_error(const struct vfio_user_row *row, bool reply, unsigned fd_count)
{
	const unsigned most = !row ? 0u : reply ? row->reply_fds_max : row->fds_max;
	return fd_count > most ? "too many descriptors" : NULL;
}

#endif
