// SPDX-License-Identifier: BSD-2-Clause
// The configuration space of a vhost-user device: read and written in pieces, found out where no table knows its length, and
// filled in from the configuration file where the back-end leaves that to its front-end.
//
// Called by vhost_user.c, vhost_user_open.c, vhost_user_again.c and probe.c.  What a back-end answers is checked here and nowhere else.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"

#include <string.h>

#define NET_MTU_AT 10 // virtio 1.2 §5.1.4
#define FS_TAG_LEN 36 // virtio 1.2 §5.11.4

bool vu_config_is_ours(const struct vhost_user *vu)
{
	return vu->own.tag != NULL;
}

void vu_config_own(const struct vhost_user *vu, uint8_t *config)
{
	const uint32_t len = vu->backend.config_len;
	if (vu->own.tag && range_in(0, FS_TAG_LEN, len)) {
		memset(config, 0, FS_TAG_LEN);
		memcpy(config, vu->own.tag, MIN(strlen(vu->own.tag), FS_TAG_LEN));
	}
	if (vu->own.mtu && range_in(NET_MTU_AT, sizeof(vu->own.mtu), len))
		memcpy(config + NET_MTU_AT, &vu->own.mtu, sizeof(vu->own.mtu));
	// The guest has as many queues as we give it, which may be fewer than the back-end could serve.
	if (vu->backend.queue_count)
		vu_type_queues_show(vu->type, vu->backend.queue_count, config, len);
}

static void ask_piece(struct vu_exchange *x, uint32_t off, uint32_t len)
{
	struct vhost_user_config c = { .off = off, .len = len };
	vu_ask(x, VHOST_USER_GET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + len);
}

void vu_ask_config(struct vu_exchange *x, const struct vhost_user *vu)
{
	const uint32_t all = vu->backend.config_len;
	for (uint32_t off = 0; off < all; off += VHOST_USER_CONFIG_CHUNK)
		ask_piece(x, off, MIN(all - off, VHOST_USER_CONFIG_CHUNK));
}

void vu_answer_config(struct vu_exchange *x, const struct vhost_user *vu, uint8_t *config)
{
	const uint32_t all = vu->backend.config_len;
	uint8_t new[VU_CONFIG_MAX];
	for (uint32_t off = 0; off < all; off += VHOST_USER_CONFIG_CHUNK) {
		const uint32_t len = MIN(all - off, VHOST_USER_CONFIG_CHUNK);
		struct vhost_user_config c = { .off = 0 };
		size_t got = vu_answer(x, VHOST_USER_GET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + len);
		if (x->rc < 0)
			return;
		if (got == 0 || got == VHOST_USER_CONFIG_HEAD) {
			vu_broken(x, "refuses to show the %u bytes of its configuration space", all);
			return;
		}
		if (got != VHOST_USER_CONFIG_HEAD + len || c.off != off || c.len != len) {
			vu_broken(x, "broke the protocol (answer to GET_CONFIG: not the range that was asked "
				     "for)");
			return;
		}
		memcpy(new + off, c.data, len);
	}
	memcpy(config, new, all);
	vu_config_own(vu, config);
}

static uint16_t try_piece(struct vu_exchange *x, uint8_t *config, uint32_t off, uint32_t len)
{
	struct vhost_user_config c = { .off = 0 };
	ask_piece(x, off, len);
	size_t got = vu_answer(x, VHOST_USER_GET_CONFIG, &c, sizeof(c));
	if (x->rc < 0 || got <= VHOST_USER_CONFIG_HEAD)
		return 0;
	got -= VHOST_USER_CONFIG_HEAD;
	if (got > len || c.off != off || c.len > got) {
		vu_broken(x, "broke the protocol (answer to GET_CONFIG: not the range that was asked for)");
		return 0;
	}
	memcpy(config, c.data, c.len);
	return (uint16_t)c.len;
}

uint16_t vu_try_config(struct vu_exchange *x, uint8_t *config, uint32_t len)
{
	return try_piece(x, config, 0, MIN(len, VHOST_USER_CONFIG_CHUNK));
}

// As much as there is from `off` on, of one piece: a back-end refuses when it is asked for more than that.
static uint16_t find_piece(struct vu_exchange *x, uint8_t *config, uint32_t off)
{
	uint16_t good = try_piece(x, config, off, VHOST_USER_CONFIG_CHUNK);
	if (good)
		return good;
	uint32_t refused = VHOST_USER_CONFIG_CHUNK;
	while (x->rc == 0 && refused - good > 1) {
		const uint32_t len = (good + refused) / 2;
		const uint16_t shown = try_piece(x, config, off, len);
		if (shown == 0)
			refused = len;
		else if (shown < len)
			return shown;
		else
			good = shown;
	}
	return x->rc == 0 ? good : 0;
}

// Some back-ends show zeros beyond their end, and some the start again.
static bool says_something(const uint8_t *config, const uint8_t *piece, uint32_t len)
{
	bool zeros = true;
	for (uint32_t i = 0; i < len; i++)
		zeros &= piece[i] == 0;
	return !zeros && memcmp(config, piece, len) != 0;
}

uint16_t vu_find_config(struct vu_exchange *x, uint8_t *config)
{
	uint16_t len = find_piece(x, config, 0), piece = len;
	while (piece == VHOST_USER_CONFIG_CHUNK && len < VU_CONFIG_MAX) {
		piece = find_piece(x, config + len, len);
		if (!says_something(config, config + len, piece))
			break;
		len = (uint16_t)(len + piece);
	}
	return x->rc == 0 ? len : 0;
}

int vu_do_config_write(struct vhost_user *vu, uint32_t off, const uint8_t *buf, uint32_t len,
		       deadline_ns deadline)
{
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	for (uint32_t done = 0; done < len; done += VHOST_USER_CONFIG_CHUNK) {
		struct vhost_user_config c = { .off = off + done,
					       .len = MIN(len - done, VHOST_USER_CONFIG_CHUNK),
					       .flags = VHOST_USER_CONFIG_WRITABLE };
		memcpy(c.data, buf + done, c.len);
		vu_order(&x, VHOST_USER_SET_CONFIG, &c, VHOST_USER_CONFIG_HEAD + c.len, NULL, 0);
	}
	return vu_end(&x);
}
