/* What the parts of /init know of each other. See docs/freeze.md. */
#ifndef INITRD_FREEZE_H
#define INITRD_FREEZE_H

#include <stdint.h>

/* Where the files go that the dynamic loader must find by name. */
#define RUNTIME_DIRECTORY "/.initrd"
#define RUNTIME_LOADER "ld.so"

/* The payloads: newc archives of shared objects, linked in by payload.S; both may be empty. */
extern const char initrd_libraries[];  /* what every start needs */
extern const char initrd_extensions[]; /* what pyroute2 needs beyond that */

/* Whether there is no file in an archive. */
int initrd_is_empty(const char *archive);

/*
 * Unpack an archive into the runtime directory, which is made if it is not there. Returns 0, or the
 * negative errno of what failed.
 */
long initrd_unpack(const char *archive);

/*
 * Map the unpacked dynamic loader for a program that begins at `program_entry`, and change the
 * auxiliary vector for it. Returns where the loader begins.
 */
uintptr_t initrd_load(void *auxiliary, uintptr_t program_entry);

/* Say what failed before Python could start, and power the machine off. */
__attribute__((noreturn)) void initrd_fail(const char *what);

#endif
