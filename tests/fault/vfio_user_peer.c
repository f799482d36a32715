// SPDX-License-Identifier: BSD-2-Clause
// Servers that misbehave on a vfio-user socket: each must end as refused or dead within its deadline, with no descriptor left.  Test
// names begin with the row of the fault list that they show.
#include "tests/unit/test.h"

#include "tests/fault/vfu_peer.h"
#include "vmm/base/fd.h"

typedef bool fault_fn(struct peer *p, const struct peer_message *m);

static void nothing(struct peer *p)
{
	(void)p;
}

// Opens a link on a peer that `setup` has changed and that does `fault` at `command`: true if it was refused with a sentence about
// dev0 that says `because`, in time, with nothing left.  *shown: the peer came so far.
static bool refused_once(void (*setup)(struct peer *p), fault_fn *fault, uint16_t command, unsigned nth,
			 int arg, const char *because, bool *shown)
{
	struct peer p;
	struct front f;
	const unsigned fds = count_fds();
	peer_init(&p);
	p.at = command;
	p.at_nth = nth;
	p.fault = fault;
	p.fault_arg = arg;
	setup(&p);
	const deadline_ns start = deadline_now();
	front_open(&f, &p);
	const int64_t took = ms_since(start);
	front_close(&f);
	atomic_store(&p.release, true);
	peer_join(&p);
	peer_free(&p);
	*shown = !command || p.seen_at > nth;
	const bool good = f.rc < 0 && strncmp(f.e.text, "dev0: ", 6) == 0 && strstr(f.e.text, because) &&
			  took < front_deadline_ms + 1000 && count_fds() == fds;
	if (!good)
		printf("at command %u (%d): rc %d, \"%s\", not \"%s\", %lld ms, %d descriptors more\n",
		       command, arg, f.rc, f.e.text, because, (long long)took, (int)count_fds() - (int)fds);
	return good;
}

// A busy machine may not come so far within a short deadline for all of it.
static bool refused_how(void (*setup)(struct peer *p), fault_fn *fault, uint16_t command, unsigned nth,
			int arg, const char *because)
{
	bool good = true, shown = false;
	for (unsigned i = 0; good && !shown && i < 5; i++)
		good = refused_once(setup, fault, command, nth, arg, because, &shown) || !shown;
	if (!shown)
		printf("at command %u (%d): the peer was never asked for it\n", command, arg);
	return good && shown;
}

static bool refused(fault_fn *fault, uint16_t command, int arg, const char *because)
{
	return refused_how(nothing, fault, command, 0, arg, because);
}

// What is answered in the handshake.
static const uint16_t asked[] = { VFIO_USER_VERSION, VFIO_USER_DEVICE_GET_INFO,
				  VFIO_USER_DEVICE_GET_REGION_INFO, VFIO_USER_DEVICE_GET_IRQ_INFO,
				  VFIO_USER_DEVICE_GET_REGION_IO_FDS };
#define ASKED (sizeof(asked) / sizeof(asked[0]))

static bool send_header(struct peer *p, struct vfio_user_header h, size_t len)
{
	peer_message_to(p->sock, h, NULL, 0, NULL, 0);
	(void)len;
	return true;
}

static bool fault_close(struct peer *p, const struct peer_message *m)
{
	const struct vfio_user_header h = {
		.id = m->h.id, .command = m->h.command, .size = 64, .flags = VFIO_USER_REPLY
	};
	if (p->fault_arg)
		peer_send_fds(p, &h, (size_t)p->fault_arg, NULL, 0);
	return false;
}

static bool fault_size(struct peer *p, const struct peer_message *m)
{
	return send_header(p,
			   (struct vfio_user_header){ .id = m->h.id,
						      .command = m->h.command,
						      .size = (uint32_t)p->fault_arg,
						      .flags = VFIO_USER_REPLY },
			   0);
}

static bool fault_header(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_header h = { .id = m->h.id,
				      .command = m->h.command,
				      .size = 16,
				      .flags = VFIO_USER_REPLY | VFIO_USER_ERROR,
				      .error = 5 };
	switch (p->fault_arg) {
	case 0:
		h.id++;
		break;
	case 1:
		h.command++;
		break;
	case 2:
		h.flags |= 0x100;
		break;
	case 3:
		h.flags = 7;
		break;
	default:
		h.size = 20;
	}
	return send_header(p, h, 0);
}

