// SPDX-License-Identifier: BSD-2-Clause
// Preloaded into a program: counts what it allocates and lets some of it fail, as a file says that it shares with the test.
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t len);
void *__libc_calloc(size_t n, size_t len);
void *__libc_realloc(void *p, size_t len);
void *__libc_memalign(size_t align, size_t len);

// How many there were, the first that fails, the last that does (0: none).
static struct {
	_Atomic uint64_t count, first, last;
} * shared;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("NO_MEMORY");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		_exit(99);
	shared = p;
	close(fd);
}

static int fails(void)
{
	if (!shared)
		return 0;
	const uint64_t n = atomic_fetch_add(&shared->count, 1) + 1;
	if (n < atomic_load(&shared->first) || n > atomic_load(&shared->last))
		return 0;
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t len)
{
	return fails() ? NULL : __libc_malloc(len);
}

void *calloc(size_t n, size_t len)
{
	return fails() ? NULL : __libc_calloc(n, len);
}

void *realloc(void *p, size_t len)
{
	return fails() ? NULL : __libc_realloc(p, len);
}

void *aligned_alloc(size_t align, size_t len)
{
	return fails() ? NULL : __libc_memalign(align, len);
}

int posix_memalign(void **out, size_t align, size_t len)
{
	if (fails())
		return ENOMEM;
	void *p = __libc_memalign(align, len);
	if (!p)
		return ENOMEM;
	*out = p;
	return 0;
}
