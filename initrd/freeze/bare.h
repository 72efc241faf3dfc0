/* What C code can do before there is a C library: system calls, and next to nothing else. */
#ifndef INITRD_BARE_H
#define INITRD_BARE_H

#include "machine.h"

#include <stddef.h>
#include <sys/syscall.h>

#define CALL1(n, a) system_call(SYS_##n, (long)(a), 0, 0, 0, 0, 0)
#define CALL3(n, a, b, c) system_call(SYS_##n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) system_call(SYS_##n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CALL6(n, a, b, c, d, e, f) \
	system_call(SYS_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline int same(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

static inline void say(int fd, const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	CALL3(write, fd, text, length);
}

static inline __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		CALL1(exit_group, status);
}

#endif
