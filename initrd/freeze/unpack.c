/*
 * Unpack the archives that are linked into /init to its runtime directory. This is called before
 * there is a C library, and again when pyroute2 is needed: only system calls are used.
 *
 * The format is that of the kernel's initramfs images ("newc"); only regular files are written.
 * Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst
 */
#include "freeze.h"
#include "nolibc.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

struct member {
	const char *name;
	unsigned mode;
	const char *data;
	size_t size;
};

static size_t hex8(const char *digits)
{
	size_t value = 0;

	for (int i = 0; i < 8; i++)
		value = value * 16 + (digits[i] & 15) + (digits[i] > '9' ? 9 : 0);
	return value;
}

static size_t align4(size_t size)
{
	return (size + 3) & ~(size_t)3;
}

/* Read the member at `*archive` and advance to the next one. Returns 0 at the end of the archive. */
static int read_member(const char **archive, struct member *found)
{
	const char *header = *archive;

	found->mode = (unsigned)hex8(header + 14);
	found->size = hex8(header + 54);
	found->name = header + 110;
	found->data = header + align4(110 + hex8(header + 94));
	*archive = found->data + align4(found->size);
	return !is_equal(found->name, "TRAILER!!!");
}

static long write_file(long directory, const struct member *file)
{
	long fd = CALL4(openat, directory, file->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
			file->mode & 07777);
	long written = fd;

	for (size_t done = 0; written >= 0 && done < file->size; done += (size_t)written)
		written = CALL3(write, fd, file->data + done, file->size - done);
	if (fd >= 0)
		CALL1(close, fd);
	return written < 0 ? written : 0;
}

static long write_files(long directory, const char *archive)
{
	struct member file;
	long failed = 0;

	while (!failed && read_member(&archive, &file))
		if (S_ISREG(file.mode))
			failed = write_file(directory, &file);
	return failed;
}

int initrd_is_empty(const char *archive)
{
	struct member file;

	return !read_member(&archive, &file);
}

long initrd_unpack(const char *archive)
{
	if (initrd_is_empty(archive))
		return 0;
	long failed = CALL3(mkdirat, AT_FDCWD, RUNTIME_DIRECTORY, 0700);
	if (failed && failed != -EEXIST)
		return failed;
	long directory = CALL4(openat, AT_FDCWD, RUNTIME_DIRECTORY,
			       O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (directory < 0)
		return directory;
	failed = write_files(directory, archive);
	CALL1(close, directory);
	return failed;
}
