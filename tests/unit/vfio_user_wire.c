// SPDX-License-Identifier: BSD-2-Clause
// The checks that both ends of vfio-user share: which header may stand, for each command and its reply.
#include "bridges/vfio_user_wire.h"

#include "tests/unit/test.h"
#include "vmm/base/msg.h"

#define XFER 8192u

static const char *command(uint16_t id, uint64_t payload, uint32_t flags, bool from_server)
{
	struct vfio_user_header h = { .command = id, .size = (uint32_t)(16 + payload), .flags = flags };
	return vfio_user_command_error(&h, vfio_user_row(id), from_server, XFER);
}

static const char *reply(uint16_t to, uint16_t says, uint64_t payload, uint32_t flags)
{
	struct vfio_user_header h = { .command = says, .size = (uint32_t)(16 + payload), .flags = flags };
	return vfio_user_reply_error(&h, to, XFER);
}

TEST(every_command_has_a_row_and_nothing_else_has)
{
	for (uint32_t id = 0; id < 0x10000; id++) {
		const struct vfio_user_row *row = vfio_user_row(id);
		CHECK((row != NULL) == (id >= VFIO_USER_VERSION && id <= VFIO_USER_MIG_DATA_WRITE));
		if (!row)
			continue;
		CHECK(row->min <= row->max && row->reply_min <= row->reply_max);
		CHECK(row->fds_max <= MSG_FDS_MAX && row->reply_fds_max <= MSG_FDS_MAX);
		CHECK_EQ(row->from_server, id == VFIO_USER_DMA_READ || id == VFIO_USER_DMA_WRITE);
	}
}

TEST(lengths_are_those_of_the_table)
{
	for (uint16_t id = VFIO_USER_VERSION; id <= (uint16_t)VFIO_USER_MIG_DATA_WRITE; id++) {
		const struct vfio_user_row *row = vfio_user_row(id);
		uint64_t max = row->max + (row->data ? (uint64_t)XFER : 0);
		uint64_t reply_max = row->reply_max + (row->reply_data ? (uint64_t)XFER : 0);
		CHECK(!command(id, row->min, 0, row->from_server));
		CHECK(!command(id, max, 0, row->from_server));
		CHECK_STR(command(id, max + 1, 0, row->from_server), "wrong size");
		CHECK(!reply(id, id, row->reply_min, VFIO_USER_REPLY));
		CHECK(!reply(id, id, reply_max, VFIO_USER_REPLY));
		CHECK_STR(reply(id, id, reply_max + 1, VFIO_USER_REPLY), "wrong size");
		if (row->min > 0)
			CHECK_STR(command(id, row->min - 1u, 0, row->from_server), "wrong size");
		if (row->reply_min > 0)
			CHECK_STR(reply(id, id, row->reply_min - 1u, VFIO_USER_REPLY), "wrong size");
	}
}

TEST(what_is_wrong_with_a_header_is_said)
{
	CHECK_STR(command(VFIO_USER_DEVICE_RESET, 0, VFIO_USER_REPLY, false),
		  "a reply where a command is due");
	CHECK_STR(command(VFIO_USER_DEVICE_RESET, 0, VFIO_USER_ERROR, false), "unknown flags");
	CHECK_STR(command(VFIO_USER_DEVICE_RESET, 0, 0x40, false), "unknown flags");
	CHECK_STR(command(VFIO_USER_DEVICE_RESET, UINT64_C(-1), 0, false), "smaller than its header");
	CHECK_STR(command(VFIO_USER_DEVICE_RESET, 0, 0, true), "a command of the other side");
	CHECK_STR(command(VFIO_USER_DMA_READ, 16, 0, false), "a command of the other side");
	CHECK_STR(command(99, 4096, 0, false), "unknown command");
	CHECK_STR(command(99, 4097, 0, false), "unknown command of absurd size");
	CHECK(!command(VFIO_USER_REGION_WRITE, 24, VFIO_USER_NO_REPLY, false));

	CHECK_STR(reply(VFIO_USER_DEVICE_RESET, VFIO_USER_DEVICE_RESET, 0, 0), "not marked as a reply");
	CHECK_STR(reply(VFIO_USER_DEVICE_RESET, VFIO_USER_DMA_MAP, 0, VFIO_USER_REPLY),
		  "a reply to another command");
	CHECK(!reply(VFIO_USER_DEVICE_RESET, 0, 0, VFIO_USER_REPLY)); // older libvfio-user
	CHECK_STR(reply(VFIO_USER_DEVICE_RESET, VFIO_USER_DEVICE_RESET, UINT64_C(-16), VFIO_USER_REPLY),
		  "smaller than its header");
	CHECK_STR(reply(VFIO_USER_DEVICE_RESET, VFIO_USER_DEVICE_RESET, 0, VFIO_USER_REPLY | 0x80),
		  "unknown flags");
	CHECK_STR(reply(VFIO_USER_REGION_READ, VFIO_USER_REGION_READ, 20, VFIO_USER_REPLY | VFIO_USER_ERROR),
		  "data behind an error");
	CHECK(!reply(VFIO_USER_REGION_READ, VFIO_USER_REGION_READ, 0, VFIO_USER_REPLY | VFIO_USER_ERROR));
}

