/*
 * Map the dynamic loader for /init, as the kernel does for a program with a PT_INTERP header, and
 * describe the program to the loader in the auxiliary vector. Runs without a C library.
 *
 * Sources: the kernel's fs/binfmt_elf.c, elf(5), getauxval(3).
 */
#include "freeze.h"
#include "nolibc.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>

#define HEADERS_MAX 16
#define PAGE_DOWN(address) ((uintptr_t)(address) & ~(page_size - 1))
#define PAGE_UP(address) PAGE_DOWN((uintptr_t)(address) + page_size - 1)

extern const Elf64_Ehdr __ehdr_start; /* the ELF header of /init, defined by ld */
static const char interpreter[] = RUNTIME_DIRECTORY "/" RUNTIME_LOADER;
static Elf64_Phdr program_headers[HEADERS_MAX];
static uintptr_t page_size = 4096;

static uintptr_t map(uintptr_t address, size_t size, int protection, int flags, long fd, size_t offset)
{
	long result = CALL6(mmap, address, size, protection, MAP_PRIVATE | flags, fd, offset);

	if (result < 0 && result > -4096)
		fail_start("mapping the dynamic loader");
	return (uintptr_t)result;
}

/* Map one PT_LOAD segment: its part of the file, then zeros to the end of its memory. */
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
	for (char *byte = (char *)file_end; (uintptr_t)byte < PAGE_UP(file_end); byte++)
		*byte = 0;
	if (PAGE_UP(end) > PAGE_UP(file_end))
		map(PAGE_UP(file_end), PAGE_UP(end) - PAGE_UP(file_end), protection,
		    MAP_FIXED | MAP_ANONYMOUS, -1, 0);
}

/* Map the dynamic loader. Returns its base address, and in `entry` its entry point. */
static uintptr_t map_interpreter(uintptr_t *entry)
{
	static char head[1024];
	long fd = CALL4(openat, AT_FDCWD, interpreter, O_RDONLY | O_CLOEXEC, 0);

	if (fd < 0 || CALL3(read, fd, head, sizeof head) != sizeof head)
		fail_start("reading the dynamic loader");
	const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
	const Elf64_Phdr *headers = (const Elf64_Phdr *)(head + elf->e_phoff);
	uintptr_t end = 0;
	for (int i = 0; i < elf->e_phnum; i++)
		if (headers[i].p_type == PT_LOAD)
			end = headers[i].p_vaddr + headers[i].p_memsz;
	uintptr_t base = map(0, PAGE_UP(end), PROT_NONE, MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < elf->e_phnum; i++)
		if (headers[i].p_type == PT_LOAD)
			map_segment(base, &headers[i], fd);
	CALL1(close, fd);
	*entry = base + elf->e_entry;
	return base;
}

/* Copy the program headers of /init with a PT_INTERP added. Returns the number of headers. */
static uintptr_t copy_program_headers(void)
{
	const Elf64_Phdr *linked =
		(const Elf64_Phdr *)((uintptr_t)&__ehdr_start + __ehdr_start.e_phoff);
	Elf64_Phdr *next = program_headers;

	next->p_type = PT_INTERP;
	next->p_vaddr = (uintptr_t)interpreter;
	next++;
	for (int i = 0; i < __ehdr_start.e_phnum; i++)
		if (linked[i].p_type != PT_PHDR && next < program_headers + HEADERS_MAX)
			*next++ = linked[i];
	return (uintptr_t)(next - program_headers);
}

static uintptr_t *value_of(Elf64_auxv_t *auxiliary, uint64_t type)
{
	while (auxiliary->a_type != type)
		if (auxiliary++->a_type == AT_NULL)
			fail_start("reading the auxiliary vector");
	return (uintptr_t *)&auxiliary->a_un.a_val;
}

uintptr_t initrd_map_loader(void *auxiliary, uintptr_t program_entry)
{
	uintptr_t entry;

	page_size = *value_of(auxiliary, AT_PAGESZ);
	*value_of(auxiliary, AT_BASE) = map_interpreter(&entry);
	*value_of(auxiliary, AT_PHNUM) = copy_program_headers();
	*value_of(auxiliary, AT_PHDR) = (uintptr_t)program_headers;
	*value_of(auxiliary, AT_ENTRY) = program_entry;
	return entry;
}
