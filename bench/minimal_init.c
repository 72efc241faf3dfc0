/*
 * The minimal /init, a lower limit for measurements: a boot with almost no work outside the kernel.
 *
 * It makes the system calls that /init makes to boot from a root and further shares on virtiofs, in
 * the same order. It does not wait for devices, and exits on any failure. Options of the kernel
 * command line: `rootfs=TAG`, `mount=TAG` any number of times, `init=PATH`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MODULES "/usr/lib/modules"
#define SYSROOT "/sysroot"
#define STRICT (MS_NOSUID | MS_NOEXEC | MS_NODEV)
#define PRIVATE (MS_NOSUID | MS_NODEV)
#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

static char cmdline[4096];
static const char *root_tag = "rootfs", *target = "/bin/sh";

static void require(int succeeded, const char *subject)
{
	if (succeeded)
		return;
	perror(subject);
	exit(1);
}

static void mount_at(const char *source, const char *path, const char *type, unsigned long flags,
		     const char *data)
{
	mkdir(path, 0755);
	require(mount(source, path, type, flags, data) == 0, path);
}

static void mount_api(void)
{
	mount_at("sysfs", "/sys", "sysfs", STRICT, NULL);
	mount_at("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755,size=4m");
	mount_at("proc", "/proc", "proc", STRICT, NULL);
	mount_at("tmpfs", "/run", "tmpfs", PRIVATE, "mode=0755,size=64m");
	mount_at("tmpfs", "/tmp", "tmpfs", PRIVATE, "mode=1777,size=128m");
	mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
	       "gid=5,mode=0620,ptmxmode=0666");
	mount_at("tmpfs", "/dev/shm", "tmpfs", PRIVATE, "mode=1777");
}

static void read_options(void)
{
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

	require(fd >= 0 && read(fd, cmdline, sizeof cmdline - 1) > 0, "/proc/cmdline");
	close(fd);
	cmdline[strcspn(cmdline, "\n")] = 0;
	for (char *word = strtok(cmdline, " "); word; word = strtok(NULL, " "))
		if (!strncmp(word, "rootfs=", 7))
			root_tag = word + 7;
		else if (!strncmp(word, "init=", 5))
			target = word + 5;
		else if (!strncmp(word, "mount=", 6))
			*word = 'M'; /* marks the option for mount_shares() */
}

static void make_node(const char *path, unsigned minor, unsigned mode)
{
	struct stat found;

	if (lstat(path, &found) == 0)
		return;
	if (strrchr(path, '/') != path + 4)
		mkdir("/dev/net", 0755);
	mknod(path, S_IFCHR | mode, makedev(10, minor));
	chmod(path, mode);
}

static void make_link(const char *path, const char *to)
{
	struct stat found;

	if (lstat(path, &found) != 0)
		require(symlink(to, path) == 0, path);
}

static void make_devices(void)
{
	make_node("/dev/kvm", 232, 0660);
	make_node("/dev/loop-control", 237, 0660);
	make_node("/dev/fuse", 229, 0666);
	make_node("/dev/net/tun", 200, 0666);
	make_link("/dev/fd", "/proc/self/fd");
	make_link("/dev/stdin", "/proc/self/fd/0");
	make_link("/dev/stdout", "/proc/self/fd/1");
	make_link("/dev/stderr", "/proc/self/fd/2");
}

static void load_modules(void)
{
	struct dirent **names;
	char path[512];
	int count = scandir(MODULES, &names, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		if (names[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, MODULES "/%s", names[i]->d_name);
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		require(syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST, path);
		close(fd);
	}
}

static void mount_shares(void)
{
	char path[512];

	mount_at(root_tag, SYSROOT, "virtiofs", MS_RDONLY, NULL);
	mkdir("/run/mnt", 0755);
	for (char *word = cmdline; word < cmdline + sizeof cmdline - 1; word += strlen(word) + 1)
		if (!strncmp(word, "Mount=", 6)) {
			snprintf(path, sizeof path, "/run/mnt/%s", word + 6);
			mount_at(word + 6, path, "virtiofs", 0, NULL);
		}
}

static int enter_root(void)
{
	static const char *const moved[] = {"/run", "/dev", "/proc", "/sys", "/tmp"};
	struct stat found;
	char path[64];

	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, SYSROOT "%s", moved[i]);
		require(lstat(path, &found) == 0, path);
	}
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, SYSROOT "%s", moved[i]);
		require(mount(moved[i], path, "", MS_MOVE, NULL) == 0, path);
	}
	int old = open("/", DIRECTORY);
	require(chdir(SYSROOT) == 0 && mount(".", "/", "", MS_MOVE, NULL) == 0, "the move to /");
	require(chroot(".") == 0 && chdir("/") == 0, "chroot");
	return old;
}

static void delete_content(int directory, dev_t device)
{
	DIR *listing = fdopendir(directory);
	struct dirent *entry;
	struct stat found;

	while ((entry = readdir(listing))) {
		const char *name = entry->d_name;
		if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "console"))
			continue;
		if (fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) || found.st_dev != device)
			continue;
		if (!S_ISDIR(found.st_mode)) {
			unlinkat(directory, name, 0);
			continue;
		}
		int child = openat(directory, name, DIRECTORY | O_NOFOLLOW);
		if (fstat(child, &found) == 0 && found.st_dev == device) {
			delete_content(child, device);
			unlinkat(directory, name, AT_REMOVEDIR);
		} else {
			close(child);
		}
	}
	closedir(listing);
}

static void free_initramfs(int old)
{
	struct stat new_root, old_root;
	struct statfs type;
	int root = open("/", DIRECTORY);

	require(fstat(root, &new_root) == 0 && fstat(old, &old_root) == 0, "/");
	require(fstatfs(old, &type) == 0, "/");
	close(root);
	require(new_root.st_dev != old_root.st_dev, "switching root");
	delete_content(old, old_root.st_dev);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

int main(int argc, char **argv, char **environment)
{
	mount_api();
	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	require(log >= 0, "/dev/kmsg");
	read_options();
	make_devices();
	load_modules();
	mount_shares();
	free_initramfs(enter_root());
	reset_signals();
	argv[0] = (char *)target;
	execve(target, argv, environment);
	require(0, target);
}