TEST(descriptors_are_counted)
{
	const struct vfio_user_row *map = vfio_user_row(VFIO_USER_DMA_MAP);
	CHECK(!vfio_user_fds_error(map, false, 1));
	CHECK_STR(vfio_user_fds_error(map, false, 2), "too many descriptors");
	CHECK_STR(vfio_user_fds_error(map, true, 1), "too many descriptors");
	CHECK(!vfio_user_fds_error(vfio_user_row(VFIO_USER_DEVICE_GET_REGION_INFO), true, 1));
}

static struct vfio_user_caps caps;

static const char *read_caps(const char *text)
{
	return vfio_user_caps_read(&caps, text, strlen(text) + 1);
}

TEST(capabilities_have_defaults)
{
	CHECK(!vfio_user_caps_read(&caps, NULL, 0));
	CHECK_EQ(caps.max_msg_fds, 1);
	CHECK_EQ(caps.max_data_xfer_size, 1 << 20);
	CHECK_EQ(caps.max_dma_maps, 65535);
	CHECK_EQ(caps.pgsizes, 4096);
	CHECK(!caps.write_multiple && !caps.migration && !caps.twin_socket && !caps.has_fd_index);
	CHECK(!read_caps(""));
	CHECK(!read_caps("{}"));
	CHECK(!read_caps("{\"capabilities\":{}}"));
}

TEST(capabilities_are_read)
{
	CHECK(!read_caps(
		"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":65536,\"max_dma_maps\":7,"
		"\"pgsizes\":2101248,\"write_multiple\":true,\"migration\":{\"pgsize\":4096},"
		"\"twin_socket\":{\"supported\":true,\"fd_index\":3},\"new\":[{\"x\":null}]},\"else\":1}"));
	CHECK_EQ(caps.max_msg_fds, 8);
	CHECK_EQ(caps.max_data_xfer_size, 65536);
	CHECK_EQ(caps.max_dma_maps, 7);
	CHECK_EQ(caps.pgsizes, 2101248);
	CHECK(caps.write_multiple && caps.migration && caps.twin_socket && caps.has_fd_index);
	CHECK_EQ(caps.fd_index, 3);
	// Somebody else's fields of the same name.
	CHECK(!read_caps("{\"max_msg_fds\":\"x\",\"capabilities\":{\"x\":{\"max_msg_fds\":9}}}"));
	CHECK_EQ(caps.max_msg_fds, 1);
}

TEST(b25_capabilities_of_wrong_types_and_values_are_refused)
{
	static const char *const bad[] = {
		"[]",
		"1",
		"{\"capabilities\":[]}",
		"{\"capabilities\":null}",
		"{\"capabilities\":{\"max_msg_fds\":\"8\"}}",
		"{\"capabilities\":{\"max_msg_fds\":-1}}",
		"{\"capabilities\":{\"max_msg_fds\":1.5}}",
		"{\"capabilities\":{\"max_msg_fds\":{}}}",
		"{\"capabilities\":{\"max_data_xfer_size\":0}}",
		"{\"capabilities\":{\"max_data_xfer_size\":18446744073709551616}}",
		"{\"capabilities\":{\"max_dma_maps\":0}}",
		"{\"capabilities\":{\"pgsizes\":0}}",
		"{\"capabilities\":{\"write_multiple\":1}}",
		"{\"capabilities\":{\"twin_socket\":true}}",
		"{\"capabilities\":{\"twin_socket\":{\"supported\":\"yes\"}}}",
		"{\"capabilities\":{\"migration\":4096}}",
		"{\"capabilities\":{}",
		"{\"capabilities\":{\"\xff\":1}}",
		"{\"a\":[[[[[[[[[]]]]]]]]]}",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		CHECK(read_caps(bad[i]));
}