static bool fault_fds(struct peer *p, const struct peer_message *m)
{
	int fds[253];
	uint8_t body[16 + 5000] = { 0 };
	const struct vfio_user_row *row = vfio_user_row(m->h.command);
	const struct vfio_user_header h = {
		.id = m->h.id, .command = m->h.command, .size = 16u + row->reply_min, .flags = VFIO_USER_REPLY
	};
	for (int i = 0; i < p->fault_arg; i++)
		fds[i] = 0;
	memcpy(body, &h, 16);
	memcpy(body + 16, m->payload, row->reply_min < m->h.size - 16 ? row->reply_min : m->h.size - 16);
	const uint32_t argsz = row->reply_min;
	if (m->h.command != VFIO_USER_VERSION)
		memcpy(body + 16, &argsz, sizeof(argsz));
	peer_send_fds(p, body, h.size, fds, (unsigned)p->fault_arg);
	return true;
}

static bool fault_oob(struct peer *p, const struct peer_message *m)
{
	send(p->sock, "x", 1, MSG_OOB | MSG_NOSIGNAL);
	peer_answer(p, m);
	return true;
}

static bool fault_drip(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_header h = {
		.id = m->h.id, .command = m->h.command, .size = 20, .flags = VFIO_USER_REPLY
	};
	for (unsigned i = 0; i < sizeof(h) && !atomic_load(&p->release); i++) {
		peer_send_fds(p, (char *)&h + i, 1, NULL, 0);
		poll(NULL, 0, 50);
	}
	return false;
}

TEST(b02_mute_and_slow)
{
	front_deadline_ms = FRONT_SHORT_MS;
	for (unsigned i = 0; i < ASKED; i++)
		CHECK(refused(fault_mute, asked[i], 0, "does not answer"));
	CHECK(refused(fault_drip, VFIO_USER_DEVICE_GET_INFO, 0, "does not answer"));
	front_deadline_ms = FRONT_LONG_MS;
}

static atomic_int slow_ms;

// Each answer is in time, and takes its time.
static bool fault_slow(struct peer *p, const struct peer_message *m)
{
	poll(NULL, 0, atomic_load(&slow_ms));
	peer_answer(p, m);
	return true;
}

static void slow_always(struct peer *p)
{
	p->every = true;
}

TEST(b02_slow_at_every_step)
{
	struct peer p;
	struct front f;
	uint32_t word;
	int rc = 0;
	atomic_store(&slow_ms, 100);
	front_deadline_ms = FRONT_SHORT_MS;
	CHECK(refused_how(slow_always, fault_slow, 0, 0, 0, "does not answer"));
	// The handshake's deadline is for all that is asked before the guest runs; then each command has its own.
	for (unsigned serve = 0; serve < 2; serve++) {
		peer_init(&p);
		p.every = true;
		p.fault = fault_slow;
		atomic_store(&slow_ms, 0);
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		if (serve)
			CHECK_EQ(vfio_user_serve(f.l, NULL, &f.e), 0);
		atomic_store(&slow_ms, 100);
		const deadline_ns start = deadline_now();
		for (unsigned i = 0; i < 10; i++)
			rc = f.l->ops->region_read(f.l, 7, 0, &word, 4);
		CHECK_EQ(rc, serve ? 0 : -EPIPE);
		CHECK(serve ? ms_since(start) >= 1000 : ms_since(start) < FRONT_SHORT_MS + 300);
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
	}
	front_deadline_ms = FRONT_LONG_MS;
}

TEST(b03_ends_early)
{
	static const int after[] = { 0, 1, 15, 16 };
	for (unsigned i = 0; i < ASKED; i++)
		for (unsigned k = 0; k < 4; k++)
			CHECK(refused(fault_close, asked[i], after[k],
				      asked[i] == VFIO_USER_VERSION || after[k] < 16 ? "closed its connection"
										     : ""));
}

TEST(b04_wrong_sizes)
{
	for (unsigned i = 0; i < ASKED; i++) {
		const struct vfio_user_row *row = vfio_user_row(asked[i]);
		CHECK(refused(fault_size, asked[i], 0, "smaller than its header"));
		CHECK(refused(fault_size, asked[i], 15, "smaller than its header"));
		CHECK(refused(fault_size, asked[i], 16 + row->reply_min - 1, "wrong size"));
		CHECK(refused(fault_size, asked[i], 16 + row->reply_max + 1, "wrong size"));
		CHECK(refused(fault_size, asked[i], INT32_MAX, "wrong size"));
	}
}

