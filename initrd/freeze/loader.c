/*
 * Does for /init what the kernel does for a program that names an interpreter: maps the dynamic
 * loader, and tells it about the program in the auxiliary vector. Runs before there is a libc.
 *
 * Sources: the kernel's fs/binfmt_elf.c, elf(5), getauxval(3).
 */
#include "bare.h"
#include "freeze.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>

#define HEADERS_MAX 16
#define PAGE_DOWN(address) ((uintptr_t)(address) & ~(page_size - 1))
#define PAGE_UP(address) PAGE_DOWN((uintptr_t)(address) + page_size - 1)

extern const Elf64_Ehdr __ehdr_start; /* our own header: ld defines it */
static const char interpreter[] = RUNTIME_DIRECTORY "/" RUNTIME_LOADER;
static Elf64_Phdr program_headers[HEADERS_MAX];
static uintptr_t page_size = 4096;

static uintptr_t map(uintptr_t address, size_t size, int protection, int flags, long fd, size_t offset)
{
	long result = CALL6(mmap, address, size, protection, MAP_PRIVATE | flags, fd, offset);

	if (result < 0 && result > -4096)
		initrd_fail("mapping the dynamic loader");
	return (uintptr_t)result;
}

/* One PT_LOAD: its part of the file, then zeros to the end of its memory. */
static void map_segment(uintptr_t base, const Elf64_Phdr *header, long fd)
{
	uintptr_t start = base + PAGE_DOWN(header->p_vaddr);
	uintptr_t file_end = base + header->p_vaddr + header->p_filesz;
	uintptr_t end = base + header->p_vaddr + header->p_memsz;
	int protection = (header->p_flags & PF_R ? PROT_READ : 0) |
			 (header->p_flags & PF_W ? PROT_WRITE : 0) |
			 (header->p_flags & PF_X ? PROT_EXEC : 0);

	map(start, file_end - start, protection, MAP_FIXED, fd, PAGE_DOWN(header->p_offset));
	if (end == file_end)
		return;
	for (char *at = (char *)file_end; (uintptr_t)at < PAGE_UP(file_end); at++)
		*at = 0;
	if (PAGE_UP(end) > PAGE_UP(file_end))
		map(PAGE_UP(file_end), PAGE_UP(end) - PAGE_UP(file_end), protection,
		    MAP_FIXED | MAP_ANONYMOUS, -1, 0);
}

/* Map the dynamic loader; return where, and through `entry` where it begins. */
static uintptr_t map_interpreter(uintptr_t *entry)
{
	static char head[1024];
	long fd = CALL4(openat, AT_FDCWD, interpreter, O_RDONLY | O_CLOEXEC, 0);

	if (fd < 0 || CALL3(read, fd, head, sizeof head) != sizeof head)
		initrd_fail("reading the dynamic loader");
	const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
	const Elf64_Phdr *headers = (const Elf64_Phdr *)(head + elf->e_phoff);
	uintptr_t end = 0;
	for (int at = 0; at < elf->e_phnum; at++)
		if (headers[at].p_type == PT_LOAD)
			end = headers[at].p_vaddr + headers[at].p_memsz;
	uintptr_t base = map(0, PAGE_UP(end), PROT_NONE, MAP_ANONYMOUS, -1, 0);
	for (int at = 0; at < elf->e_phnum; at++)
		if (headers[at].p_type == PT_LOAD)
			map_segment(base, &headers[at], fd);
	CALL1(close, fd);
	*entry = base + elf->e_entry;
	return base;
}

/* Our program headers as the loader wants them: with an interpreter. Returns how many there are. */
static uintptr_t name_interpreter(void)
{
	const Elf64_Phdr *ours =
		(const Elf64_Phdr *)((uintptr_t)&__ehdr_start + __ehdr_start.e_phoff);
	Elf64_Phdr *next = program_headers;

	next->p_type = PT_INTERP;
	next->p_vaddr = (uintptr_t)interpreter;
	next++;
	for (int at = 0; at < __ehdr_start.e_phnum; at++)
		if (ours[at].p_type != PT_PHDR && next < program_headers + HEADERS_MAX)
			*next++ = ours[at];
	return (uintptr_t)(next - program_headers);
}

static uintptr_t *value_of(Elf64_auxv_t *auxiliary, uint64_t type)
{
	while (auxiliary->a_type != type)
		if (auxiliary++->a_type == AT_NULL)
			initrd_fail("reading the auxiliary vector");
	return (uintptr_t *)&auxiliary->a_un.a_val;
}

uintptr_t initrd_load(void *auxiliary, uintptr_t program_entry)
{
	uintptr_t entry;

	page_size = *value_of(auxiliary, AT_PAGESZ);
	*value_of(auxiliary, AT_BASE) = map_interpreter(&entry);
	*value_of(auxiliary, AT_PHNUM) = name_interpreter();
	*value_of(auxiliary, AT_PHDR) = (uintptr_t)program_headers;
	*value_of(auxiliary, AT_ENTRY) = program_entry;
	return entry;
}
