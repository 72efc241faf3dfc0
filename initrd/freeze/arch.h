/*
 * Everything that depends on the processor: the entry point of a program, and system calls.
 *
 * The kernel enters /init at `initrd_entry`. This code passes the initial stack to `launch`, which
 * returns the address to continue at; the stack and the registers are then as the kernel left them.
 */
#ifndef INITRD_ARCH_H
#define INITRD_ARCH_H

#if defined(__x86_64__)

#define INITRD_ENTRY \
	__asm__(".text\n.globl initrd_entry\n.type initrd_entry, @function\n" \
	"initrd_entry:\n" \
	"	mov %rsp, %rbx\n" \
	"	mov %rsp, %rdi\n" \
	"	and $-16, %rsp\n" \
	"	call launch\n" \
	"	mov %rbx, %rsp\n" \
	"	xor %edx, %edx\n" /* no function to run at exit: System V ABI for x86-64, 3.4.1 */ \
	"	jmp *%rax\n")

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#elif defined(__aarch64__)

#define INITRD_ENTRY \
	__asm__(".text\n.globl initrd_entry\n.type initrd_entry, @function\n" \
	"initrd_entry:\n" \
	"	mov x0, sp\n" \
	"	bl launch\n" \
	"	mov x16, x0\n" \
	"	mov x0, #0\n" \
	"	br x16\n")

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

#else
#error "unsupported processor: add its entry point and its system call"
#endif
#endif
