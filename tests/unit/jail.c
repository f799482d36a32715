// SPDX-License-Identifier: BSD-2-Clause
// What a jail is put together from.  What it holds back is tests/native/jail.bats's.
#include "vmm/jail.h"

#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/jail_elf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct profile profile;
static struct jail jail;

TEST(shipped_profiles_are_read_and_compiled)
{
	for (const char *const *name = profile_names; *name && !test_failed; name++) {
		struct arena a = { 0 };
		struct err e = { "" };
		CHECK_EQ(profile_read(&profile, &a, *name, &e), 0);
		CHECK_EQ(jail_prepare(&jail, &profile, "/bin/sh", NULL, 0, &e), 0);
		CHECK_STR(e.text, "");
		CHECK(jail.filter.count > 50 && profile.rule_count > 30);
		arena_free(&a);
	}
}

static const struct jail_show *shown(const char *path)
{
	for (unsigned i = 0; i < jail.show_count; i++)
		if (strcmp(jail_text(&jail, jail.show[i].to), path) == 0)
			return &jail.show[i];
	return NULL;
}

static int prepare(const char *const *paths, struct err *e)
{
	struct arena a = { 0 };
	int rc = profile_read(&profile, &a, "fs", e);
	if (rc == 0)
		rc = jail_prepare(&jail, &profile, "/bin/sh", paths, UINT64_C(1) << 30, e);
	arena_free(&a);
	return rc;
}

TEST(paths_become_mounts)
{
	struct err e = { "" };
	char folder[] = "/tmp/minivmm-jail-XXXXXX", inner[64], inner_rw[64], untidy[64];
	CHECK(mkdtemp(folder));
	snprintf(inner, sizeof(inner), "%s/in", folder);
	snprintf(inner_rw, sizeof(inner_rw), "%s:rw", inner);
	snprintf(untidy, sizeof(untidy), "//tmp/.%s/", strrchr(folder, '/'));
	close(open(inner, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	// A file inside a folder is there with it, unless it may be more.
	const char *const covered[] = { inner, untidy, NULL };
	CHECK_EQ(prepare(covered, &e), 0);
	CHECK(shown(folder) && shown(folder)->folder && !shown(folder)->writable && !shown(inner));
	const char *const wider[] = { inner_rw, folder, NULL };
	CHECK_EQ(prepare(wider, &e), 0);
	CHECK(shown(inner) && shown(inner)->writable && !shown(inner)->executable &&
	      shown(inner) > shown(folder));
	CHECK(shown("/dev/null")->device && !shown("/dev/null")->executable &&
	      shown("/proc")->kind == SHOW_PROC);
	CHECK_EQ(jail.address_space >> 30, 9);
	unlink(inner);
	rmdir(folder);
	const char *const missing[] = { folder, NULL };
	CHECK_EQ(-prepare(missing, &e), ENOENT);
	CHECK(strstr(e.text, "in its jail: No such file or directory"));
}

static bool needs(const struct elf_needs *n, const char *part)
{
	for (unsigned i = 0; i < n->count; i++)
		if (strstr(n->path[i], part))
			return true;
	return false;
}

TEST(a_program_needs_its_libraries)
{
	struct arena a = { 0 };
	struct err e = { "" };
	struct elf_needs n = { .count = 0 };
	CHECK_EQ(elf_needs_add(&n, &a, "/bin/sh", &e), 0);
	CHECK(n.count >= 3 && needs(&n, "/bin/sh") && needs(&n, "libc.so") && needs(&n, "/ld-linux"));
	arena_free(&a);
}

TEST(a_script_needs_its_interpreter)
{
	char path[] = "/tmp/minivmm-jail-XXXXXX";
	struct arena a = { 0 };
	struct err e = { "" };
	struct elf_needs n = { .count = 0 };
	int fd = mkstemp(path);
	CHECK_EQ(write(fd, "#!/usr/bin/env sh\n", 18), 18);
	close(fd);
	CHECK_EQ(elf_needs_add(&n, &a, path, &e), 0);
	unlink(path);
	CHECK(needs(&n, "/bin/sh") && needs(&n, "libc.so") && needs(&n, "/usr/bin/env"));
	arena_free(&a);
}

// Whatever is in the file: no crash, no endless walk.
TEST(broken_programs_are_read_safely)
{
	static unsigned char image[200000], copy[sizeof(image)];
	char path[] = "/tmp/minivmm-jail-XXXXXX";
	FD_AUTO sh = open("/bin/sh", O_RDONLY | O_CLOEXEC);
	FD_AUTO fd = mkstemp(path);
	const ssize_t len = read(sh, image, sizeof(image));
	unsigned random = 1;
	CHECK(len > 4096);
	for (unsigned i = 0; i < 400; i++) {
		struct arena a = { 0 };
		struct err e;
		struct elf_needs n = { .count = 0 };
		memcpy(copy, image, (size_t)len);
		for (unsigned k = 0; k < 1 + i % 30; k++) {
			random = random * 1103515245 + 12345;
			// The headers, most often.
			copy[(random >> 8) % (i % 3 ? 1024u : (unsigned)len)] = (unsigned char)(random >> 4);
		}
		CHECK(pwrite(fd, copy, (size_t)len, 0) == len &&
		      ftruncate(fd, i % 5 ? len : (off_t)(random % 8192)) == 0);
		int rc = elf_needs_add(&n, &a, path, &e);
		CHECK(rc == 0 || rc == -E2BIG);
		arena_free(&a);
	}
	unlink(path);
}

TEST(failures_name_the_step)
{
	struct err e;
	char text[256];
	CHECK_EQ(prepare(NULL, &e), 0);
	int null = (int)(shown("/dev/null") - jail.show);
	CHECK(!jail_failure_tell(&jail, &(struct jail_failure){ JAIL_SHOW, null, ENOENT }, text,
				 sizeof(text)));
	CHECK_STR(text, "show /dev/null: No such file or directory (the path is gone since minivmm started)");
	CHECK(jail_failure_tell(&jail, &(struct jail_failure){ JAIL_ROOT, 0, EPERM }, text, sizeof(text)));
	CHECK(strstr(text,
		     "mount its root: Operation not permitted (a container, chroot or security module"));
	CHECK(jail_failure_tell(&jail, &(struct jail_failure){ JAIL_SHOW, null, ENOSYS }, text,
				sizeof(text)));
	CHECK(strstr(text, "(a kernel since 5.12 is needed)"));
}
