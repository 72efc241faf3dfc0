"""Start the FUSE daemon that serves the root file system with `initrd.union=`.

This is the only fork(2) of `/init` in a boot without a command.
"""

import os

from initrd.guest import _syscalls

_FUSE = os.makedev(10, 229)  # /dev/fuse
_EXEC_FAILED = 127  # the exit status of a shell for a command that is not found


def start_daemon(root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str) -> int:
    """Run a program as a child process with the root directory `root`, and return its pid.

    The path of the program in `root` is `argv[0]` without its `@`; its output is appended to the
    file `log` in `root`. Raises OSError when fork(2) fails. The child exits with status 127 when
    the program cannot be executed.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        _execute(root, argv, environ, log)
    except OSError as error:
        os.write(2, f"cannot be executed: {error.strerror}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _execute(root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str) -> None:
    os.setsid()  # the daemon gets no signals from the target's terminal
    # Exempt from the OOM killer: every process that uses `/` would hang without the daemon.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-1000")
    _raise_file_limit()
    os.chroot(root)
    os.chdir("/")
    os.umask(0)  # the kernel has applied the umask of the process that creates a file
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _syscalls.reset_signals()
    os.execve(argv[0].removeprefix(b"@"), argv, environ)  # noqa: S606 - no shell is the point


def _raise_file_limit() -> None:
    """Let this process open as many files as the kernel allows to any process: fs.nr_open.

    The daemon has a file open for each that is open below `/`, of all processes, and the limit that
    the kernel gives to PID 1 is 1024. The target keeps that limit. Sources: proc(5), setrlimit(2).
    """
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        _syscalls.limit_open_files(int(file.read()))


def keep_serving(pid: int) -> None:
    """Have the kernel send SIGCONT to the daemon `pid` at each request on /dev/fuse.

    At shutdown, systemd stops all processes before it kills them, the daemon too. It would then
    wait for ever for files that the daemon serves. Raises OSError.
    """
    for number in map(int, os.listdir(f"/proc/{pid}/fd")):
        if os.stat(f"/proc/{pid}/fd/{number}").st_rdev == _FUSE:
            _syscalls.continue_on_input(pid, number)
