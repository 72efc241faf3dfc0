"""Run the guest's side of a command as an ordinary process, for tests that do not run as PID 1.

    python -m tests.guest.command.unprivileged_session '{"initrd.control": 5, …}' COMMAND_FILE

Processes, pipes and terminals are real. The kernel object is a fake that records calls, and only
descendants of this process get signals.
"""

import ctypes
import gc
import json
import os
import signal
import sys
from pathlib import Path

from initrd.guest.command.processes import Processes
from initrd.guest.command.session import Session
from initrd.guest.command.spawn import SpawnRequest, spawn
from initrd.guest.log import Log
from initrd.options import COMMAND_FILE
from tests.fake_kernel import FakeKernel

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # include/uapi/linux/prctl.h


class OwnProcesses(Processes):
    """Starts commands as the user of this process, and stops only descendants of this process."""

    def start(self, request: SpawnRequest) -> int:
        return spawn(request.replace(user=None))

    def signal_others(self, number: int) -> None:
        for pid in list_descendants(os.getpid()):
            self.signal(pid, number)


class HostKernel(FakeKernel):
    """Has the given descriptors as ports; a power-off ends this process."""

    def __init__(self, ports: dict[str, int], command: bytes) -> None:
        names = {f"/sys/class/virtio-ports/port{fd}/name": name for name, fd in ports.items()}
        super().__init__(files={**names, COMMAND_FILE: os.fsdecode(command)})
        self.ports = {f"/dev/port{fd}": fd for fd in ports.values()}

    def power_off(self) -> None:
        os._exit(0)


def list_descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # the process has just ended
        return []
    for child in children.split():
        found += [int(child), *list_descendants(int(child))]
    return found


def main() -> None:
    for fd in range(3, 256):
        if os.path.exists(f"/proc/self/fd/{fd}"):
            os.set_inheritable(fd, False)
    gc.disable()  # as initrd/freeze/python.c does
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    kernel = HostKernel(json.loads(sys.argv[1]), Path(sys.argv[2]).read_bytes())
    session = Session(kernel, Log(kernel), timeout=1)  # type: ignore[arg-type]
    try:
        session.prepare()
        session.run(OwnProcesses())
    except Exception as error:
        session.fail(str(error))
        os._exit(1)


main()
