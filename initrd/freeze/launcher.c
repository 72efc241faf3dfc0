/*
 * The entry point of /init: exit unless the kernel started it as the first program of an initramfs,
 * otherwise continue in the C library.
 *
 * The kernel enters at `initrd_entry` (arch.h) because /init has no PT_INTERP header. A static /init
 * contains the C library. Otherwise /init needs the dynamic loader, and an initramfs has none that
 * PT_INTERP could name: the loader is unpacked together with the C library, and loader.c maps it into
 * this process. There is no second execve() and no fork().
 *
 * This code runs without a C library: only system calls, no variable that needs a relocation (/init
 * is linked at a fixed address), no thread-local storage.
 */
#include "freeze.h"
#include "nolibc.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

INITRD_ENTRY;
extern void _start(void); /* the entry point of a program with a C library, in crt1.o */

/*
 * Return why this process is not the first program of a machine's initramfs; NULL if it is. The last
 * check is a call that reboot(2) permits to PID 1 of the initial PID namespace only, not to that of a
 * container; LINUX_REBOOT_CMD_CAD_ON is the kernel's setting at boot, so the call changes nothing.
 */
static const char *reason_to_refuse(void)
{
	struct statfs root;

	if (CALL1(getpid, 0) != 1)
		return "this is not PID 1";
	if (CALL3(faccessat, AT_FDCWD, "/proc/self", F_OK) == 0)
		return "/proc is mounted already";
	if (CALL3(statfs, "/", &root, 0) ||
	    ((unsigned)root.f_type != RAMFS_MAGIC && (unsigned)root.f_type != TMPFS_MAGIC))
		return "/ is not an initramfs";
	if (REBOOT(CAD_ON))
		return "this is a container";
	return 0;
}

/* Print the version or why /init refuses to run, and exit. Changes nothing on the system. */
static void refuse(const char *reason, long argc, char **argv)
{
	if (argc == 2 && is_equal(argv[1], "--version")) {
		print(1, "initrd " INITRD_VERSION "\n");
		exit_process(0);
	}
	print(2, "initrd: ");
	print(2, reason);
	print(2, "; /init only runs as the first program of an initramfs\n");
	exit_process(2);
}

/* Called by `initrd_entry` with the stack of a new program. Returns the address to continue at. */
uintptr_t launch(uintptr_t *stack)
{
	long argc = (long)stack[0];
	uintptr_t *environment = stack + 1 + argc + 1;
	const char *reason = reason_to_refuse();

	if (reason)
		refuse(reason, argc, (char **)(stack + 1));
	if (initrd_is_empty(initrd_libraries))
		return (uintptr_t)_start;
	if (initrd_unpack(initrd_libraries))
		fail_start("unpacking the C library");
	while (*environment++)
		;
	return initrd_map_loader(environment, (uintptr_t)_start); /* the auxiliary vector follows */
}
