/*
 * The target of measured boots: write a line to the kernel's log, print that log on the console, and
 * power off. During the boot the kernel prints nothing there, because a console costs instructions.
 *
 * There is no C library, so that no instructions run before the line is written. Where /dev is not
 * mounted the line is not written, and bench/boots.py reports the boot as failed.
 */
#include <fcntl.h>
#include <linux/reboot.h>
#include <sys/syscall.h>

#define READ_ALL 3 /* of syslog(2) */
#define DRAIN 0x5409 /* TCSBRK of ioctl_tty(2) */

static const char mark[] = "<5>bench: target\n";
static char log[16 << 20];

static long call(long number, long a, long b, long c, long d)
{
	long result;
	register long fourth __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	long fd = call(SYS_open, (long)"/dev/kmsg", O_WRONLY, 0, 0);

	call(SYS_write, fd, (long)mark, sizeof mark - 1, 0);
	long size = call(SYS_syslog, READ_ALL, (long)log, sizeof log, 0);
	for (long done = 0, written = 1; done < size && written > 0; done += written)
		written = call(SYS_write, 1, (long)log + done, size - done, 0);
	call(SYS_ioctl, 1, DRAIN, 1, 0);
	call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0);
	for (;;)
		call(SYS_exit_group, 1, 0, 0, 0);
}
