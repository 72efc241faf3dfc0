"""A boot that runs commands for the host: from reading the image's command file to the power-off.

`Boot` creates the session before it mounts the root. So the session can report a boot that fails to
the host, and needs neither the initramfs nor /dev later. See `docs/command.md`.
"""

import posix as os

from initrd.command import (
    COMMANDS_FILE,
    TEMPLATE_HEADER,
    Command,
    CommandError,
    Commands,
    load,
)
from initrd.errors import reason
from initrd.guest._syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID
from initrd.guest.command.control import ControlPort, Messages
from initrd.guest.command.loop import Loop
from initrd.guest.command.ports import open_ports
from initrd.guest.command.processes import Processes
from initrd.guest.command.shutdown import unmount_all
from initrd.guest.command.spawn import (
    EXECUTE,
    SpawnError,
    SpawnRequest,
    exit_status_of,
    explain_spawn_error,
    find_shell,
)
from initrd.guest.command.streams import PortLink, Streams
from initrd.guest.command.supervise import Supervisor
from initrd.guest.command.users import UserError, build_environment, find_user, parse_hostname
from initrd.guest.failure import BootError, CommandRefused, describe_failure
from initrd.guest.steps import Mount
from initrd.options import COMMAND_FILE
from initrd.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from initrd.guest.command.jobs import JobServer
    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

CONTROL = "initrd.control"
_CGROUP = Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
_FAILURE_TIMEOUT = 10.0  # seconds to wait for the host's `bye` after a failure
_TIME_TIMEOUT = 0.1  # seconds to wait for the host's `time`, which some hosts do not send