TEST(b05_wrong_headers)
{
	for (unsigned i = 0; i < ASKED; i++) {
		CHECK(refused(fault_header, asked[i], 0, "nobody asked for"));
		CHECK(refused(fault_header, asked[i], 1, "a reply to another command"));
		CHECK(refused(fault_header, asked[i], 2, "unknown flags"));
		CHECK(refused(fault_header, asked[i], 3, ""));
		CHECK(refused(fault_header, asked[i], 4, "data behind an error"));
	}
}

TEST(b07_descriptors_that_are_not_due)
{
	CHECK(refused(fault_fds, VFIO_USER_VERSION, 1, "descriptors without a twin socket"));
	CHECK(refused(fault_fds, VFIO_USER_DEVICE_GET_INFO, 1, "descriptor"));
	CHECK(refused(fault_fds, VFIO_USER_DEVICE_GET_REGION_INFO, 1,
		      "a descriptor for a region that cannot be mapped"));
	CHECK(refused(fault_fds, VFIO_USER_DEVICE_GET_REGION_INFO, 2, "too many descriptors"));
	CHECK(refused(fault_fds, VFIO_USER_DEVICE_GET_IRQ_INFO, 1, "descriptor"));
	for (unsigned i = 0; i < ASKED; i++)
		CHECK(refused(fault_fds, asked[i], 40, "descriptors where none are due"));
}

// Refused where it is seen; the kernel itself drops one that lies before what a read takes.
TEST(b28_out_of_band)
{
	unsigned seen = 0;
	for (unsigned i = 0; i < 10; i++) {
		struct peer p;
		struct front f;
		const unsigned fds = count_fds();
		peer_init(&p);
		p.at = VFIO_USER_DEVICE_GET_INFO;
		p.fault = fault_oob;
		front_open(&f, &p);
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
		CHECK(f.rc == 0 || strstr(f.e.text, "out-of-band"));
		CHECK_EQ(count_fds(), fds);
		seen += f.rc < 0;
	}
	CHECK(seen > 0);
}

// ---- VERSION ------------------------------------------------------------------------------------

static char *json_text;
static size_t json_len;
static uint16_t json_major, json_minor;

static bool fault_version(struct peer *p, const struct peer_message *m)
{
	uint8_t *out = calloc(1, json_len + 4);
	int sock = 0;
	if (!out)
		abort();
	memcpy(out, &json_major, 2);
	memcpy(out + 2, &json_minor, 2);
	memcpy(out + 4, json_text, json_len);
	peer_reply_fds(p, m, out, json_len + 4, &sock, p->fault_arg != 0);
	free(out);
	return true;
}

static bool refused_version(char *text, size_t len, int fds, const char *because)
{
	json_text = text;
	json_len = len;
	return refused(fault_version, VFIO_USER_VERSION, fds, because);
}

TEST(b25_versions_and_capabilities)
{
	static char huge[70000], deep[1000];
	static char twin[] = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
	static char no_index[] = "{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}";
	static char type[] = "{\"capabilities\":{\"max_msg_fds\":\"8\"}}", utf8[] = "{\"\xff\":1}",
		    cut[] = "{\"a\":";
	memset(huge, ' ', sizeof(huge));
	memset(deep, '[', sizeof(deep));
	memcpy(deep, "{\"a\":", 5);
	json_minor = 1;
	CHECK(refused_version(huge, sizeof(huge), 0, "wrong size"));
	CHECK(refused_version(huge, 4096, 0, "ends where a value is due"));
	CHECK(refused_version(deep, sizeof(deep), 0, "nested too deep"));
	CHECK(refused_version(type, sizeof(type), 0, "wrong type"));
	CHECK(refused_version(utf8, sizeof(utf8), 0, "not UTF-8"));
	CHECK(refused_version(cut, sizeof(cut), 0, "ends where a value is due"));
	CHECK(refused_version(twin, sizeof(twin), 0, "a twin socket that did not come along"));
	CHECK(refused_version(twin, sizeof(twin), 1, "a twin socket that is none"));
	CHECK(refused_version(no_index, sizeof(no_index), 1, "a twin socket that did not come along"));
	json_major = 1;
	CHECK(refused_version(huge, 0, 0, "another major version"));
	json_major = 0;
	json_minor = 2;
	CHECK(refused_version(huge, 0, 0, "a later minor version"));
	json_minor = 1;
}

// ---- what it says of itself ---------------------------------------------------------------------

static void no_pci(struct peer *p)
{
	p->info.flags = VFIO_DEVICE_FLAGS_RESET;
}

static void no_config(struct peer *p)
{
	p->info.num_regions = 7;
}

static void many_regions(struct peer *p)
{
	p->info.num_regions = 65;
}

