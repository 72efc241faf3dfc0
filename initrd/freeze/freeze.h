/* The interfaces between the C sources of /init. See docs/freeze.md. */
#ifndef INITRD_FREEZE_H
#define INITRD_FREEZE_H

#include <stdint.h>

/* Where the files are unpacked that the dynamic loader must find by name. */
#define RUNTIME_DIRECTORY "/.initrd"
#define RUNTIME_LOADER "ld.so"

/* The payloads: newc archives of shared objects, linked in by payload.S. Both may be empty. */
extern const char initrd_libraries[];  /* needed by every start of /init */
extern const char initrd_extensions[]; /* needed by pyroute2 in addition */

/* Return whether there is no file in an archive. */
int initrd_is_empty(const char *archive);

/*
 * Unpack an archive into the runtime directory, which is created if it does not exist. Returns 0, or
 * the negative errno of the system call that failed.
 */
long initrd_unpack(const char *archive);

/*
 * Map the unpacked dynamic loader for a program with the entry point `program_entry`, and change the
 * auxiliary vector accordingly. Returns the entry point of the loader. Powers off on failure.
 */
uintptr_t initrd_map_loader(void *auxiliary, uintptr_t program_entry);

#endif
