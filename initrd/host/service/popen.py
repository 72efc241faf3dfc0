"""A command in a running machine, used as `subprocess.Popen` is."""

import errno
import os
import signal
import socket
import time
from collections import deque
from contextlib import ExitStack, closing
from subprocess import DEVNULL, PIPE, TimeoutExpired
from threading import Event, Thread
from typing import IO, TYPE_CHECKING, Any

from initrd.command import Command
from initrd.host.command.capture import descriptor
from initrd.host.command.protocol import LocalStreams
from initrd.host.service.client import AttachedSession, attach
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, Loop
from initrd.host.system.printable import printable
from initrd.host.system.stream import Sink, open_source
from initrd.text import parse_natural

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from initrd.host.command.capture import File

_NOT_EXECUTED = {127: errno.ENOENT, 126: errno.EACCES}  # exit status: error of execve(2)


class Popen:
    """A command that runs. Its pipes have to be read and closed, as those of a child process.

    As with a child process, output may be left to read when its status is known. `stdin`, `stdout`
    and `stderr` are files if PIPE was given for them, else None. With a terminal, what is typed is
    written to `stdin`, and all output is read from `stdout`.
    """

    def __init__(  # noqa: PLR0913 - the parameters of subprocess.Popen
        self,
        connection: socket.socket,
        command: Command,
        *,
        stdin: "File",
        stdout: "File",
        stderr: "File",
        text: bool,
    ) -> None:
        """Start a command in the machine of the owner that `connection` leads to; close that.

        Raises FileNotFoundError or PermissionError if it cannot be executed, and HostError.
        """
        self.args = tuple(map(os.fsdecode, command.argv))
        self.returncode: int | None = None
        self._writer: Thread | None = None  # of `communicate`
        self._readers: list[_Reader] = []
        with ExitStack() as stack:  # closed by the thread
            stack.enter_context(closing(connection))
            pipes = _Pipes(stack, text=text)
            self.stdin = pipes.open_input(stdin)
            self.stdout = pipes.open_output("stdout", stdout)
            self.stderr = None if command.tty else pipes.open_output("stderr", stderr)
            # The thread has no reference to this object: the files of one that is dropped are
            # closed, which ends a command that writes to them, and the thread.
            self._running = _Running(command, connection, pipes, stack)
        self._running.start()
        self._running.started.wait()
        self._raise_start_error()

    def poll(self) -> int | None:
        """Return the exit status, -N after signal N; None while the command runs."""
        return self._finish() if self._running.ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command; return its status.

        Raises TimeoutExpired, and HostError when there is no status.
        """
        if not self._running.ended.wait(timeout):
            raise TimeoutExpired(self.args, timeout or 0)
        return self._finish()

    def communicate(
        self, input: "str | bytes | None" = None, timeout: float | None = None
    ) -> "tuple[Any, Any]":
        """Write `input` to the standard input, close it, and return all of the output.

        The first and the second item are None where PIPE was not given. Raises TimeoutExpired; a
        further call then waits again, without a new `input`, and loses no output.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._writer is None:
            self._writer = Thread(target=_write_all, args=(self.stdin, input), daemon=True)
            self._writer.start()
            self._readers = [_Reader(file) for file in (self.stdout, self.stderr)]
        readers = self._readers
        for thread in (self._writer, *readers):
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return readers[0].content, readers[1].content

    def send_signal(self, number: int) -> None:
        """Send a signal to the command."""
        self._running.do(lambda session: session.guest.send(f"signal {int(number)}"))

    def terminate(self) -> None:
        """Send SIGTERM to the command."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the command."""
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the command's terminal."""
        self._running.do(lambda session: session.guest.send(f"resize {rows} {columns}"))

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files, hang up the terminal, and wait for the end of the command."""
        for file in (self.stdin, self.stdout, self.stderr):
            if file:
                _close(file)
        if self._running.command.tty:
            self._running.do(lambda session: session.guest.hang_up())
        self.wait()

    def _finish(self) -> int:
        self.returncode = self._running.returncode
        if self._running.error:
            raise self._running.error
        if self.returncode is None:
            raise HostError("the command has no status", "its thread has ended")
        return self.returncode

    def _raise_start_error(self) -> None:
        if not self._running.ended.is_set():
            return
        status, warnings = self._finish(), self._running.warnings
        if warnings and status in _NOT_EXECUTED:
            raise OSError(_NOT_EXECUTED[status], printable(warnings[-1]))


class _Running(Thread):
    """The command: its messages and its streams, on the descriptors of `pipes`."""

    def __init__(
        self, command: Command, connection: socket.socket, pipes: "_Pipes", stack: ExitStack
    ) -> None:
        """Run a command in the machine of the owner; close `stack` at its end."""
        super().__init__(daemon=True)
        self.command = command
        self.returncode: int | None = None
        self.error: BaseException | None = None
        self.warnings: list[str] = []
        self.started, self.ended = Event(), Event()  # the process of the command
        self._connection, self._pipes = connection, pipes
        self._actions: deque[Callable[[AttachedSession], object]] = deque()
        # What is written to it makes the thread look for actions.
        self._wake_reader, self._wake_writer = socket.socketpair()
        stack.enter_context(closing(self._wake_reader))
        stack.enter_context(closing(self._wake_writer))
        stack.callback(self.started.set)
        stack.callback(self.ended.set)  # called before the one above
        self._stack = stack.pop_all()

    def do(self, action: "Callable[[AttachedSession], object]") -> None:
        """Let the thread do `action`, if the command has not ended."""
        self._actions.append(action)
        try:
            self._wake_writer.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # it has ended; or it will look in any case
            pass

    def run(self) -> None:
        """Run the command to its end."""
        with self._stack:
            try:
                self.returncode = self._run_command()
            except BaseException as error:
                self.error = error

    def _run_command(self) -> int:
        loop = Loop()
        with ExitStack() as stack:
            enter = stack.enter_context
            stdin, *outputs = self._pipes.descriptors
            sinks = [enter(closing(Sink(number))) for number in outputs]
            out, err = (*sinks, None)[:2]
            source = enter(open_source(stdin))
            on_warning = self.warnings.append
            local = LocalStreams(source, out, err, hangs_up=False, on_warning=on_warning)
            session = enter(attach(self._connection, self.command, local, loop))

            def on_wakeup(_: int) -> None:
                self._wake_reader.recv(64)
                while self._actions:
                    self._actions.popleft()(session)

            def on_start() -> None:
                guest.start_input()
                self.started.set()

            def has_ended() -> bool:
                return bool(guest.process_status) and all(map(guest.is_complete, to_files))

            guest = session.guest
            guest.on_start = on_start
            to_files = [] if self.command.tty else self._pipes.to_files
            loop.watch(self._wake_reader.fileno(), READABLE, on_wakeup)
            session.wait(has_ended)
            if has_ended():
                self.returncode = _returncode(guest.process_status)
                self.ended.set()
            session.wait(lambda: False)
            session.status(on_warning)
            return _returncode(" ".join(guest.final or ()))


def _returncode(message: str) -> int:
    """Return the status of `exit N`, or -N of `signal N`. Raises HostError."""
    word, _, text = message.partition(" ")
    number = parse_natural(text)
    if number is None or word not in ("exit", "signal"):
        raise HostError("cannot understand the guest", f"{message[:40]!r} is no status")
    return -number if word == "signal" else number


class _Pipes:
    """The descriptors of a command's streams, and the files of their other ends."""

    def __init__(self, stack: ExitStack, *, text: bool) -> None:
        """Close the descriptors with `stack`, but not the files."""
        self._stack, self._text = stack, text
        self.descriptors: list[int] = []
        self.to_files: list[str] = []  # output streams that go to a file of the caller

    def open_input(self, given: "File") -> IO[Any] | None:
        """Open the standard input; return the file to write to for PIPE."""
        if given != PIPE:
            self._add(given, os.O_RDONLY)
            return None
        reader, writer = os.pipe()
        self._own(reader)
        return self._open(writer, "w")

    def open_output(self, name: str, given: "File") -> IO[Any] | None:
        """Open an output stream; return the file to read from for PIPE."""
        if given != PIPE:
            self.to_files.append(name)
            self._add(given, os.O_WRONLY)
            return None
        reader, writer = os.pipe()
        self._own(writer)
        return self._open(reader, "r")

    def _add(self, given: "File", mode: int) -> None:
        if given is None or given == DEVNULL:
            self._own(os.open(os.devnull, mode))
        else:
            self._own(os.dup(descriptor(given)))

    def _own(self, number: int) -> None:
        self._stack.callback(os.close, number)
        self.descriptors.append(number)

    def _open(self, number: int, mode: str) -> IO[Any]:
        if self._text:
            return open(number, mode, encoding="utf-8", errors="surrogateescape")
        return open(number, f"{mode}b")


class _Reader(Thread):
    """Reads a file to its end."""

    def __init__(self, file: IO[Any] | None) -> None:
        super().__init__(daemon=True)
        self._file, self.content = file, None
        self.start()

    def run(self) -> None:
        """Read."""
        if self._file:
            with self._file:
                self.content = self._file.read()


def _write_all(file: IO[Any] | None, data: "str | bytes | None") -> None:
    if not file:
        return
    try:
        with file:
            if data:
                file.write(data)
    except BrokenPipeError:  # the command does not read it
        pass


def _close(file: IO[Any]) -> None:
    try:
        file.close()
    except BrokenPipeError:
        pass
