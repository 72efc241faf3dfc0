/*
 * The first instructions of /init: refuse where it was not started by the kernel, else go on to
 * the C library.
 *
 * The kernel enters at `initrd_entry` (machine.h) because /init names no interpreter. A static /init
 * has its C library in it. Another needs the dynamic loader, and an initramfs has none that could be
 * named: it is unpacked, with the C library, and does its work in this very process. Nothing is
 * executed again and nothing forks.
 *
 * Until then there is no libc: only system calls, no variable that needs a relocation (/init is
 * linked at a fixed address), no thread-local storage.
 */
#include "bare.h"
#include "freeze.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/reboot.h>
#include <sys/vfs.h>
#include <unistd.h>

#define REBOOT(command) \
	CALL4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_##command, 0)

INITRD_ENTRY;
extern void _start(void); /* where a program with a libc begins: crt1.o */

/* The start of Python is lost. We are PID 1 of an initramfs: say so and power off. */
void initrd_fail(const char *what)
{
	say(2, "initrd: cannot start: ");
	say(2, what);
	say(2, " failed; the machine may have too little memory. Powering off.\n");
	REBOOT(POWER_OFF);
	leave(1);
}

/*
 * Anything but the boot of a machine looks different in one of these. The last one is a call that
 * reboot(2) allows the first PID 1 alone, not that of a container; it sets what is set at boot.
 */
static const char *refusal(void)
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

/* Not started by the kernel: answer without touching anything. */
static void answer(const char *why_not, long argc, char **argv)
{
	if (argc == 2 && same(argv[1], "--version")) {
		say(1, "initrd " INITRD_VERSION "\n");
		leave(0);
	}
	say(2, "initrd: ");
	say(2, why_not);
	say(2, "; /init only runs as the first program of an initramfs\n");
	leave(2);
}

/* Called by `initrd_entry` with the stack of a new program; returns where that shall go on. */
uintptr_t launch(uintptr_t *stack)
{
	long argc = (long)stack[0];
	uintptr_t *word = stack + 1 + argc + 1; /* the environment */
	const char *why_not = refusal();

	if (why_not)
		answer(why_not, argc, (char **)(stack + 1));
	if (initrd_is_empty(initrd_libraries))
		return (uintptr_t)_start;
	if (initrd_unpack(initrd_libraries))
		initrd_fail("unpacking the C library");
	while (*word++)
		;
	return initrd_load(word, (uintptr_t)_start);
}
