/*
 * The system calls that PID 1 needs and Python's `os` does not have.
 *
 * A C extension because `ctypes` takes longer to import than all the rest of the start together.
 * Only the limited API of Python 3.11 is used, so one build serves every later Python. Nothing here
 * releases the interpreter lock: PID 1 has one thread. Every failure raises OSError with errno, and
 * with the path where there is one. The interface is described in
 * initrd/guest/_syscalls.pyi.
 */
#define Py_LIMITED_API 0x030b0000
#define _GNU_SOURCE /* F_SETSIG */
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/random.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#ifndef MODULE_INIT_COMPRESSED_FILE /* kernel headers before 5.17 */
#define MODULE_INIT_COMPRESSED_FILE 4
#endif
#define MAX_SEED 512 /* bytes */

/* None for a result of 0; for any other, the OSError of errno that names `path` (may be NULL). */
static PyObject *none_or_error(long result, const char *path)
{
	PyObject *name;

	if (result == 0)
		Py_RETURN_NONE;
	if (!path)
		return PyErr_SetFromErrno(PyExc_OSError);
	int cause = errno;
	name = PyUnicode_DecodeFSDefault(path);
	if (!name)
		return NULL;
	errno = cause;
	PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, name);
	Py_DECREF(name);
	return NULL;
}

/* mount(2). Empty data is handed over as NULL, which is what a file system without options expects. */
static PyObject *sys_mount(PyObject *module, PyObject *args)
{
	PyObject *source = NULL, *target = NULL, *fstype = NULL, *data = NULL, *result = NULL;
	unsigned long flags;

	if (PyArg_ParseTuple(args, "O&O&O&kO&:mount", PyUnicode_FSConverter, &source,
			     PyUnicode_FSConverter, &target, PyUnicode_FSConverter, &fstype, &flags,
			     PyUnicode_FSConverter, &data)) {
		const char *options = PyBytes_AsString(data);
		result = none_or_error(mount(PyBytes_AsString(source), PyBytes_AsString(target),
					     PyBytes_AsString(fstype), flags,
					     *options ? options : NULL),
				       PyBytes_AsString(target));
	}
	Py_XDECREF(source);
	Py_XDECREF(target);
	Py_XDECREF(fstype);
	Py_XDECREF(data);
	return result;
}

/* umount2(2) */
static PyObject *sys_umount(PyObject *module, PyObject *args)
{
	PyObject *target = NULL, *result = NULL;
	int flags;

	if (PyArg_ParseTuple(args, "O&i:umount", PyUnicode_FSConverter, &target, &flags))
		result = none_or_error(umount2(PyBytes_AsString(target), flags),
				       PyBytes_AsString(target));
	Py_XDECREF(target);
	return result;
}

/* finit_module(2); libc has no wrapper */
static PyObject *sys_finit_module(PyObject *module, PyObject *args)
{
	PyObject *params = NULL, *result = NULL;
	int fd, flags;

	if (PyArg_ParseTuple(args, "iO&i:finit_module", &fd, PyUnicode_FSConverter, &params, &flags))
		result = none_or_error(
			syscall(SYS_finit_module, fd, PyBytes_AsString(params), flags), NULL);
	Py_XDECREF(params);
	return result;
}

/* reboot(2), without the sync that a caller with data to lose must do first */
static PyObject *sys_reboot(PyObject *module, PyObject *args)
{
	int command;

	if (!PyArg_ParseTuple(args, "i:reboot", &command))
		return NULL;
	return none_or_error(reboot(command), NULL);
}

/* fstatfs(2), its f_type: what kind of file system an open file is on */
static PyObject *sys_filesystem_type(PyObject *module, PyObject *args)
{
	struct statfs found;
	int fd;

	if (!PyArg_ParseTuple(args, "i:filesystem_type", &fd))
		return NULL;
	if (fstatfs(fd, &found))
		return PyErr_SetFromErrno(PyExc_OSError);
	return PyLong_FromUnsignedLong((unsigned int)found.f_type);
}

/*
 * rt_sigaction(2), sigprocmask(2). Not by libc, which does not set the signals of its own threads: a
 * program may have left them ignored. EINVAL is ignored: SIGKILL and SIGSTOP cannot be set.
 */
static int reset_signals(void)
{
	const struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		unsigned long mask;
	} action = {SIG_DFL, 0, NULL, 0};
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		syscall(SYS_rt_sigaction, number, &action, NULL, sizeof action.mask);
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

static PyObject *sys_reset_signals(PyObject *module, PyObject *unused)
{
	return none_or_error(reset_signals(), NULL);
}

