// SPDX-License-Identifier: BSD-2-Clause
// main() of a fuzz target where there is no libFuzzer: runs it once over every file named, and over those in
// every folder named, below it too.  A target that finds something stops, and the file's name is on standard
// error.
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char current[4096]; // the file that the target is running on

static void tell_current(void)
{
	char line[sizeof(current) + 32];
	int n = snprintf(line, sizeof(line), "replay: stopped by %s\n", current);
	if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
		_exit(2);
}

static void abort_told(int signal_number)
{
	tell_current();
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

// All bytes of a file in memory of exactly its size, so that the sanitizer sees one read too many.
static uint8_t *read_all(const char *path, size_t *size)
{
	FILE *f = fopen(path, "rb");
	if (!f)
		return NULL;
	uint8_t *bytes = NULL;
	*size = 0;
	if (fseek(f, 0, SEEK_END) == 0) {
		long end = ftell(f);
		rewind(f);
		bytes = end >= 0 ? malloc(end > 0 ? (size_t)end : 1) : NULL;
		if (bytes && end > 0 && fread(bytes, (size_t)end, 1, f) != 1) {
			free(bytes);
			bytes = NULL;
		}
		*size = end > 0 ? (size_t)end : 0;
	}
	fclose(f);
	return bytes;
}

static int replay(const char *path)
{
	size_t size;
	uint8_t *bytes = read_all(path, &size);
	if (!bytes) {
		fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
		return -1;
	}
	snprintf(current, sizeof(current), "%s", path);
	LLVMFuzzerTestOneInput(bytes, size);
	free(bytes);
	return 0;
}

static unsigned passed, failed;

static int visit(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)where;
	if (kind == FTW_F && S_ISREG(st->st_mode))
		*(replay(path) ? &failed : &passed) += 1;
	else if (kind != FTW_D)
		failed++;
	return 0;
}

// Of the sanitizers, which end the process without a signal.  Absent in a build without them.
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = abort_told };
	sigaction(SIGABRT, &action, NULL);
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(tell_current);
	if (argc < 2) {
		fprintf(stderr, "usage: %s FILE_OR_FOLDER...\n", argv[0]);
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		if (nftw(argv[i], visit, 16, 0)) {
			fprintf(stderr, "replay: %s: %s\n", argv[i], strerror(errno));
			failed++;
		}
	}
	printf("%u passed, %u failed, 0 skipped\n", passed, failed);
	return failed != 0 || passed == 0;
}
