"""Starts the one program that runs beside the target: the one that serves a root in user space.

The only fork(2) of `/init`, and only for `initrd.union=`.
"""

import os

from initrd.guest import _syscalls

_FUSE = os.makedev(10, 229)  # /dev/fuse
_NOT_STARTED = 127  # exit status, as of a shell


def start_daemon(root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str) -> int:
    """Run a program of the directory `root` in it, and return its pid. It is a child of ours.

    Its path is `argv[0]` after the `@`. What it says goes to the file `log` in `root`. Raises
    OSError when there can be no process; a program that cannot be executed exits with status 127.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(root, argv, environ, log)
    except OSError as error:
        os.write(2, f"cannot be executed: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _become(root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str) -> None:
    os.setsid()  # no signal of the target's terminal is meant for it
    # The kernel must not choose it when memory is short: everything else would hang.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-1000")
    os.chroot(root)
    os.chdir("/")
    os.umask(0)  # the modes it gets from the kernel are those that it has to give
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    _syscalls.reset_signals()
    os.execve(argv[0].removeprefix(b"@"), argv, environ)  # noqa: S606 - no shell is the point


def keep_serving(pid: int) -> None:
    """Let the kernel continue the daemon `pid` whenever it is stopped and its tree is asked for.

    Who shuts a system down stops all processes before it kills most of them, and what it looks at
    meanwhile is in the tree of a daemon that is stopped too: systemd would wait for ever. Raises
    OSError.
    """
    for number in map(int, os.listdir(f"/proc/{pid}/fd")):
        if os.stat(f"/proc/{pid}/fd/{number}").st_rdev == _FUSE:
            _syscalls.continue_on_input(pid, number)
