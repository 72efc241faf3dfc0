/* Write to a virtio-serial port that PID 1 has open, as hostile root in the guest can.
 *
 * Usage: flood PORT [once]. Reads up to 64 KiB from standard input, and writes them to the port
 * again and again, or once. A port has one opener; pidfd_getfd(2) copies the descriptor of PID 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_DESCRIPTOR 64
#define SIZE 65536

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* Return whether the descriptor `number` of PID 1 is the port `name`. */
static int is_port(int number, const char *name)
{
	char path[64], target[64], found[64] = "";
	snprintf(path, sizeof(path), "/proc/1/fd/%d", number);
	ssize_t length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return 0;
	target[length] = 0;
	const char *base = strrchr(target, '/');
	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%.24s/name", base ? base + 1 : target);
	FILE *file = fopen(path, "r");
	if (!file)
		return 0;
	if (fscanf(file, "%63s", found) != 1)
		found[0] = 0;
	fclose(file);
	return !strcmp(found, name);
}

static int open_port(const char *name)
{
	int process = (int)syscall(SYS_pidfd_open, 1, 0);
	if (process < 0)
		fail("pidfd_open");
	for (int number = 0; number < MAX_DESCRIPTOR; number++)
		if (is_port(number, name)) {
			int port = (int)syscall(SYS_pidfd_getfd, process, number, 0);
			if (port < 0)
				fail("pidfd_getfd");
			return port;
		}
	fprintf(stderr, "PID 1 has no port %s\n", name);
	exit(1);
}

static void write_all(int port, const char *data, size_t size)
{
	while (size) {
		ssize_t written = write(port, data, size);
		if (written < 0 && errno != EAGAIN)
			fail("write");
		if (written < 0) {
			struct pollfd entry = {.fd = port, .events = POLLOUT};
			poll(&entry, 1, 100);
			continue;
		}
		data += written;
		size -= (size_t)written;
	}
}

int main(int count, char **words)
{
	static char data[SIZE];
	if (count < 2)
		return 2;
	size_t unit = fread(data, 1, sizeof(data), stdin);
	int port = open_port(words[1]);
	if (count > 2) {
		write_all(port, data, unit);
		return 0;
	}
	if (!unit)
		return 2;
	size_t size = unit;
	for (; size + unit <= sizeof(data); size += unit)
		memcpy(data + size, data, unit);
	for (;;)
		write_all(port, data, size);
}
