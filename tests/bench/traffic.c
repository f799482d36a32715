// SPDX-License-Identifier: BSD-2-Clause
// traffic - bytes and datagrams between two Linuxes, for tests/bench/jobs-l1; static, runs in a guest and in its host.
//
//   traffic serve                   serves TCP and UDP, port 5001, until killed
//   traffic up|down ADDRESS MIB     so much over TCP to or from a server, which has all of it at the end
//   traffic frames ADDRESS COUNT    as many datagrams of 18 bytes (frames of 60), each WINDOW of them answered by one
//
// The last two print "us=N" (frames: "us=N again=N", windows that had no answer and were sent again).
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PORT	 5001
#define WINDOW	 32
#define DATAGRAM 18
#define WAIT_MS	 200
#define TRIES	 50 // for an answer or a connection

struct request {
	uint32_t down, bytes;
};

static char data[64 << 10];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void all(ssize_t (*f)(int, void *, size_t, int), int s, uint32_t bytes)
{
	while (bytes) {
		const ssize_t n = f(s, data, bytes < sizeof(data) ? bytes : sizeof(data), 0);
		if (n <= 0)
			die("traffic: connection");
		bytes -= (uint32_t)n;
	}
}

static ssize_t put(int s, void *p, size_t len, int flags)
{
	return send(s, p, len, flags | MSG_NOSIGNAL);
}

static struct sockaddr_in at(const char *address)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
		die("traffic: address");
	return a;
}

static int serve(void)
{
	const struct sockaddr_in a = at("0.0.0.0");
	const int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
	struct pollfd p[] = { { tcp, POLLIN, 0 }, { udp, POLLIN, 0 } };
	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(tcp, (const void *)&a, sizeof(a)) || bind(udp, (const void *)&a, sizeof(a)) ||
	    listen(tcp, 4))
		die("traffic: bind");
	while (poll(p, 2, -1) > 0) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		if (p[1].revents && recvfrom(udp, data, sizeof(data), 0, (void *)&from, &len) == DATAGRAM &&
		    data[0])
			sendto(udp, data, DATAGRAM, 0, (void *)&from, len);
		if (!p[0].revents)
			continue;
		const int s = accept(tcp, NULL, NULL);
		struct request r;
		if (s >= 0 && recv(s, &r, sizeof(r), MSG_WAITALL) == sizeof(r)) {
			all(r.down ? put : recv, s, r.bytes);
			all(r.down ? recv : put, s, 1);
		}
		close(s);
	}
	return 1;
}

static void stream(const char *address, uint32_t down, uint32_t mib)
{
	const struct sockaddr_in a = at(address);
	const struct request r = { down, mib << 20 };
	const int s = socket(AF_INET, SOCK_STREAM, 0);
	const struct timeval limit = { .tv_sec = 20 };
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); // connect's, too
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	for (int n = 0; connect(s, (const void *)&a, sizeof(a)); n++) {
		if (n == TRIES)
			die("traffic: connect");
		usleep(WAIT_MS * 1000);
	}
	if (send(s, &r, sizeof(r), 0) != sizeof(r))
		die("traffic: send");
	all(down ? recv : put, s, r.bytes);
	all(down ? put : recv, s, 1);
}

static unsigned frames(const char *address, unsigned count)
{
	const struct sockaddr_in a = at(address);
	const int s = socket(AF_INET, SOCK_DGRAM, 0);
	struct pollfd p = { s, POLLIN, 0 };
	unsigned again = 0;
	if (connect(s, (const void *)&a, sizeof(a)))
		die("traffic: connect");
	for (unsigned i = 0; i < count; i += WINDOW)
		for (int tries = 0;; tries++) {
			for (unsigned k = 0; k < WINDOW; k++) {
				data[0] = k == WINDOW - 1;
				send(s, data, DATAGRAM, 0);
			}
			if (poll(&p, 1, WAIT_MS) > 0 && recv(s, data, sizeof(data), 0) == DATAGRAM)
				break;
			again++;
			if (tries == TRIES)
				die("traffic: no answer");
		}
	return again;
}

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int main(int argc, char *argv[])
{
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	if (argc != 4)
		return argc == 1 ? 0 : 2; // nothing: what a job costs by itself
	const uint64_t begin = now_us();
	unsigned again = 0;
	if (!strcmp(argv[1], "frames"))
		again = frames(argv[2], (unsigned)atoi(argv[3]));
	else
		stream(argv[2], !strcmp(argv[1], "down"), (uint32_t)atoi(argv[3]));
	printf("us=%llu again=%u\n", (unsigned long long)(now_us() - begin), again);
	return 0;
}
