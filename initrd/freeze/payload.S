/* The payloads, as bytes of /init; without them when the build only asks what libraries it needs. */
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
