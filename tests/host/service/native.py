"""A machine without QEMU: the guest's side as a process of this user, and its owner as a thread."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from initrd.command import Commands, dump
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.machine.run import HostStreams
from initrd.host.qemu.console import ConsoleLog, explain_oom_kill
from initrd.host.service.owner import About, Owner
from initrd.host.service.thread import OwnerThread
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, Loop

TOP_DIRECTORY = os.path.abspath(f"{__file__}/../../../..")


class NativeMachine:
    """The part of a RunningMachine that an owner uses."""

    def __init__(self, loop: Loop, process: subprocess.Popen[bytes]) -> None:
        self.loop, self.is_off, self.process = loop, False, process
        self.log, self.disk_error = ConsoleLog(), None
        self._pidfd = os.pidfd_open(process.pid)
        loop.watch(self._pidfd, READABLE, self._on_end)

    def _on_end(self, _: int) -> None:
        self.is_off = True
        self.loop.unwatch(self._pidfd)

    def wait(self, seconds: float) -> bool:
        return self.loop.run(lambda: self.is_off, seconds)

    def close(self) -> None:
        self.loop.unwatch(self._pidfd)
        os.close(self._pidfd)


class NativeSession:
    """The part of a CommandSession that an owner uses."""

    def __init__(self, machine: NativeMachine, guest: CommandProtocol) -> None:
        self.loop, self.machine, self.guest = machine.loop, machine, guest

    def explain_oom_kill(self, position: int) -> str:
        return explain_oom_kill(self.machine.log.text_after(position), 1 << 28)

    def find_error(self) -> HostError:
        return HostError("the machine has ended", "its process was killed")


@contextmanager
def start_guest(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Yield the process of the guest's side, and the socket to its port."""
    (folder / "command").write_bytes(dump(Commands()))
    host_end, guest_end = socket.socketpair()
    guest_end.setblocking(False)
    ports = json.dumps({"initrd.control": guest_end.fileno()})
    command = [sys.executable, "-m", "tests.guest.command.unprivileged_session", ports]
    process = subprocess.Popen(
        [*command, folder / "command"], cwd=TOP_DIRECTORY, pass_fds=[guest_end.fileno()]
    )
    guest_end.close()
    with process, host_end:
        try:
            yield process, host_end
        finally:
            process.kill()


def start_owner(folder: Path, about: About | None = None) -> tuple[OwnerThread, list[int]]:
    """Return the owner of a new machine, and the process ID of its guest."""
    pids: list[int] = []

    @contextmanager
    def own(loop: Loop, _: HostStreams) -> Iterator[Owner]:
        with start_guest(folder) as (process, port):
            pids.append(process.pid)
            guest = CommandProtocol(loop, {"initrd.control": port}, LocalStreams())
            assert loop.run(lambda: guest.has_frames, 30)
            with closing(NativeMachine(loop, process)) as machine:
                session = NativeSession(machine, guest)
                with closing(Owner(session, about or About("", "/", "6.1"))) as owner:  # type: ignore[arg-type]
                    yield owner

    return OwnerThread(own), pids
