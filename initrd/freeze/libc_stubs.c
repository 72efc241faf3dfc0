/*
 * Stubs for the C library's name services (NSS) and dlopen(), linked into a static /init: all fail.
 *
 * The real functions load shared objects, which an initramfs does not have, and the linker warns
 * about each. They are referenced by parts of libpython that /init never calls.
 */
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stddef.h>
#include <unistd.h>

/* Replaces dlopen() by the linker's --wrap, because libc.a itself links the real one in. */
void *__wrap_dlopen(const char *file, int mode)
{
	return NULL;
}

void *dlsym(void *handle, const char *name)
{
	return NULL;
}

char *dlerror(void)
{
	return "this program loads no shared objects";
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
		struct addrinfo **result)
{
	return EAI_SYSTEM;
}

/* The real one would link the real getaddrinfo() in. */
void freeaddrinfo(struct addrinfo *list)
{
}

int getnameinfo(const struct sockaddr *address, socklen_t length, char *node, socklen_t node_size,
		char *service, socklen_t service_size, int flags)
{
	return EAI_SYSTEM;
}

int gethostbyname_r(const char *name, struct hostent *found, char *buffer, size_t size,
		    struct hostent **result, int *error)
{
	*result = NULL;
	*error = NO_RECOVERY;
	return ENOENT;
}

int gethostbyaddr_r(const void *address, socklen_t length, int type, struct hostent *found,
		    char *buffer, size_t size, struct hostent **result, int *error)
{
	return gethostbyname_r("", found, buffer, size, result, error);
}

struct protoent *getprotobyname(const char *name)
{
	return NULL;
}

struct servent *getservbyname(const char *name, const char *protocol)
{
	return NULL;
}

struct servent *getservbyport(int port, const char *protocol)
{
	return NULL;
}

int getpwnam_r(const char *name, struct passwd *found, char *buffer, size_t size,
	       struct passwd **result)
{
	*result = NULL;
	return 0;
}

int getpwuid_r(uid_t uid, struct passwd *found, char *buffer, size_t size, struct passwd **result)
{
	return getpwnam_r("", found, buffer, size, result);
}

struct passwd *getpwent(void)
{
	return NULL;
}

void setpwent(void)
{
}

void endpwent(void)
{
}

int getgrouplist(const char *user, gid_t group, gid_t *groups, int *count)
{
	errno = ENOSYS;
	return -1;
}

int initgroups(const char *user, gid_t group)
{
	errno = ENOSYS;
	return -1;
}

char *getlogin(void)
{
	errno = ENOSYS;
	return NULL;
}
