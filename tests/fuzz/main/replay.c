// SPDX-License-Identifier: BSD-2-Clause
// Runs a fuzz target over the files of its corpus: `replay/NAME tests/fuzz/corpus/NAME`, or over single
// files.
//
// Each name is printed before its file is tried, so that the last one printed is the one that crashed.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned passed, failed;

static void file_replay(const char *path)
{
	const size_t max = 1 << 20;
	uint8_t *all = malloc(max);
	FILE *f = fopen(path, "r");
	size_t size = f && all ? fread(all, 1, max, f) : 0;
	printf("%s\n", path);
	if (!f || !all || ferror(f)) {
		printf("FAIL %s: cannot be read\n", path);
		failed++;
	} else {
		// A block of just this size, so that a read behind the end is seen.
		uint8_t *data = malloc(size);
		if (!data && size)
			abort();
		if (size)
			memcpy(data, all, size);
		LLVMFuzzerTestOneInput(data, size);
		free(data);
		passed++;
	}
	if (f)
		fclose(f);
	free(all);
}

static void path_replay(const char *path)
{
	DIR *d = opendir(path);
	if (!d) {
		file_replay(path);
		return;
	}
	for (struct dirent *e = readdir(d); e; e = readdir(d)) {
		char name[4096];
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		file_replay(name);
	}
	closedir(d);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++)
		path_replay(argv[i]);
	if (passed + failed == 0) {
		printf("FAIL: nothing to replay\n");
		failed++;
	}
	printf("%u passed, %u failed, 0 skipped\n", passed, failed);
	return failed != 0;
}
