// SPDX-License-Identifier: BSD-2-Clause
// What a back-end says unasked on its request channel comes from the fuzzer: the front-end must not crash, wait, keep a
// descriptor, or tell the driver of more than one change in a burst, and unless the back-end broke the protocol it goes on.
//
// The input is a list of pieces, each sent at once: a byte with the length (low six bits) and whether descriptors come along, then
// the bytes.
#include "tests/fault/vu_peer.h"

#include "bridges/backend.h"
#include "vmm/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good, const char *what)
{
	if (!good) {
		fprintf(stderr, "%s\n", what);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct peer p;
	struct front f;
	log_init("fuzz", LOG_ERROR);
	unsigned fds = count_fds();
	peer_init(&p);
	p.protocol = UINT64_MAX;
	front_open(&f, &p);
	must(f.rc == 0, f.e.text);
	const int channel = p.channel;
	for (unsigned sent = 0; size > 0 && sent < 24; sent++) {
		size_t len = data[0] & 63, count = data[0] >> 6;
		len = len < size - 1 ? len : size - 1;
		struct peer as = { .sock = channel };
		const int some[3] = { 0, 1, 2 };
		if (len)
			peer_send_fds(&as, data + 1, len, some, (unsigned)count);
		data += 1 + len;
		size -= 1 + len;
	}
	for (int i = 0; i < 3; i++)
		loop_once(&f.loop, 0);
	must(f.changed <= 1, "more than one upcall in a burst");
	must(f.died <= 1, "died twice");
	// The main connection is as good as before, or ended in order.
	must(f.b->ops->negotiate(f.b, PEER_BIT(32)) == (f.died ? -EPIPE : 0), "neither alive nor dead");
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	must(count_fds() == fds, "descriptors were left");
	return 0;
}
