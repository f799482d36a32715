// SPDX-License-Identifier: BSD-2-Clause
// main() of a fuzz target where there is no libFuzzer: runs it once over every file named, and over those in every folder
// named, below it too.  A target that finds something aborts, with the file's name as the last line.
#include <errno.h>
#include <fts.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char current[4096]; // the file that the target is running on

static void tell_current(int signal_number)
{
	static const char text[] = "replay: stopped by ";
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0 || write(STDERR_FILENO, current, strlen(current)) < 0 ||
	    write(STDERR_FILENO, "\n", 1) < 0)
		_exit(2);
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

int main(int argc, char **argv)
{
	unsigned passed = 0, failed = 0;
	signal(SIGABRT, tell_current);
	FTS *tree = argc > 1 ? fts_open(argv + 1, FTS_LOGICAL | FTS_NOCHDIR, NULL) : NULL;
	if (!tree) {
		fprintf(stderr, "usage: %s FILE_OR_FOLDER...\n", argv[0]);
		return 2;
	}
	for (FTSENT *e; (e = fts_read(tree));) {
		if (e->fts_info == FTS_F)
			*(replay(e->fts_path) ? &failed : &passed) += 1;
		else if (e->fts_info == FTS_NS || e->fts_info == FTS_ERR || e->fts_info == FTS_DNR)
			failed++;
	}
	fts_close(tree);
	printf("%u passed, %u failed, 0 skipped\n", passed, failed);
	return failed != 0 || passed == 0;
}
