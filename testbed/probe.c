/*
 * The target of the tests' machines: tells how it was started, before anything else has run.
 *
 * A shell would not do: it sets signal handlers and changes its environment before its first word.
 * The report goes to the second serial port, in parts headed `=== NAME`. Afterwards /bin/sh runs
 * /inspect, if that is there, and the machine is switched off.
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

/* A kernel that boots without initrd mounts neither of these. */
static void mount_missing(void)
{
	if (access("/proc/self", F_OK) != 0)
		mount("proc", "/proc", "proc", 0, NULL);
	if (access("/dev/ttyS1", F_OK) != 0)
		mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
}

static void copy(FILE *report, const char *name)
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

/* Each descriptor that this program did not open: number, flags as octal, what it is. */
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

static void report_on_ourselves(FILE *report)
{
	mode_t mask = umask(0);
	umask(mask);
	fprintf(report, "\n=== umask\n%04o\n", mask);
	fprintf(report, "\n=== pid\n%d\n", getpid());
	fprintf(report, "\n=== ids\n%d %d %d\n", getppid(), getpgrp(), getsid(0));
	copy(report, "status");
	copy(report, "limits");
	copy(report, "environ");
	copy(report, "cmdline");
	copy(report, "mountinfo");
	print_link(report, "cwd");
	print_link(report, "root");
	print_link(report, "exe");
	print_descriptors(report);
	fflush(report);
}

static void inspect(FILE *report)
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
		report_on_ourselves(report);
		inspect(report);
	}
	puts("probe: done");
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