/* sigprocmask(2): block every signal, so that signalfd(2) can read them */
static PyObject *sys_block_signals(PyObject *module, PyObject *unused)
{
	sigset_t all;

	sigfillset(&all);
	return none_or_error(sigprocmask(SIG_SETMASK, &all, NULL), NULL);
}

/* signalfd(2) for every (blocked) signal */
static PyObject *sys_signal_fd(PyObject *module, PyObject *unused)
{
	sigset_t all;

	sigfillset(&all);
	int fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

/* mlockall(2), munlockall(2): afterwards all pages of this process are in memory and in its tables */
static PyObject *sys_populate_memory(PyObject *module, PyObject *unused)
{
	return none_or_error(mlockall(MCL_CURRENT) || munlockall(), NULL);
}

/* What poll(2) found, as a list of (fd, events) */
static PyObject *ready_list(const struct pollfd *polled, Py_ssize_t count)
{
	PyObject *ready = PyList_New(0);

	for (Py_ssize_t at = 0; ready && at < count; at++) {
		if (!polled[at].revents)
			continue;
		PyObject *pair = Py_BuildValue("(ii)", polled[at].fd, (int)polled[at].revents);
		if (!pair || PyList_Append(ready, pair))
			Py_CLEAR(ready);
		Py_XDECREF(pair);
	}
	return ready;
}

/* Fill `polled` from a list of (fd, events); return 0, or -1 with an exception */
static int read_entries(PyObject *entries, struct pollfd *polled, Py_ssize_t count)
{
	for (Py_ssize_t at = 0; at < count; at++)
		if (!PyArg_ParseTuple(PyList_GetItem(entries, at), "ih", &polled[at].fd,
				      &polled[at].events))
			return -1;
	return 0;
}

/* poll(2): its argument is a list of (fd, events), and milliseconds, -1 for no limit */
static PyObject *sys_poll(PyObject *module, PyObject *args)
{
	PyObject *entries, *ready = NULL;
	int milliseconds;

	if (!PyArg_ParseTuple(args, "Oi:poll", &entries, &milliseconds))
		return NULL;
	Py_ssize_t count = PyList_Size(entries);
	if (count < 0)
		return NULL;
	struct pollfd *polled = PyMem_Malloc((size_t)count * sizeof(*polled));
	if (!polled)
		return PyErr_NoMemory();
	if (!read_entries(entries, polled, count)) {
		if (poll(polled, (nfds_t)count, milliseconds) < 0)
			PyErr_SetFromErrno(PyExc_OSError);
		else
			ready = ready_list(polled, count);
	}
	PyMem_Free(polled);
	return ready;
}

/* TIOCSWINSZ of ioctl_tty(2) */
static PyObject *sys_set_terminal_size(PyObject *module, PyObject *args)
{
	struct winsize size = {0};
	int fd;

	if (!PyArg_ParseTuple(args, "iHH:set_terminal_size", &fd, &size.ws_row, &size.ws_col))
		return NULL;
	return none_or_error(ioctl(fd, TIOCSWINSZ, &size), NULL);
}

/* IUTF8 of termios(3) */
static PyObject *sys_set_terminal_utf8(PyObject *module, PyObject *args)
{
	struct termios modes;
	int fd;

	if (!PyArg_ParseTuple(args, "i:set_terminal_utf8", &fd))
		return NULL;
	if (tcgetattr(fd, &modes))
		return PyErr_SetFromErrno(PyExc_OSError);
	modes.c_iflag |= IUTF8;
	return none_or_error(tcsetattr(fd, TCSANOW, &modes), NULL);
}

/* SIOCGIFFLAGS and SIOCSIFFLAGS of netdevice(7) */
static PyObject *sys_interface_up(PyObject *module, PyObject *args)
{
	struct ifreq request = {0};
	const char *name;

	if (!PyArg_ParseTuple(args, "s:interface_up", &name))
		return NULL;
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	int failed = ioctl(fd, SIOCGIFFLAGS, &request);
	request.ifr_flags |= IFF_UP;
	failed = failed || ioctl(fd, SIOCSIFFLAGS, &request);
	PyObject *result = none_or_error(failed, name);
	close(fd);
	return result;
}

/* sethostname(2) */
static PyObject *sys_set_hostname(PyObject *module, PyObject *args)
{
	PyObject *name;
	Py_ssize_t length;

	if (!PyArg_ParseTuple(args, "U:set_hostname", &name))
		return NULL;
	const char *bytes = PyUnicode_AsUTF8AndSize(name, &length);
	return bytes ? none_or_error(sethostname(bytes, (size_t)length), NULL) : NULL;
}

/*
 * RNDADDENTROPY and RNDRESEEDCRNG of random(4): mix a seed into the kernel's random numbers, count all
 * of its bits, and make the generator use it at once.
 */
static PyObject *sys_add_entropy(PyObject *module, PyObject *args)
{
	union {
		struct rand_pool_info pool;
		char bytes[sizeof(struct rand_pool_info) + MAX_SEED];
	} request = {0};
	Py_buffer seed;
	int fd;

	if (!PyArg_ParseTuple(args, "iy*:add_entropy", &fd, &seed))
		return NULL;
	int length = seed.len > MAX_SEED ? -1 : (int)seed.len;
	if (length > 0)
		memcpy(request.pool.buf, seed.buf, (size_t)length);
	PyBuffer_Release(&seed);
	if (length < 0)
		return PyErr_Format(PyExc_ValueError, "add_entropy: more than %d bytes", MAX_SEED);
	request.pool.entropy_count = length * 8;
	request.pool.buf_size = length;
	return none_or_error(ioctl(fd, RNDADDENTROPY, &request) || ioctl(fd, RNDRESEEDCRNG), NULL);
}

/*
 * pidfd_getfd(2) for `fd` of the process `pid`, then signal-driven I/O as of fcntl(2): whenever there
 * is something to read, the kernel sends that process SIGCONT. A process that runs ignores it.
 */
static PyObject *sys_continue_on_input(PyObject *module, PyObject *args)
{
	int pid, number;

	if (!PyArg_ParseTuple(args, "ii:continue_on_input", &pid, &number))
		return NULL;
	int process = (int)syscall(SYS_pidfd_open, pid, 0);
	int fd = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, number, 0);
	int failed = fd < 0 || fcntl(fd, F_SETOWN, pid) || fcntl(fd, F_SETSIG, SIGCONT) ||
		     fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
	PyObject *result = none_or_error(failed, NULL);
	if (fd >= 0)
		close(fd);
	if (process >= 0)
		close(process);
	return result;
}

