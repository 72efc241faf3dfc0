"""Run a command in a machine and return its output: no terminal, no signal handlers."""

import os
from contextlib import ExitStack, closing, contextmanager
from subprocess import DEVNULL, PIPE

from initrd.host.command.protocol import LocalStreams
from initrd.host.system.loop import Cancelled, Limit, Loop
from initrd.host.system.stream import Sink, open_source
from initrd.host.system.terminal import MessageWriter, format_message
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Protocol

    from initrd.host.command.protocol import CommandProtocol

    class HasDescriptor(Protocol):
        """A file, or a socket."""

        def fileno(self) -> int:
            """Return its descriptor."""

    File = int | HasDescriptor | None

    class Session(Protocol):
        """A command that runs in a machine: `CommandSession` or `AttachedSession`."""

        @property
        def loop(self) -> Loop:
            """The loop of the command."""

        @property
        def ended_by_escape(self) -> str:
            """What the escape key of a terminal ends."""

        @property
        def guest(self) -> CommandProtocol:
            """The messages and streams of the command."""

        def wait(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
            """Wait for the end of the command; return False when `seconds` pass before."""

        def status(self, warn: Callable[[str], object]) -> int:
            """Return the exit status. Raises HostError."""

        def kill(self) -> None:
            """End the command, which has run for too long."""

    OpenSession = Callable[[LocalStreams, Loop, Limit], AbstractContextManager[Session]]

CAPTURED = -1  # in the place of a descriptor: the output is returned


class Outcome(Record):
    """How a command ended, and its captured output."""

    status: int | None  # None: it did not end in time
    stdout: bytes
    stderr: bytes


def capture_command(
    open_session: "OpenSession", stdin: int, stdout: int, stderr: int, limit: Limit
) -> Outcome:
    """Run the command of a session with these descriptors, or CAPTURED. Raises HostError."""
    loop = Loop()
    printed = {"stdout": bytearray(), "stderr": bytearray()}
    with ExitStack() as stack:
        enter = stack.enter_context
        out, err = (
            None if number == CAPTURED else enter(closing(Sink(number)))
            for number in (stdout, stderr)
        )

        def on_output(name: str, data: bytes) -> None:
            if (err if name == "stderr" else out) is None:
                printed[name] += data

        messages = enter(closing(MessageWriter(loop, stderr)))

        def on_warning(text: str) -> None:
            if err is None:
                on_output("stderr", format_message(text))
            else:
                messages.print_message(text)

        local = LocalStreams(enter(open_source(stdin)), out, err, on_output, on_warning)
        try:
            session = enter(open_session(local, loop, limit))
        except Cancelled:
            return Outcome(None, b"", b"")
        session.guest.on_start = session.guest.start_input
        in_time = session.wait(lambda: False, limit.remaining())
        status = session.status(on_warning) if in_time else None
        if not in_time:
            session.kill()
    return Outcome(status, bytes(printed["stdout"]), bytes(printed["stderr"]))


@contextmanager
def open_input(file: "File", data: bytes) -> "Iterator[int]":
    """Yield a descriptor for standard input: that of `file`, or without a file one with `data`."""
    if file is not None and file != DEVNULL:
        yield descriptor(file)
        return
    memory = os.memfd_create("input")
    with open(memory, "wb", buffering=0) as writer:
        for start in range(0, len(data), 1 << 30):  # the most that one write(2) takes is below 2 GB
            writer.write(data[start : start + (1 << 30)])
        writer.seek(0)
        yield memory


@contextmanager
def open_output(file: "File") -> "Iterator[int]":
    """Yield a descriptor for an output stream; CAPTURED when the output is to be returned."""
    if file is None or file == PIPE:
        yield CAPTURED
    elif file == DEVNULL:
        with open(os.devnull, "wb") as null:
            yield null.fileno()
    else:
        yield descriptor(file)


def descriptor(file: "int | HasDescriptor") -> int:
    """Return the descriptor of a file. Raises ValueError for other numbers, as STDOUT."""
    number = file if isinstance(file, int) else file.fileno()
    if number < 0:
        raise ValueError(f"{file} is no file; give one, a descriptor, PIPE or DEVNULL")
    return number
