"""Start a command: descriptors, terminal, user and signals of the child process.

The child of vfork(2) runs in its parent's memory, so these tests also compare the parent's state.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.guest import _syscalls
from initrd.guest.command.spawn import EXECUTE
from initrd.guest.command.users import User
from tests.guest.command.test_spawn import PATH, expect_spawn_error, run, write_program

# Opens files with the names 0, 1, 2 and 5 as descriptors of these numbers, close-on-exec. Starts a
# shell, which has a subshell write the names of the files that the shell has open.
OVERLAP_PROGRAM = """
import os, sys
from initrd.guest.command.spawn import SpawnRequest, spawn
folder, *numbers = sys.argv[1:]
for fd in (0, 1, 2, 5):
    os.dup2(os.open(f"{folder}/{fd}", os.O_RDWR | os.O_CREAT), fd, inheritable=False)
script = b'(readlink /proc/$$/fd/* >"$0"); :'
argv = (b"sh", b"-c", script, os.fsencode(folder) + b"/links")
request = SpawnRequest(argv, dict(os.environb), b"/", None, tuple(map(int, numbers)))
os._exit(os.waitstatus_to_exitcode(os.waitpid(spawn(request), 0)[1]))
"""
FAILURES = [
    pytest.param({"descriptors": (0, 1, 999)}, "set up the session of", errno.EBADF, id="stream"),
    pytest.param({"descriptors": (0, -1, 2)}, "set up the session of", errno.EBADF, id="no stream"),
    pytest.param({"terminal": 999}, "set up the session of", errno.EBADF, id="terminal"),
    pytest.param({"user": User(1 << 40, 0)}, "become user", None, id="user"),
    pytest.param({"user": User(0, 1 << 40)}, "become user", None, id="group"),
    pytest.param({"user": User(0, 0, (1 << 40,))}, "become user", None, id="groups"),
    pytest.param({"cwd": b"/nowhere"}, "enter the directory", errno.ENOENT, id="directory"),
    pytest.param({"environ": {b"PATH": b"/"}}, EXECUTE, errno.ENOENT, id="execute"),
]


@pytest.fixture(autouse=True)
def _unusual_state() -> Iterator[None]:
    """Give this process a umask, a signal mask and signal actions that no child has to inherit."""
    umask = os.umask(0o077)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGUSR1, signal.SIGTERM))
    actions = {
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, lambda _number, _frame: None),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    }
    yield
    for number, action in actions.items():
        signal.signal(number, action)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.umask(umask)


def read_status(pid: str, *names: str) -> list[str]:
    """Return lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.split(":")[0] in names]


def describe_process() -> dict[str, object]:
    """Return what a child in this process's memory could change by mistake."""
    fds = Path("/proc/self/fd")
    return {
        "status": read_status("thread-self", "Umask", "Uid", "Gid", "Groups"),
        "signals": read_status("thread-self", "SigBlk", "SigIgn", "SigCgt"),
        "cwd": os.getcwd(),
        "session": (os.getsid(0), os.getpgid(0)),
        "descriptors": {file.name: os.readlink(file) for file in fds.iterdir() if file.exists()},
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }


def test_parent_is_unchanged_after_a_command(tmp_path: Path) -> None:
    before = describe_process()
    assert run(b"pwd", cwd=bytes(tmp_path)) == (0, bytes(tmp_path) + b"\n")
    assert describe_process() == before


@pytest.mark.parametrize(("changes", "step", "number"), FAILURES)
def test_failed_step_is_reported_and_leaves_the_parent_unchanged(
    changes: dict[str, object], step: str, number: int | None
) -> None:
    before = describe_process()
    error, _ = expect_spawn_error(b"true", **changes)
    assert describe_process() == before
    assert error.step == step
    # Without privileges, setgroups(2) fails before it checks its arguments.
    assert error.number == (number or (errno.EPERM if os.geteuid() else errno.EINVAL))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"descriptors": (0, 1, 999)}, b"true"),
        ({"user": User(1 << 40, 0)}, b"1099511627776"),
        ({"cwd": b"/nowhere"}, b"/nowhere"),
        ({"environ": {b"PATH": b"/"}}, b"true"),
    ],
)
def test_failed_step_is_reported_with_its_subject(changes: dict[str, object], path: bytes) -> None:
    assert expect_spawn_error(b"true", **changes)[0].path == path


def test_failed_execution_is_reported_with_the_file(tmp_path: Path) -> None:
    file = write_program(tmp_path / "tool", "", 0o644)
    assert expect_spawn_error(file)[0].path == file


def test_terminal_that_is_none_is_reported() -> None:
    with open(os.devnull, "rb") as file:
        error, _ = expect_spawn_error(b"true", terminal=file.fileno())
    assert (error.step, error.number) == ("set up the session of", errno.ENOTTY)


