/* What C code without a C library uses: system calls, string functions, the report of a failure. */
#ifndef INITRD_NOLIBC_H
#define INITRD_NOLIBC_H

#include "arch.h"

#include <linux/reboot.h>
#include <stddef.h>
#include <sys/syscall.h>

#define CALL1(n, a) system_call(SYS_##n, (long)(a), 0, 0, 0, 0, 0)
#define CALL3(n, a, b, c) system_call(SYS_##n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) system_call(SYS_##n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CALL6(n, a, b, c, d, e, f) \
	system_call(SYS_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define REBOOT(command) \
	CALL4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_##command, 0)

static inline int is_equal(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

static inline void print(int fd, const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	CALL3(write, fd, text, length);
}

static inline __attribute__((noreturn)) void exit_process(int status)
{
	for (;;)
		CALL1(exit_group, status);
}

/* Report the action that failed before Python could start, and power the machine off. PID 1 only. */
static inline __attribute__((noreturn)) void fail_start(const char *action)
{
	print(2, "initrd: cannot start: ");
	print(2, action);
	print(2, " failed; the machine may have too little memory. Powering off.\n");
	REBOOT(POWER_OFF);
	exit_process(1);
}

#endif