class Session:
    """The connection to the host, and the command to run for it, or several commands."""

    def __init__(self, kernel: "Kernel", log: "Log", timeout: float) -> None:
        """Open the control port, waiting up to `timeout` seconds for it. Raises BootError."""
        self._kernel, self._log, self._timeout = kernel, log, timeout
        self._prepared: tuple[Command, Streams] | None = None  # None: several commands
        self._server: JobServer | None = None
        self._ready_at: float | None = None  # monotonic; None: the clock has been set before
        _open_standard_descriptors()
        self._ports = open_ports((CONTROL,), timeout, kernel)
        self._control = ControlPort(self._ports[CONTROL])

    def prepare(self) -> "str | None":
        """Read the command, open its ports, mount cgroup2, bring up lo. Raises BootError.

        In a template, wait for the command first. Returns the kernel command line that came with
        the command; None if the command was in the image.
        """
        data = self._kernel.read_bytes(COMMAND_FILE)
        self._kernel.unlink(COMMAND_FILE)  # the command's environment may contain secrets
        self._try_optional(_CGROUP.describe(), lambda: _CGROUP.apply(self._kernel))
        self._try_optional("bring up lo", lambda: self._kernel.interface_up("lo"))
        if data.startswith(TEMPLATE_HEADER):
            cmdline: str | None = self._wait_for_start(data)
        else:
            cmdline = None
            if data != COMMANDS_FILE:
                self._prepare_command(_parse(data))
        if cmdline is None:  # a machine of a template has set its clock
            self._ready_at = self._kernel.monotonic()
        self._control.send("ready")
        return cmdline

    def _wait_for_start(self, data: bytes) -> str:
        """Be a template until a machine starts from it; return its kernel command line."""
        from initrd.guest.command.resume import wait_for_start  # noqa: PLC0415 - in templates only
        from initrd.template import PORTS  # noqa: PLC0415 - in templates only

        _import_server()
        self._open_ports(PORTS[1:])
        # Most commands have no terminal: their streams can be made before the machine is saved.
        link = PortLink(self._ports)
        streams = Streams(Command((b"",)), link, self._control)
        start = wait_for_start(data, self._ports[CONTROL], self._kernel)
        command = start.command
        if isinstance(command, Commands):
            streams.discard()
        elif command.tty:
            streams.discard()
            self._prepared = command, Streams(command, link, self._control)
        else:
            self._prepared = command, streams
        return start.cmdline

    def _prepare_command(self, command: Command) -> None:
        self._open_ports(tuple(name for name in command.ports if name != CONTROL))
        self._prepared = command, Streams(command, PortLink(self._ports), self._control)

    def _open_ports(self, names: "tuple[str, ...]") -> None:
        self._ports |= open_ports(names, self._timeout, self._kernel)

    def run(self, processes: "Processes | None" = None) -> "NoReturn":
        """Run what the host wants, report its end, and power off. Raises BootError."""
        self._try_optional("set the host name", self._set_host_name)
        if self._prepared:
            self._run_command(*self._prepared, processes or Processes())
        else:
            self._serve(processes or Processes())
        self._kernel.power_off()
        raise BootError("cannot power off", "reboot(2) has returned")

    def _run_command(self, command: Command, streams: Streams, processes: Processes) -> None:
        if self._ready_at is not None:
            self._set_clock(self._ready_at)
        request = self._make_request(command, streams)
        message = self._supervise(Supervisor(self._control, streams, processes), request)
        unmount_all(self._kernel, self._log)
        self._send_last(message)

    def _serve(self, processes: Processes) -> None:
        """Run several commands. From the message `frames` on, the control port has frames only."""
        from initrd.frames import VERSION  # noqa: PLC0415 - not for a single command

        server_type = _import_server()
        self._control.send(f"frames {VERSION}")
        self._run_loop(lambda: self._control.is_sent or self._control.disconnected)
        fd = self._ports[CONTROL]
        self._server = server_type(fd, processes, self._make_request, self._report_spawn_error)
        self._server.set_clock = self._write_clock
        self._server.serve()
        unmount_all(self._kernel, self._log)
        self._server.finish("stopped")

    def fail(self, error: Exception) -> None:
        """Report an error to the host in place of a status. Raises nothing."""
        word = "refused" if isinstance(error, CommandRefused) else "failed"
        try:
            if self._server:
                self._server.finish(word, describe_failure(error))
            else:
                self._send_last(word, describe_failure(error), _FAILURE_TIMEOUT)
        except Exception as send_error:  # any error: the reason is already on the console
            self._log.warn(f"cannot tell the host: {type(send_error).__name__}: {send_error}")

    def _make_request(self, command: Command, streams: Streams) -> SpawnRequest:
        """Look up the command's user in the root's /etc. Raises CommandRefused."""
        passwd, group = self._read_accounts("/etc/passwd"), self._read_accounts("/etc/group")
        try:
            user = find_user(command.user, passwd, group)
        except UserError as error:
            name = decode(command.user)
            raise CommandRefused(f"cannot run the command as {name}", str(error)) from error
        streams.chown_to(user)
        argv, program = command.argv, b""
        if not argv:  # a login shell: login(1) starts it in the same way
            program = find_shell(user.shell)
            argv = (b"-" + program.rpartition(b"/")[2],)
            user = user.replace(shell=program)
        environ = build_environment(command.environ, user, terminal=bool(command.tty))
        return SpawnRequest(
            argv,
            environ,
            command.cwd,
            user,
            tuple(streams.child_ends),
            streams.terminal,
            program,
        )

    def _supervise(self, supervisor: Supervisor, request: SpawnRequest) -> str:
        """Return the message that reports the command's status. Raises BootError."""
        try:
            return supervisor.run(request)
        except SpawnError as failure:
            message = self._report_spawn_error(failure, request, self._control)
            supervisor.finish()
            return message

    def _report_spawn_error(
        self, failure: SpawnError, request: SpawnRequest, control: Messages
    ) -> str:
        """Return the message with the status of a command that cannot be executed.

        Raises BootError for a command that cannot be started for another reason.
        """
        if failure.step != EXECUTE:
            error_type = CommandRefused if failure.is_refusal() else BootError
            action = f"cannot {failure.step} {decode(failure.path)}"
            raise error_type(action, os.strerror(failure.number)) from failure
        control.send("warning", explain_spawn_error(failure, request))
        return f"exit {exit_status_of(failure)}"

    def _set_clock(self, ready_at: float) -> None:
        """Set the clock to the time with which the host has answered `ready`.

        The clock that the kernel has read at its start is wrong by up to a second.
        """
        times: list[int] = []
        self._control.on_time = times.append
        self._run_loop(lambda: bool(times) or self._control.disconnected, 0)
        age = self._kernel.monotonic() - ready_at
        if not times:
            self._run_loop(lambda: bool(times) or self._control.disconnected, _TIME_TIMEOUT)
            age = 0.0  # it has just come
        if times:
            self._write_clock(times[0] + int(age * 1e6))

    def _write_clock(self, microseconds: int) -> None:
        self._try_optional("set the clock", lambda: self._kernel.set_realtime(microseconds))

    def _set_host_name(self) -> None:
        self._kernel.set_hostname(parse_hostname(self._read_optional("/etc/hostname")))

    def _send_last(self, message: str, text: str = "", timeout: "float | None" = None) -> None:
        """Send the last message; wait until the host sends `bye` or disconnects."""
        self._control.send(message, text)
        self._run_loop(self._control.is_finished, timeout)

    def _run_loop(self, until: "Callable[[], bool]", timeout: "float | None" = None) -> None:
        loop = Loop()
        loop.handlers.append(self._control)
        loop.run(until, timeout)

    def _read_optional(self, path: str) -> bytes:
        """Return the content of a file; nothing if it does not exist."""
        try:
            return self._kernel.read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):  # includes dangling symbolic links
            return b""

    def _read_accounts(self, path: str) -> bytes:
        """Return the content of a file with users or groups; nothing if it does not exist.

        Raises CommandRefused: anything may be in its place, such as a directory.
        """
        try:
            return self._read_optional(path)
        except OSError as error:
            raise CommandRefused(f"cannot read {path} of the root", reason(error)) from error

    def _try_optional(self, description: str, action: "Callable[[], None]") -> None:
        """Do `action`, which most commands do not need; warn if it fails."""
        try:
            action()
        except OSError as error:
            self._log.warn(f"cannot {description}: {reason(error)}; going on without it")


def _import_server() -> "type[JobServer]":
    """Import what runs several commands; in a template before it is saved, for all its machines."""
    from initrd.guest.command.jobs import JobServer  # noqa: PLC0415 - not for a single command

    return JobServer


def _parse(data: bytes) -> Command:
    try:
        return load(data)
    except CommandError as error:
        raise BootError(f"cannot understand the command in {COMMAND_FILE}", str(error)) from error


def _open_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 if they are closed, so that no port gets these numbers.

    They are closed when the kernel had no console to open for PID 1.
    """
    fd = os.open("/dev/null", os.O_RDWR)
    while fd <= 2:
        fd = os.open("/dev/null", os.O_RDWR)
    os.close(fd)
