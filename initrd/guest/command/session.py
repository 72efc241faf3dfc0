"""A boot that runs a command for the host: what it adds to the boot, from the image to power-off.

`Boot` opens it before the root is mounted, so that a boot that fails can be told to the host, and
so that nothing is needed of the initramfs or of /dev afterwards. See `docs/command.md`.
"""

import posix as os

from initrd.command import Command, CommandError, load
from initrd.guest._syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID
from initrd.guest.command.control import ControlPort
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
)
from initrd.guest.command.streams import Streams
from initrd.guest.command.supervise import Supervisor
from initrd.guest.command.users import UserError, environment, find_user, host_name
from initrd.guest.failure import BootError, CommandRefused, describe_failure, reason
from initrd.guest.steps import Mount
from initrd.options import COMMAND_FILE
from initrd.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

CONTROL = "initrd.control"
_CGROUP = Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
_NOTING_SECONDS = 10.0  # how long the host may take to note a failure


class Session:
    """The host, and the command that it wants to be run."""

    def __init__(self, kernel: "Kernel", log: "Log", timeout: float) -> None:
        """Open the line to the host. Raises BootError."""
        self._kernel, self._log, self._timeout = kernel, log, timeout
        self._task: tuple[Command, Streams] | None = None
        _occupy_standard_descriptors()
        self._host = ControlPort(open_ports((CONTROL,), timeout, kernel)[CONTROL])

    def prepare(self) -> None:
        """Do all that needs the initramfs, and what a command expects of a machine."""
        command = self._read_command()
        names = tuple(name for name in command.ports if name != CONTROL)
        ports = open_ports(names, self._timeout, self._kernel)
        self._task = command, Streams(command, ports, self._host)
        self._try(_CGROUP.describe(), lambda: _CGROUP.apply(self._kernel))
        self._try("bring up lo", lambda: self._kernel.interface_up("lo"))
        self._host.send("ready")

    def run(self, processes: "Processes | None" = None) -> "NoReturn":
        """Run the command as a child, report how it ended, and power off. Raises BootError."""
        if self._task is None:
            raise BootError("cannot run the command", "there is none")
        command, streams = self._task
        self._try("set the host name", self._set_host_name)
        what = self._launch(command, streams)
        supervisor = Supervisor(self._host, streams, processes or Processes())
        message = self._supervise(supervisor, what)
        unmount_all(self._kernel, self._log)
        self._tell(message)
        self._kernel.power_off()
        raise BootError("cannot power off", "reboot(2) has returned")

    def fail(self, error: Exception) -> None:
        """Tell the host why there will be no status. Raises nothing: this is the last resort."""
        word = "refused" if isinstance(error, CommandRefused) else "failed"
        try:
            self._tell(word, describe_failure(error), _NOTING_SECONDS)
        except Exception as silenced:  # whatever it is, the console has told the reason
            self._log.warn(f"cannot tell the host: {type(silenced).__name__}: {silenced}")

    def _read_command(self) -> Command:
        data = self._kernel.read_bytes(COMMAND_FILE)
        self._kernel.unlink(COMMAND_FILE)  # its environment may hold secrets
        try:
            return load(data)
        except CommandError as error:
            raise BootError(
                f"cannot understand the command in {COMMAND_FILE}", str(error)
            ) from error

    def _launch(self, command: Command, streams: Streams) -> SpawnRequest:
        """Look up in the root's own files whom the command runs as."""
        passwd, group = self._read_if_there("/etc/passwd"), self._read_if_there("/etc/group")
        try:
            user = find_user(command.user, passwd, group)
        except UserError as error:
            name = decode(command.user)
            raise CommandRefused(f"cannot run the command as {name}", str(error)) from error
        streams.chown_to(user)
        environ = environment(command.environ, user, terminal=bool(command.tty))
        return SpawnRequest(
            command.argv, environ, command.cwd, user, streams.child_ends, terminal=streams.terminal
        )

    def _supervise(self, supervisor: Supervisor, what: SpawnRequest) -> str:
        """Return the message that reports how the command ended."""
        try:
            return supervisor.run(what)
        except SpawnError as failure:
            if failure.step != EXECUTE:
                kind = CommandRefused if failure.is_refusal() else BootError
                what_failed = f"cannot {failure.step} {decode(failure.path)}"
                raise kind(what_failed, os.strerror(failure.number)) from failure
            self._host.send("warning", explain_spawn_error(failure, what))
            supervisor.finish()
            return f"exit {exit_status_of(failure)}"

    def _set_host_name(self) -> None:
        self._kernel.set_hostname(host_name(self._read_if_there("/etc/hostname")))

    def _tell(self, message: str, text: str = "", seconds: "float | None" = None) -> None:
        """Send the last message, and wait until the host has everything, or is gone."""
        self._host.send(message, text)
        loop = Loop()
        loop.watchers.append(self._host)
        loop.run(self._host.finished, seconds)

    def _read_if_there(self, path: str) -> bytes:
        try:
            return self._kernel.read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):  # a link that leads nowhere, too
            return b""

    def _try(self, what: str, action: "Callable[[], None]") -> None:
        """Do what a command can do without."""
        try:
            action()
        except OSError as error:
            self._log.warn(f"cannot {what}: {reason(error)}; going on without it")


def _occupy_standard_descriptors() -> None:
    """Fill 0, 1 and 2 where the kernel had no console to open: no port may become one of them."""
    fd = os.open("/dev/null", os.O_RDWR)
    while fd <= 2:
        fd = os.open("/dev/null", os.O_RDWR)
    os.close(fd)