/* setrlimit(2): both limits of RLIMIT_NOFILE of this process. */
static PyObject *sys_limit_open_files(PyObject *module, PyObject *args)
{
	unsigned long count;

	if (!PyArg_ParseTuple(args, "k:limit_open_files", &count))
		return NULL;
	const struct rlimit limit = {count, count};
	return none_or_error(setrlimit(RLIMIT_NOFILE, &limit), NULL);
}

/*
 * spawn(): start a program in a child process, by vfork(2).
 *
 * The child runs in the memory of its parent, which waits until the child has executed a program or
 * has ended. So no memory is copied, and the child can write the reason of a failure to a variable of
 * the parent. The child only makes system calls: it calls nothing of Python, and allocates nothing.
 */
enum step { SET_UP_SESSION, BECOME_USER, ENTER_DIRECTORY, EXECUTE }; /* indexes of _STEPS in spawn.py */

/* The arguments of spawn(). NULL ends the lists of strings. */
struct request {
	char **files; /* to be tried in this order */
	char **words; /* the shell's path, then the program's arguments */
	char **variables;
	const char *cwd;
	int has_user;
	unsigned int uid, gid, *groups;
	size_t group_count;
	int fds[3]; /* become 0, 1 and 2 */
	int terminal;
};

/* The failure of a child. `number` is errno, 0 for none; `file` may be NULL. */
struct report {
	enum step step;
	int number;
	const char *file;
};

/*
 * setsid(2), TIOCSCTTY of ioctl_tty(2), dup2(2). Descriptors below 3 are copied first: a dup2(2) could
 * close one that is still needed, and keeps close-on-exec if both numbers are the same.
 */
static int enter_session(const struct request *request)
{
	int fds[3];

	if (setsid() < 0 || (request->terminal >= 0 && ioctl(request->terminal, TIOCSCTTY, 0)))
		return -1;
	for (int fd = 0; fd < 3; fd++) {
		int source = request->fds[fd];
		fds[fd] = source < 3 ? fcntl(source, F_DUPFD_CLOEXEC, 3) : source;
		if (fds[fd] < 0)
			return -1;
	}
	for (int fd = 0; fd < 3; fd++)
		if (dup2(fds[fd], fd) < 0)
			return -1;
	return 0;
}

/*
 * setgroups(2), setgid(2), setuid(2), without libc: its functions make every thread of a process do the
 * same, and would take the parent's threads for the child's. Other processes of the user cannot trace
 * the child, and so the parent's memory: a change of the user makes it not dumpable, prctl(2).
 */