static void many_irqs(struct peer *p)
{
	p->info.num_irqs = UINT32_MAX;
}

static void huge_region(struct peer *p)
{
	p->region[0].size = UINT64_C(1) << 63;
}

static void wrapping_region(struct peer *p)
{
	p->region[0].offset = INT64_MAX;
}

static void other_region(struct peer *p)
{
	p->region[3].index = 4;
}

static void other_irq(struct peer *p)
{
	p->irq[2].index = 1;
}

static void with_file(struct peer *p)
{
	peer_add_file(p, F_SEAL_SHRINK);
}

static struct peer_sparse *sparse(struct peer *p)
{
	with_file(p);
	return (struct peer_sparse *)(void *)p->caps[0];
}

static void areas_overlap(struct peer *p)
{
	sparse(p)->areas[1].size = 0x2001;
}

static void area_outside(struct peer *p)
{
	sparse(p)->areas[0].size = 0x1001;
}

static void area_wraps(struct peer *p)
{
	sparse(p)->areas[0].size = UINT64_MAX;
}

static void many_areas(struct peer *p)
{
	sparse(p)->nr_areas = 17;
}

static void missing_areas(struct peer *p)
{
	sparse(p)->nr_areas = 3;
}

static void caps_loop(struct peer *p)
{
	sparse(p)->header.next = 32;
}

static void caps_beyond(struct peer *p)
{
	sparse(p)->header.next = 4000;
}

static void caps_inside(struct peer *p)
{
	with_file(p);
	p->region[0].cap_offset = 24;
}

static void caps_cut(struct peer *p)
{
	with_file(p);
	p->region[0].cap_offset = p->region[0].argsz - 4;
}

static void needs_more(struct peer *p)
{
	p->region[0].argsz = 5000;
}