def test_terminal_becomes_the_controlling_terminal_of_a_new_session() -> None:
    master, slave = os.openpty()
    script = b'read -r stat </proc/$$/stat; set -- $stat; echo "$1 $6 $7" >/dev/tty; echo "$$"'
    _, output = run(b"sh", b"-c", script, terminal=slave)
    device = os.fstat(slave).st_rdev
    pid = int(output)
    assert os.read(master, 100).split() == [b"%d" % number for number in (pid, pid, device)]
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    "descriptors",
    [
        *("0 1 2", "2 1 0", "1 2 0", "2 0 1", "1 0 2"),
        *("0 0 0", "2 2 2", "1 1 0", "5 0 1", "0 5 1", "1 2 5"),
    ],
)
def test_descriptors_may_overlap(descriptors: str, tmp_path: Path) -> None:
    numbers = descriptors.split()
    command = [sys.executable, "-c", OVERLAP_PROGRAM, str(tmp_path), *numbers]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    links = (tmp_path / "links").read_text().splitlines()
    assert links == [str(tmp_path / number) for number in numbers]


def test_command_starts_with_default_signals_and_umask() -> None:
    status = run(b"cat", b"/proc/self/status")[1].decode().splitlines()
    assert "Umask:\t0022" in status
    masks = dict(line.split(":\t") for line in status if line[:6] in ("SigBlk", "SigIgn", "SigCgt"))
    assert masks == dict.fromkeys(("SigBlk", "SigIgn", "SigCgt"), f"{0:016x}")


def test_command_has_its_user_and_groups_or_does_not_start() -> None:
    user, script = User(12, 34, (34, 56)), b"id -u; id -g; id -G"
    if os.geteuid():
        error, _ = expect_spawn_error(b"sh", b"-c", script, user=user)
        assert (error.step, error.number, error.path) == ("become user", errno.EPERM, b"12")
    else:
        assert run(b"sh", b"-c", script, user=user) == (0, b"12\n34\n34 56\n")


def start_with_shell(shell: bytes, *files: bytes, argv: tuple[bytes, ...]) -> tuple[object, ...]:
    """Start the first of `files` with another shell; return step, errno, file, exit status."""
    variables = (b"PATH=" + PATH,)
    pid, *failure = _syscalls.spawn(files, (shell, *argv), variables, b"/", None, (0, 1, 2), -1)
    return (*failure, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def test_child_that_cannot_copy_a_descriptor_is_reported() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, "rb") as file:  # has the lowest number that was free
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 1, limits[1]))
        try:
            failure = start_with_shell(b"/bin/sh", b"/bin/true", argv=(b"true",))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert failure == (0, errno.EMFILE, None, 125)


def test_missing_shell_is_reported_for_a_text_file(tmp_path: Path) -> None:
    file = write_program(tmp_path / "tool", "exit 3\n")
    failure = start_with_shell(b"/no/shell", file, argv=(b"tool",))
    assert failure == (3, errno.ENOENT, b"/no/shell", 125)


def test_file_after_a_text_file_without_a_shell_gets_its_own_name(tmp_path: Path) -> None:
    text = write_program(tmp_path / "text", "exit 3\n")
    argv = (b"own name", b"-c", b'test "$0" = "own name" && exit 7')
    assert start_with_shell(b"/no/shell", text, b"/bin/sh", argv=argv) == (0, 0, None, 7)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({0: (b"a\0b",)}, ValueError),
        ({0: ("text",)}, TypeError),
        ({1: (b"/bin/sh",)}, ValueError),
        ({1: ()}, ValueError),
        ({1: (b"/bin/sh", b"a\0b")}, ValueError),
        ({2: (b"A=1", b"\0")}, ValueError),
        ({3: b"/\0"}, ValueError),
        ({4: (-1, 0, ())}, OverflowError),
        ({4: (0, 0, (0, "x"))}, TypeError),
        ({4: (0, 0)}, TypeError),
        ({5: (0, 1)}, TypeError),
    ],
    ids=str,
)
def test_invalid_arguments_start_no_process(
    changes: dict[int, object], error: type[Exception]
) -> None:
    valid = ((b"/bin/true",), (b"/bin/sh", b"true"), (), b"/", None, (0, 1, 2), -1)
    before = describe_process()
    with pytest.raises(error):
        _syscalls.spawn(*(changes.get(at, value) for at, value in enumerate(valid)))  # type: ignore[arg-type]
    assert describe_process() == before


def test_signals_of_libc_that_are_ignored_are_reset() -> None:
    script = (
        "import sys, os, struct, ctypes\n"
        "action = struct.pack('PLPL', 1, 0, 0, 0)  # SIG_IGN\n"
        "call = {'x86_64': 13}.get(os.uname().machine, 134)\n"
        "assert ctypes.CDLL(None).syscall(call, 32, action, None, 8) == 0\n"
        "from initrd.guest import _syscalls\n"
        "files, argv = (b'/bin/cat',), (b'cat', b'/proc/self/status')\n"
        "pid = _syscalls.spawn(files, (b'/bin/sh', *argv), (), b'/', None, (0, 1, 2), -1)[0]\n"
        "os.waitpid(pid, 0)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"SigIgn:\t{0:016x}" in done.stdout