static int become_user(const struct request *request)
{
	if (!request->has_user)
		return 0;
	if (syscall(SYS_setgroups, request->group_count, request->groups) ||
	    syscall(SYS_setgid, request->gid))
		return -1;
	return (int)syscall(SYS_setuid, request->uid);
}

/* Whether a file has a NUL in its first 128 bytes, or cannot be read: a shell could not, either. */
static int is_binary(const char *file)
{
	char head[128];
	int fd = open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, head, sizeof head);

	if (fd >= 0)
		close(fd);
	return length < 0 || memchr(head, 0, (size_t)length);
}

/* execve(2); as with execvp(3), a text file without `#!` is a script for the shell. */
static struct report execute_file(char *file, const struct request *request)
{
	char **words = request->words;
	char *name = words[1];

	execve(file, words + 1, request->variables);
	if (errno != ENOEXEC)
		return (struct report){EXECUTE, errno, file};
	if (is_binary(file))
		return (struct report){EXECUTE, ENOEXEC, file};
	words[1] = file;
	execve(words[0], words, request->variables);
	words[1] = name;
	return (struct report){EXECUTE, errno, words[0]};
}

/* Whether a search through PATH tries the next directory after this error: glibc's execvp(3) */
static int continues_search(int number)
{
	return number == ENOENT || number == ENOTDIR || number == EACCES || number == ENODEV ||
	       number == ESTALE || number == ETIMEDOUT;
}

/*
 * Execute the first file that can be executed. Of several failures, report that of the first file
 * that exists: it explains more than that of a missing file.
 */
static struct report execute_first(const struct request *request)
{
	struct report first = {EXECUTE, ENOENT, NULL};
	struct stat status;

	for (char **file = request->files; *file; file++) {
		struct report failure = execute_file(*file, request);
		if (!continues_search(failure.number))
			return failure;
		if (!first.file && lstat(*file, &status) == 0)
			first = failure;
	}
	return first;
}

/* The child's steps. Returns after a failure. */
static struct report run_steps(const struct request *request)
{
	if (enter_session(request))
		return (struct report){SET_UP_SESSION, errno, NULL};
	if (become_user(request))
		return (struct report){BECOME_USER, errno, NULL};
	if (chdir(request->cwd))
		return (struct report){ENTER_DIRECTORY, errno, NULL};
	umask(022);
	reset_signals();
	return execute_first(request);
}

/* noinline: needs a stack frame of its own, because the parent still uses that of start_child(). */
__attribute__((noinline, noreturn)) static void run_child(const struct request *request,
							  volatile struct report *report)
{
	*report = run_steps(request);
	_exit(125);
}

/*
 * vfork(2). Every signal is blocked meanwhile: a handler would run in the child, on the parent's
 * memory. The child unblocks them when it has set their default actions.
 */
static pid_t start_child(const struct request *request, volatile struct report *report)
{
	sigset_t all, mask;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	pid_t pid = vfork();
	if (pid == 0)
		run_child(request, report);
	int cause = errno;
	sigprocmask(SIG_SETMASK, &mask, NULL);
	errno = cause;
	return pid;
}

/* For "O&": a tuple of bytes objects as a list for execve(2), which the caller frees. */
static int convert_strings(PyObject *tuple, void *result)
{
	Py_ssize_t count = PyTuple_Size(tuple);

	if (count < 0)
		return 0;
	char **strings = *(char ***)result = PyMem_Calloc((size_t)count + 1, sizeof *strings);
	if (!strings)
		PyErr_NoMemory();
	for (Py_ssize_t at = 0; strings && at < count; at++)
		if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, at), &strings[at], NULL))
			return 0;
	return strings != NULL;
}

/* For "O&": a user's or a group's number. One that is too large becomes -1: EINVAL in setuid(2). */
static int convert_id(PyObject *number, void *result)
{
	unsigned long long id = PyLong_AsUnsignedLongLong(number);

	*(unsigned int *)result = id > UINT_MAX ? UINT_MAX : (unsigned int)id;
	return !PyErr_Occurred();
}

/* For "O&": None, or (user, group, supplementary groups); the caller frees `groups`. */
static int convert_user(PyObject *user, void *result)
{
	struct request *request = result;
	PyObject *groups;

	request->has_user = user != Py_None;
	if (!request->has_user)
		return 1;
	if (!PyArg_ParseTuple(user, "O&O&O!:spawn", convert_id, &request->uid, convert_id,
			      &request->gid, &PyTuple_Type, &groups))
		return 0;
	request->group_count = (size_t)PyTuple_Size(groups);
	request->groups = PyMem_Calloc(request->group_count, sizeof *request->groups);
	if (!request->groups)
		PyErr_NoMemory();
	for (size_t at = 0; request->groups && at < request->group_count; at++)
		if (!convert_id(PyTuple_GetItem(groups, (Py_ssize_t)at), &request->groups[at]))
			return 0;
	return request->groups != NULL;
}