TEST(b21_descriptions_that_make_no_sense)
{
	static const struct {
		void (*setup)(struct peer *p);
		const char *because;
	} rows[] = {
		{ no_pci, "no PCI device" },
		{ no_config, "no region of its configuration space" },
		{ many_regions, "more regions than" },
		{ many_irqs, "more kinds of interrupts" },
		{ huge_region, "region 0 wrongly: a size or offset beyond reason" },
		{ wrapping_region, "region 0 wrongly: a size or offset beyond reason" },
		{ other_region, "region 3 wrongly: it is about another one" },
		{ other_irq, "interrupts 2 wrongly" },
		{ areas_overlap, "region 0 wrongly: sparse areas overlap" },
		{ area_outside, "region 0 wrongly: a sparse area outside" },
		{ area_wraps, "region 0 wrongly: a sparse area outside" },
		{ many_areas, "region 0 wrongly: too many sparse areas" },
		{ missing_areas, "region 0 wrongly: a capability reaches beyond" },
		{ caps_loop, "region 0 wrongly: a chain of capabilities without an end" },
		{ caps_beyond, "region 0 wrongly: a capability reaches beyond" },
		{ caps_inside, "region 0 wrongly: a capability reaches beyond" },
		{ caps_cut, "region 0 wrongly: a capability reaches beyond" },
		{ needs_more, "region 0 wrongly: it needs more room" },
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		CHECK(refused_how(rows[i].setup, NULL, 0, 0, 0, rows[i].because));
}

static void doorbell_outside(struct peer *p)
{
	peer_add_doorbells(p);
	p->io_fd[1].offset = PEER_BAR_SIZE;
}

static void doorbell_size(struct peer *p)
{
	peer_add_doorbells(p);
	p->io_fd[0].size = 3;
}

static void doorbell_fd(struct peer *p)
{
	peer_add_doorbells(p);
	p->io_fd[0].fd_index = 2;
}

static void doorbells_missing(struct peer *p)
{
	peer_add_doorbells(p);
	p->io_fd_count = 4;
	p->io_fd[3].type = 7;
	p->io_fd[2] = (struct vfio_user_io_fd){ .offset = UINT64_MAX, .size = 8 };
}

TEST(b23_doorbells_that_make_no_sense)
{
	CHECK(refused_how(doorbell_outside, NULL, 0, 0, 0, "region 0 wrongly: it lies outside"));
	CHECK(refused_how(doorbell_size, NULL, 0, 0, 0, "region 0 wrongly: a size that no write has"));
	CHECK(refused_how(doorbell_fd, NULL, 0, 0, 0, "region 0 wrongly: no such descriptor"));
	CHECK(refused_how(doorbells_missing, NULL, 0, 0, 0, "region 0 wrongly: it lies outside"));
}

// ---- files of BARs ------------------------------------------------------------------------------

// Whether BAR 0 is one that may be mapped.
static bool mapped_with(struct peer *p)
{
	struct front f;
	struct vfio_region r = { .fd = -2 };
	front_open(&f, p);
	if (f.rc == 0 && f.l->ops->region_info(f.l, 0, &r) < 0)
		r.fd = -2;
	const int fd = r.fd;
	front_close(&f);
	peer_join(p);
	peer_free(p);
	return fd >= 0;
}

TEST(b20_a_file_that_can_be_cut_short_is_not_mapped)
{
	struct peer p;
	const unsigned fds = count_fds();
	peer_init(&p);
	peer_add_file(&p, F_SEAL_SHRINK);
	CHECK(mapped_with(&p));
	peer_init(&p);
	peer_add_file(&p, 0);
	CHECK(!mapped_with(&p));
	peer_init(&p);
	peer_add_file(&p, F_SEAL_GROW);
	CHECK(!mapped_with(&p));
	peer_init(&p); // too short from the beginning
	peer_add_file(&p, 0);
	CHECK(ftruncate(p.region_fd[0], 0x1000 + PEER_BAR_SIZE - 1) == 0);
	CHECK(fcntl(p.region_fd[0], F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	CHECK(!mapped_with(&p));
	// Of huge pages: what is mapped of half a one can never be unmapped, and each return of the server would leave one behind.
	FD_AUTO huge = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
	if (huge >= 0 && ftruncate(huge, 4 << 20) == 0) { // not of a kernel without them
		CHECK(fcntl(huge, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
		peer_init(&p);
		peer_add_file(&p, F_SEAL_SHRINK);
		close(p.region_fd[0]);
		p.region_fd[0] = fd_steal(&huge);
		CHECK(!mapped_with(&p));
	}
	// B08: none of these is a file that can be written.
	static const char *const paths[] = { "/", "/dev/zero", "/proc/self/exe" };
	for (unsigned i = 0; i < 3; i++) {
		peer_init(&p);
		peer_add_file(&p, F_SEAL_SHRINK);
		close(p.region_fd[0]);
		p.region_fd[0] = open(paths[i], O_RDONLY | O_CLOEXEC);
		CHECK(p.region_fd[0] >= 0);
		CHECK(!mapped_with(&p));
	}
	CHECK_EQ(count_fds(), fds);
}

// ---- while the guest runs -----------------------------------------------------------------------

static struct peer live;
static struct front live_front;

// A link with its thread, whose peer does `fault` at `command`.
static bool live_open(fault_fn *fault, uint16_t command, int arg)
{
	peer_init(&live);
	live.at = command;
	live.fault = fault;
	live.fault_arg = arg;
	front_open(&live_front, &live);
	return live_front.rc == 0 && vfio_user_serve(live_front.l, NULL, &live_front.e) == 0;
}

// True if the death was told once, for that reason, and every operation says so at once.
static bool live_died(const char *because)
{
	const struct vfio_link_ops *ops = live_front.l->ops;
	uint32_t word;
	const bool told = loop_until(&live_front.loop, &live_front.died, front_deadline_ms + 1000);
	const deadline_ns start = deadline_now();
	const bool refused = ops->region_read(live_front.l, 7, 0, &word, 4) == -EPIPE &&
			     ops->region_write(live_front.l, 7, 0, &word, 4, false) == -EPIPE &&
			     ops->irq_set(live_front.l, 0, VFIO_LINK_UNMASK, 0, 1, NULL) == -EPIPE;
	const bool at_once = ms_since(start) < 100;
	front_close(&live_front);
	atomic_store(&live.release, true);
	peer_join(&live);
	peer_free(&live);
	const bool good =
		told && refused && at_once && live_front.died == 1 && strstr(live_front.why, because);
	if (!good)
		printf("told %u times: \"%s\", not \"%s\"; refused %d at once %d\n", live_front.died,
		       live_front.why, because, refused, at_once);
	return good;
}

// A refusal, and something behind it that is none of its business, in one piece.
static bool fault_trailing(struct peer *p, const struct peer_message *m)
{
	const struct vfio_user_header h = { .id = m->h.id,
					    .command = m->h.command,
					    .size = 16,
					    .flags = VFIO_USER_REPLY | VFIO_USER_ERROR,
					    .error = 5 };
	uint8_t out[64] = { 0 };
	memcpy(out, &h, 16);
	memcpy(out + 16, &h, 16);
	int fd = 0;
	peer_send_fds(p, out, (size_t)p->fault_arg, &fd, p->fault_arg == 64);
	return p->fault_arg > 16 && p->fault_arg < 32 ? fault_mute(p, m) : true;
}

TEST(b06_more_behind_a_reply)
{
	static const struct {
		int len;
		const char *because;
	} rows[] = {
		{ 17, "stopped within a message" }, // of which the rest never comes
		{ 32, "sent a reply that nobody asked for" },
		{ 64, "sent descriptors where none are due" },
	};
	uint32_t word;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const unsigned fds = count_fds();
		front_deadline_ms = rows[i].len == 17 ? FRONT_SHORT_MS : FRONT_LONG_MS;
		CHECK(live_open(fault_trailing, VFIO_USER_REGION_READ, rows[i].len));
		const deadline_ns start = deadline_now();
		CHECK(live_front.l->ops->region_read(live_front.l, 7, 0, &word, 4) < 0);
		CHECK(ms_since(start) < front_deadline_ms + 1000);
		CHECK(live_died(rows[i].because));
		CHECK_EQ(count_fds(), fds);
	}
	front_deadline_ms = FRONT_LONG_MS;
}

// A reply to REGION_READ of 4 bytes that lies: by its arg.
static bool fault_read(struct peer *p, const struct peer_message *m)
{
	struct {
		struct vfio_user_region_access a;
		uint8_t data[64];
	} out;
	size_t len = 4;
	memset(&out, 0, sizeof(out));
	memcpy(&out.a, m->payload, sizeof(out.a));
	switch (p->fault_arg) {
	case 0: // fewer
		out.a.count = 2;
		len = 2;
		break;
	case 1: // more
		out.a.count = 8;
		len = 8;
		break;
	case 2: // count lies
		out.a.count = 64;
		break;
	case 3:
		out.a.offset++;
		break;
	default:
		out.a.region++;
	}
	peer_reply(p, m, &out, sizeof(out.a) + len);
	return true;
}

TEST(b22_reads_that_return_something_else)
{
	uint32_t word = 0x12345678;
	// Fewer, and says so: that access failed, and that is all.
	CHECK(live_open(fault_read, VFIO_USER_REGION_READ, 0));
	CHECK_EQ(live_front.l->ops->region_read(live_front.l, 7, 0, &word, 4), -EIO);
	CHECK_EQ(word, 0x12345678);
	CHECK_EQ(live_front.l->ops->region_read(live_front.l, 7, 0, &word, 4), 0);
	front_close(&live_front);
	peer_join(&live);
	peer_free(&live);
	static const char *const because[] = { "longer than asked for", "not what was asked for",
					       "not what was asked for", "not what was asked for" };
	for (int arg = 1; arg <= 4; arg++) {
		CHECK(live_open(fault_read, VFIO_USER_REGION_READ, arg));
		CHECK_EQ(live_front.l->ops->region_read(live_front.l, 7, 0, &word, 4), -EPIPE);
		CHECK(live_died(because[arg - 1]));
	}
	CHECK(live_open(fault_header, VFIO_USER_REGION_READ, 4));
	CHECK_EQ(live_front.l->ops->region_read(live_front.l, 7, 0, &word, 4), -EPIPE);
	CHECK(live_died("data behind an error"));
}

TEST(b26_unmapping_is_not_answered)
{
	struct mem_table ram = front_memory();
	front_deadline_ms = FRONT_SHORT_MS;
	CHECK(live_open(fault_mute, VFIO_USER_DMA_UNMAP, 0));
	CHECK_EQ(live_front.l->ops->dma_map(live_front.l, &ram.region[0], NULL), 0);
	const deadline_ns start = deadline_now();
	CHECK_EQ(live_front.l->ops->dma_unmap(live_front.l, 0, 0x200000), -EPIPE);
	CHECK(ms_since(start) >= FRONT_SHORT_MS && ms_since(start) < FRONT_SHORT_MS + 1000);
	CHECK(live_died("does not answer (DMA_UNMAP, deadline missed)"));
	front_deadline_ms = FRONT_LONG_MS;
	front_memory_free(&ram);
}

TEST(b02_posted_commands_are_not_answered)
{
	front_deadline_ms = FRONT_SHORT_MS;
	CHECK(live_open(fault_mute, VFIO_USER_DEVICE_SET_IRQS, 0));
	CHECK_EQ(live_front.l->ops->irq_set(live_front.l, 0, VFIO_LINK_UNMASK, 0, 1, NULL), 0);
	CHECK(live_died("does not answer (DEVICE_SET_IRQS, deadline missed)"));
	front_deadline_ms = FRONT_LONG_MS;
}

// B27: the socket is full, since nobody reads it.
TEST(b27_nothing_is_read)
{
	static uint8_t much[2048];
	front_deadline_ms = FRONT_SHORT_MS;
	CHECK(live_open(fault_mute, VFIO_USER_REGION_WRITE, 0));
	int small = 1;
	setsockopt(live.front, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	const deadline_ns start = deadline_now();
	CHECK_EQ(live_front.l->ops->region_write(live_front.l, 0, 0, much, sizeof(much), false), -EPIPE);
	CHECK(ms_since(start) < FRONT_SHORT_MS + 1000);
	CHECK(live_died("deadline missed"));
	front_deadline_ms = FRONT_LONG_MS;
}

// Posted writes to one that reads no more fill the socket, and then one waits, once.
TEST(b27_posted_writes_are_not_read)
{
	front_deadline_ms = FRONT_SHORT_MS;
	peer_init(&live);
	live.at = VFIO_USER_REGION_WRITE;
	live.at_nth = 1; // the first is followed by a question
	live.fault = fault_mute;
	front_open(&live_front, &live);
	CHECK_EQ(live_front.rc, 0);
	CHECK_EQ(vfio_user_serve(live_front.l, NULL, &live_front.e), 0);
	int small = 1;
	const uint32_t word = 1;
	setsockopt(live.front, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	unsigned n = 0;
	int rc = 0;
	deadline_ns start = 0;
	while (rc == 0 && n++ < 10000) {
		start = deadline_now();
		rc = live_front.l->ops->region_write(live_front.l, 0, 0, &word, 4, true);
	}
	CHECK_EQ(rc, -EPIPE);
	CHECK(n > 2);
	CHECK(ms_since(start) >= FRONT_SHORT_MS - 1 && ms_since(start) < FRONT_SHORT_MS + 1000);
	CHECK(live_died("does not read its commands (REGION_WRITE, deadline missed)"));
	front_deadline_ms = FRONT_LONG_MS;
}

// Answers what shall not be answered.
static bool fault_answers(struct peer *p, const struct peer_message *m)
{
	static struct peer_message loud;
	loud = *m;
	loud.h.flags &= ~VFIO_USER_NO_REPLY;
	peer_answer(p, &loud);
	return true;
}

TEST(b06_posted_writes_are_answered)
{
	uint32_t word = 5;
	// One that always does is spared posted writes from then on; its refusals are heard of again.
	for (unsigned thread = 0; thread < 2; thread++) {
		peer_init(&live);
		live.every = true;
		live.fault = fault_answers;
		front_open(&live_front, &live);
		CHECK_EQ(live_front.rc, 0);
		if (thread)
			CHECK_EQ(vfio_user_serve(live_front.l, NULL, &live_front.e), 0);
		const struct vfio_link_ops *ops = live_front.l->ops;
		CHECK_EQ(ops->region_write(live_front.l, 3, 0, &word, 4, true), 0);
		CHECK_EQ(ops->region_write(live_front.l, 3, 0, &word, 4, true), -EINVAL);
		for (unsigned i = 0; i < 20; i++)
			CHECK_EQ(ops->region_write(live_front.l, 0, 4 * i, &word, 4, true), 0);
		CHECK_EQ(live.bar[76], 5);
		CHECK_EQ(live_front.died, 0);
		front_close(&live_front);
		peer_join(&live);
		unsigned quiet = 0;
		for (unsigned i = 0; i < live.count; i++)
			quiet += (live.log[i].h.flags & VFIO_USER_NO_REPLY) != 0;
		CHECK_EQ(quiet, 1);
		peer_free(&live);
	}
}

TEST(b06_a_posted_write_is_answered_after_others_were_not)
{
	const uint32_t word = 5;
	peer_init(&live);
	live.at = VFIO_USER_REGION_WRITE;
	live.at_nth = 2;
	live.fault = fault_answers;
	front_open(&live_front, &live);
	CHECK_EQ(vfio_user_serve(live_front.l, NULL, &live_front.e), 0);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(live_front.l->ops->region_write(live_front.l, 0, 0, &word, 4, true), 0);
	CHECK(live_died("sent a reply that nobody asked for"));
}

// What a server does of its own after it has answered a reset.
static bool fault_own(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_header h = { .id = 9, .command = VFIO_USER_DMA_READ, .size = 32 };
	struct vfio_user_dma_access a = { .iova = 0, .count = 4 };
	int fd = 0;
	uint8_t bytes[4096];
	peer_answer(p, m);
	poll(NULL, 0, 20);
	switch (p->fault_arg) {
	case 0: // a reply that nobody asked for
		h.flags = VFIO_USER_REPLY;
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
		break;
	case 1: // a command of the client's
		h.command = VFIO_USER_DMA_MAP;
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
		break;
	case 2:
		peer_message_to(p->sock, h, &a, sizeof(a), &fd, 1);
		break;
	case 3: // more data than its size leaves room for
		h.command = VFIO_USER_DMA_WRITE;
		h.size = 36;
		a.count = 5;
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
		peer_send_fds(p, bytes, 4, NULL, 0);
		break;
	case 4:
		h.size = UINT32_MAX;
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
		break;
	case 5:
		h.flags = 0x40;
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
		break;
	case 6: // half a header, and then nothing
		peer_send_fds(p, &h, 9, NULL, 0);
		break;
	default: // half of the data
		h.command = VFIO_USER_DMA_WRITE;
		h.size = 32 + 4096;
		a.count = 4096;
		memset(bytes, 1, sizeof(bytes));
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
		peer_send_fds(p, bytes, 100, NULL, 0);
	}
	return p->fault_arg < 6 ? true : fault_mute(p, m);
}

TEST(b24_commands_that_break_the_protocol)
{
	static const char *const because[] = { "a reply that nobody asked for",
					       "a command of the other side",
					       "descriptors with a command",
					       "count is not that of the data",
					       "wrong size",
					       "unknown flags",
					       "stopped within a message",
					       "does not finish a command" };
	struct mem_table ram = front_memory();
	for (int arg = 0; arg < 8; arg++) {
		if (arg >= 6)
			front_deadline_ms = FRONT_SHORT_MS;
		const unsigned fds = count_fds();
		CHECK(live_open(fault_own, VFIO_USER_DEVICE_RESET, arg));
		CHECK_EQ(live_front.l->ops->dma_map(live_front.l, &ram.region[0], NULL), 0);
		CHECK_EQ(live_front.l->ops->reset(live_front.l), 0);
		CHECK(live_died(because[arg]));
		CHECK_EQ(count_fds(), fds);
	}
	front_deadline_ms = FRONT_LONG_MS;
	front_memory_free(&ram);
}

static atomic_uint flood_served;

// Asks for much and reads nothing of it for a while, then everything; an unknown command is refused and no more.
static bool fault_flood(struct peer *p, const struct peer_message *m)
{
	const struct vfio_user_dma_access a = { .iova = 0, .count = 1024 };
	struct vfio_user_header h = { .command = VFIO_USER_DMA_READ, .size = 32 },
				unknown = { .command = 77, .size = 20 };
	uint8_t bytes[1024 + 16];
	peer_answer(p, m);
	for (unsigned i = 0; i < 100; i++)
		peer_message_to(p->sock, h, &a, sizeof(a), NULL, 0);
	peer_message_to(p->sock, unknown, "four", 4, NULL, 0);
	poll(NULL, 0, 20);
	for (unsigned i = 0; i < 100; i++) {
		if (!peer_read_from(p->sock, &h, sizeof(h), NULL, NULL) ||
		    !peer_read_from(p->sock, bytes, h.size - 16, NULL, NULL))
			return false;
		atomic_fetch_add(&flood_served, h.size == 32 + 1024 && !(h.flags & VFIO_USER_ERROR));
	}
	if (!peer_read_from(p->sock, &h, sizeof(h), NULL, NULL))
		return false;
	atomic_fetch_add(&flood_served, h.size == 16 && h.flags & VFIO_USER_ERROR && h.error == ENOSYS);
	return true;
}

TEST(b24_a_flood_is_served_at_the_speed_of_its_socket)
{
	struct mem_table ram = front_memory();
	uint32_t word;
	CHECK(live_open(fault_flood, VFIO_USER_DEVICE_RESET, 0));
	CHECK_EQ(live_front.l->ops->dma_map(live_front.l, &ram.region[0], NULL), 0);
	CHECK_EQ(live_front.l->ops->reset(live_front.l), 0);
	for (unsigned ms = 0; ms < 3000 && atomic_load(&flood_served) < 101; ms++)
		poll(NULL, 0, 1);
	CHECK_EQ(atomic_load(&flood_served), 101);
	CHECK_EQ(live_front.l->ops->region_read(live_front.l, 7, 0, &word, 4), 0);
	front_close(&live_front);
	peer_join(&live);
	peer_free(&live);
	front_memory_free(&ram);
}
