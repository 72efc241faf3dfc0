/*
 * The boot target of the tests: reports how /init started it, then powers the machine off.
 *
 * It is not a shell script, because a shell sets signal handlers and changes its environment before
 * it runs the first command. The report goes to the second serial port, in sections headed
 * `=== NAME`. Afterwards /bin/sh runs the script /inspect, if there is one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A kernel that boots without an initramfs mounts neither /proc nor /dev. */
static void mount_missing(void)
{
	if (access("/proc/self", F_OK) != 0)
		mount("proc", "/proc", "proc", 0, NULL);
	if (access("/dev/ttyS1", F_OK) != 0)
		mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
}

/* Copy the file /proc/self/NAME to the report, with newlines in place of NUL bytes. */
static void copy_file(FILE *report, const char *name)
{
	char path[64];
	int c;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fprintf(report, "\n=== %s\n", name);
	FILE *file = fopen(path, "r");
	while (file && (c = getc(file)) != EOF)
		putc(c ? c : '\n', report);
	if (file)
		fclose(file);
}

static void print_link(FILE *report, const char *name)
{
	char path[64], target[512];

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	ssize_t length = readlink(path, target, sizeof(target) - 1);
	target[length < 0 ? 0 : length] = 0;
	fprintf(report, "\n=== %s\n%s\n", name, target);
}

/*
 * For each descriptor that this program did not open: number, status flags and descriptor flags in
 * octal, target of its link in /proc/self/fd.
 */
static void print_descriptors(FILE *report)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;

	fprintf(report, "\n=== fd\n");
	while (directory && (entry = readdir(directory))) {
		int fd = atoi(entry->d_name);
		char path[64], target[512] = "";
		if (entry->d_name[0] == '.' || fd == fileno(report) || fd == dirfd(directory))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, target, sizeof(target) - 1) < 0)
			strcpy(target, strerror(errno));
		fprintf(report, "%d %o %o %s\n", fd, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), target);
	}
	if (directory)
		closedir(directory);
}

static void report_own_state(FILE *report)
{
	mode_t mask = umask(0);
	umask(mask);
	fprintf(report, "\n=== umask\n%04o\n", mask);
	fprintf(report, "\n=== pid\n%d\n", getpid());
	fprintf(report, "\n=== ids\n%d %d %d\n", getppid(), getpgrp(), getsid(0));
	copy_file(report, "status");
	copy_file(report, "limits");
	copy_file(report, "environ");
	copy_file(report, "cmdline");
	copy_file(report, "mountinfo");
	print_link(report, "cwd");
	print_link(report, "root");
	print_link(report, "exe");
	print_descriptors(report);
	fflush(report);
}

/* Run /inspect, with the report as its standard output and standard error. */
static void run_inspect_script(FILE *report)
{
	pid_t child = fork();

	if (child == 0) {
		fprintf(report, "\n=== first child\n%d\n", getpid());
		fflush(report);
		dup2(fileno(report), 1);
		dup2(fileno(report), 2);
		execl("/bin/sh", "sh", "/inspect", NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
}

int main(void)
{
	mount_missing();
	FILE *report = fopen("/dev/ttyS1", "w");
	if (report) {
		report_own_state(report);
		run_inspect_script(report);
	}
	puts("probe: done");
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