static PyObject *start_program(const struct request *request)
{
	volatile struct report report = {0};

	if (!request->words[0] || !request->words[1])
		return PyErr_Format(PyExc_ValueError, "spawn: no arguments");
	pid_t pid = start_child(request, &report);
	if (pid < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	return Py_BuildValue("(iiiy)", (int)pid, (int)report.step, report.number, report.file);
}

static PyObject *sys_spawn(PyObject *module, PyObject *args)
{
	struct request request = {0};
	PyObject *result = NULL;

	if (PyArg_ParseTuple(args, "O&O&O&yO&(iii)i:spawn", convert_strings, &request.files,
			     convert_strings, &request.words, convert_strings, &request.variables,
			     &request.cwd, convert_user, &request, &request.fds[0], &request.fds[1],
			     &request.fds[2], &request.terminal))
		result = start_program(&request);
	PyMem_Free(request.files);
	PyMem_Free(request.words);
	PyMem_Free(request.variables);
	PyMem_Free(request.groups);
	return result;
}

static PyMethodDef functions[] = {
	{"mount", sys_mount, METH_VARARGS, NULL},
	{"umount", sys_umount, METH_VARARGS, NULL},
	{"finit_module", sys_finit_module, METH_VARARGS, NULL},
	{"reboot", sys_reboot, METH_VARARGS, NULL},
	{"filesystem_type", sys_filesystem_type, METH_VARARGS, NULL},
	{"reset_signals", sys_reset_signals, METH_NOARGS, NULL},
	{"block_signals", sys_block_signals, METH_NOARGS, NULL},
	{"signal_fd", sys_signal_fd, METH_NOARGS, NULL},
	{"populate_memory", sys_populate_memory, METH_NOARGS, NULL},
	{"poll", sys_poll, METH_VARARGS, NULL},
	{"set_terminal_size", sys_set_terminal_size, METH_VARARGS, NULL},
	{"set_terminal_utf8", sys_set_terminal_utf8, METH_VARARGS, NULL},
	{"interface_up", sys_interface_up, METH_VARARGS, NULL},
	{"set_hostname", sys_set_hostname, METH_VARARGS, NULL},
	{"add_entropy", sys_add_entropy, METH_VARARGS, NULL},
	{"continue_on_input", sys_continue_on_input, METH_VARARGS, NULL},
	{"limit_open_files", sys_limit_open_files, METH_VARARGS, NULL},
	{"spawn", sys_spawn, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};

#define CONSTANT(name) {#name, (long)(name)}
static const struct {
	const char *name;
	long value;
} constants[] = {
	CONSTANT(MS_RDONLY), CONSTANT(MS_NOSUID), CONSTANT(MS_NODEV), CONSTANT(MS_NOEXEC),
	CONSTANT(MS_REMOUNT), CONSTANT(MS_BIND), CONSTANT(MS_MOVE), CONSTANT(MS_PRIVATE),
	CONSTANT(MS_NOATIME), CONSTANT(MNT_DETACH),
	CONSTANT(UMOUNT_NOFOLLOW), CONSTANT(RB_POWER_OFF), CONSTANT(MODULE_INIT_COMPRESSED_FILE),
	CONSTANT(TMPFS_MAGIC), CONSTANT(RAMFS_MAGIC), CONSTANT(POLLIN), CONSTANT(POLLOUT),
	CONSTANT(POLLERR), CONSTANT(POLLHUP), CONSTANT(POLLNVAL), CONSTANT(SIGBUS),
	CONSTANT(SIGCHLD), CONSTANT(SIGCONT), CONSTANT(SIGFPE), CONSTANT(SIGHUP), CONSTANT(SIGILL),
	CONSTANT(SIGINT), CONSTANT(SIGKILL), CONSTANT(SIGPIPE), CONSTANT(SIGQUIT),
	CONSTANT(SIGSEGV), CONSTANT(SIGTERM), CONSTANT(SIGUSR1), CONSTANT(SIGUSR2),
};

static int add_constants(PyObject *module)
{
	for (size_t at = 0; at < sizeof constants / sizeof *constants; at++)
		if (PyModule_AddIntConstant(module, constants[at].name, constants[at].value))
			return -1;
	return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_constants}, {0, NULL}};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_syscalls",
	.m_methods = functions,
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__syscalls(void)
{
	return PyModuleDef_Init(&definition);
}
