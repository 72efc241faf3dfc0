"""Start machines from a template with the test's own sockets as ports, in a thread."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import Queue

from initrd import options
from initrd.command import Command
from initrd.host import vm
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams, RunningMachine
from initrd.host.qemu.argv import Disk
from initrd.host.system.loop import Loop
from initrd.host.template.warm import start_warm
from initrd.template import PORTS, SEED_SIZE, Start, dump_start
from testbed import assets
from tests.boot.machine import Boot, Share


@dataclass(frozen=True)
class CommandMachine:
    """A machine for a command."""

    cmdline: str  # what /init reads of the kernel command line
    shares: tuple[Share, ...]  # the root first
    disks: tuple[str, ...]  # paths of raw images
    suite: str  # of the kernel
    ports: tuple[str, ...]  # without `initrd.`
    modules: tuple[str, ...]  # besides those that every command needs
    memory: str


class WarmMachine:
    """A running machine of a template. A thread runs its loop."""

    def __init__(self, launch: Launch, ports: tuple[int, ...]) -> None:
        """`ports`: descriptors, in the order of PORTS; the machine closes them."""
        self._launch, self._ports = launch, ports
        self._stopped = threading.Event()
        self._outcome: Queue[BaseException | None] = Queue()
        self._console = bytearray()
        self._machine: RunningMachine | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Start the machine. Raises HostError."""
        self._thread.start()
        error = self._outcome.get()
        if error:
            raise error

    def wait_for_virtiofsd(self) -> None:
        """Wait until the guest may use its devices, which it has found."""
        assert self._machine
        self._machine.wait_for_virtiofsd()

    def wait(self) -> Boot:
        """Wait for the machine to power off."""
        error = self._outcome.get()
        if error:
            raise error
        return Boot(self.console_so_far(), "", 0, 0.0)

    def stop(self) -> None:
        """End the machine."""
        self._stopped.set()
        self._thread.join()

    def console_so_far(self) -> str:
        """Return what the guest has printed."""
        return self._console.decode(errors="replace").replace("\r", "")

    def console_printed(self, data: bytes) -> None:
        """Handle console output, as a BootObserver."""
        self._console += data

    def phase_started(self, name: str) -> None:
        """Ignore the phases of the start."""

    def _run(self) -> None:
        try:
            self._run_machine()
        except BaseException as error:
            self._outcome.put(error)
        else:
            self._outcome.put(None)

    def _run_machine(self) -> None:
        streams = HostStreams(ports=self._ports, observer=self)
        with start_warm(self._launch, Loop(), streams) as machine:
            for number in self._ports:
                if number >= 0:
                    os.close(number)
            self._machine = machine
            self._outcome.put(None)
            self._wait(machine)

    def _wait(self, machine: RunningMachine) -> None:
        while not self._stopped.is_set() and not machine.wait(0.05):
            pass
        if machine.is_off:
            machine.ending()  # reads the rest of the console's output


@contextmanager
def running_warm(
    command: Command, plan: CommandMachine
) -> Iterator[tuple[WarmMachine, dict[str, socket.socket], bytes]]:
    """Start a machine from a template; yield it, its ports, and what to send on the control port.

    The machine ends with the `with` statement.
    """
    with ExitStack() as stack:
        launch = _plan_launch(plan)
        for descriptor in launch.setup.descriptors:
            stack.callback(os.close, descriptor)
        pairs = {name: socket.socketpair() for name in plan.ports}
        sockets = {name: stack.enter_context(host_end) for name, (host_end, _) in pairs.items()}
        of_qemu = {f"initrd.{name}": end.detach() for name, (_, end) in pairs.items()}
        machine = WarmMachine(launch, tuple(of_qemu.get(name, -1) for name in PORTS))
        stack.callback(machine.stop)
        machine.start()
        yield machine, sockets, dump_start(Start(plan.cmdline, command, os.urandom(SEED_SIZE)))


def _plan_launch(plan: CommandMachine) -> Launch:
    kernel = assets.kernel(plan.suite)
    words = ["--warm", f"--kernel={kernel.image}", f"--modules={kernel.modules}"]
    words += [f"--memory={plan.memory}", *(f"--module={name}" for name in plan.modules)]
    launch = vm.plan_command(plan.shares[0].path, ["true"], words)
    further = (options.Share(share.tag, source=share.path) for share in plan.shares[1:])
    shares = (*launch.setup.shares, *further)
    disks = tuple(map(Disk, plan.disks))
    setup = launch.setup.replace(ports=PORTS, shares=shares, disks=disks)
    return launch.replace(setup=setup)
