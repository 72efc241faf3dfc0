/*
 * The payloads of /init as data. With NO_PAYLOAD they are empty: the build first links /init without
 * them, to find out which shared libraries it needs.
 */
#ifdef NO_PAYLOAD
#define CONTENT(file)
#else
#define CONTENT(file) .incbin file
#endif
	.section .rodata
	.globl	initrd_modules_data
	.balign	64
initrd_modules_data:
	CONTENT("modules.bin")
	.globl	initrd_libraries
	.balign	4096
initrd_libraries:
	CONTENT("libraries.cpio")
	.globl	initrd_extensions
	.balign	4096
initrd_extensions:
	CONTENT("extensions.cpio")
	.section .note.GNU-stack, "", %progbits
