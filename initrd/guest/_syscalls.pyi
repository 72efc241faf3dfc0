"""System calls that PID 1 needs and `os` lacks, written in C: `initrd/freeze/_syscalls.c`.

Every failure raises OSError with errno, and with the path where there is one. Paths and other text
are encoded as file names are (surrogateescape); bytes are taken as they are.
"""

MS_RDONLY: int
MS_NOSUID: int
MS_NODEV: int
MS_NOEXEC: int
MS_REMOUNT: int
MS_BIND: int
MS_MOVE: int
MS_PRIVATE: int
MS_NOATIME: int
MNT_DETACH: int
UMOUNT_NOFOLLOW: int
RB_POWER_OFF: int
MODULE_INIT_COMPRESSED_FILE: int
TMPFS_MAGIC: int
RAMFS_MAGIC: int
POLLIN: int
POLLOUT: int
POLLERR: int
POLLHUP: int
POLLNVAL: int
SIGBUS: int
SIGCHLD: int
SIGCONT: int
SIGFPE: int
SIGHUP: int
SIGILL: int
SIGINT: int
SIGKILL: int
SIGPIPE: int
SIGQUIT: int
SIGSEGV: int
SIGTERM: int
SIGUSR1: int
SIGUSR2: int

def mount(
    source: str | bytes, target: str | bytes, fstype: str | bytes, flags: int, data: str | bytes, /
) -> None:
    """mount(2). Empty `data` means none."""

def umount(target: str | bytes, flags: int, /) -> None:
    """umount2(2)."""

def finit_module(fd: int, params: str | bytes, flags: int, /) -> None:
    """finit_module(2): load the kernel module that is open as `fd`."""

def reboot(command: int, /) -> None:
    """reboot(2) with an `RB_` value. Nothing is synced."""

def filesystem_type(fd: int, /) -> int:
    """Return the `f_type` of fstatfs(2): one of the `_MAGIC` numbers, or another."""

def reset_signals() -> None:
    """Give every signal its default action, empty the mask: as the kernel starts a program."""

def block_signals() -> None:
    """Block every signal: `signal_fd` reads them."""

def signal_fd() -> int:
    """Return a descriptor (close-on-exec, non-blocking) that reads blocked signals, signalfd(2).

    One read returns 128 bytes a signal; the first four are its number in native byte order.
    """

def populate_memory() -> None:
    """Put all pages of this process into its page tables: mlockall(2), munlockall(2)."""

def poll(files: list[tuple[int, int]], milliseconds: int, /) -> list[tuple[int, int]]:
    """poll(2): wait for `(fd, events)`, at most 64; return those that are ready. -1: no limit."""

def set_terminal_size(fd: int, rows: int, columns: int, /) -> None:
    """Set a terminal's size (TIOCSWINSZ of ioctl_tty(2))."""

def set_terminal_utf8(fd: int, /) -> None:
    """Let a terminal erase whole characters of UTF-8 (IUTF8 of termios(3))."""

def interface_up(name: str, /) -> None:
    """Bring a network interface up (netdevice(7)). OSError's filename is the interface."""

def set_hostname(name: str, /) -> None:
    """sethostname(2)."""

def add_entropy(fd: int, seed: bytes, /) -> None:
    """Mix `seed` (at most 512 bytes) into the kernel's random numbers, and use it at once.

    `fd`: /dev/random, open. RNDADDENTROPY and RNDRESEEDCRNG of random(4).
    """

def continue_on_input(pid: int, fd: int, /) -> None:
    """Have the kernel send SIGCONT to a process when its descriptor has something to read.

    pidfd_getfd(2), from Linux 5.6 on; F_SETSIG of fcntl(2).
    """

def limit_open_files(count: int, /) -> None:
    """Set both limits of open files of this process: RLIMIT_NOFILE of setrlimit(2)."""

def spawn(
    files: tuple[bytes, ...],
    words: tuple[bytes, ...],
    environ: tuple[bytes, ...],
    cwd: bytes,
    user: tuple[int, int, tuple[int, ...]] | None,
    descriptors: tuple[int, ...],
    terminal: int,
    /,
) -> tuple[int, int, int, bytes | None]:
    """Start a program by vfork(2); return its process ID, and how the child has failed.

    The child becomes the leader of a session, with the descriptor `terminal` as its controlling
    terminal unless that is negative. The three `descriptors` become 0, 1 and 2. `user` is the user,
    the group and the supplementary groups; None: those of the caller. The umask is 022, and all
    signals have their default actions.

    The child executes the first of `files` that can be executed, with the arguments `words[1:]` and
    the variables `environ`, each `NAME=VALUE`. For a text file without `#!` it executes `words[0]`,
    the shell, with the file as an argument. The search ends as that of execvp(3).

    A failure is the index of the step (session, user, directory, execute), its errno, which is 0
    if there is no failure, and the file that could not be executed, if there is such a file. The
    caller has to wait for the child in any case: waitpid(2). Raises OSError of vfork(2).
    """
