/*
 * The name services and the dynamic loading of the C library, for a static /init: there are none.
 *
 * The real ones load shared objects that an initramfs does not have, and the linker warns of each.
 * Parts of libpython that /init never calls refer to them.
 */
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stddef.h>
#include <unistd.h>

/* What calls dlopen() gets this (the linker's --wrap): libc.a brings its own along. */
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

/* Would bring the real getaddrinfo() along. */
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
