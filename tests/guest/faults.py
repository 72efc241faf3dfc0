"""Boots in which one call fails, for each call and several errors: `python -m tests.guest.faults`.

A boot of each kind runs on a fake kernel as often as it has calls, and another one of them fails
each time. Either the boot ends with a message that names the path of that call, or it goes on.
"""

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from initrd import frames
from initrd.command import Command, Commands, dump
from initrd.guest.network.configure import NetworkSetup
from initrd.init import Boot
from initrd.options import COMMAND_FILE
from initrd.record import Record
from tests.fake_kernel import BootEnded, EndingKernel, FakeKernel, FaultyKernel
from tests.fake_processes import FakeProcesses
from tests.fake_roots_kernel import LayerKernel, device, ext
from tests.guest.network.test_configure import FakeStack
from tests.guest.network.test_interfaces import interface

ERRORS = (errno.EIO, errno.ENOMEM, errno.EACCES, errno.ENOSPC, errno.EBUSY, errno.EROFS)
_PORTS = ("control", "stdin", "stdout", "stderr")
_MERGED = "/run/initramfs/union/run/merged"
_PROGRAM = stat.S_IFREG | 0o755
_MOUNT_POINTS = ("run", "dev", "proc", "sys", "tmp")


class BootKernel(EndingKernel, LayerKernel):
    """A fake kernel with a usual root at /sysroot and at /rom, whose boot ends with BootEnded."""

    def __init__(self, cmdline: str, **kwargs: Any) -> None:
        roots = (f"{root}/{name}" for root in ("/sysroot", "/rom") for name in _MOUNT_POINTS)
        files = {
            "/proc/cmdline": cmdline,
            "/proc/filesystems": "nodev\toverlay\nnodev\tfuse\n",
            "/proc/sys/kernel/osrelease": "6.1\n",
            "/proc/self/mountinfo": f"1 2 0:3 / {_MERGED} rw - fuse x rw\n",
            "/sys/bus/pci/drivers/virtio-pci/bind": "",
            "/sys/bus/virtio/drivers/virtio_console/bind": "",
            "/usr/lib/modules/1.ko": "",
            **kwargs.pop("files", {}),
        }
        directories = (*roots, "/lib/modules/6.1", *kwargs.pop("directories", ()))
        modes = {f"{_MERGED}/bin/sh": _PROGRAM, "/rom/usr/bin/unionfs": _PROGRAM}
        super().__init__(files=files, directories=directories, modes=modes, **kwargs)
        self.has_ended = False

    def write_file(self, path: str, text: str) -> None:
        super().write_file(path, text)
        self.files[path] = text


class FakeBoot(Boot):
    """A boot with fake processes and a fake network."""

    def configure_network(self) -> None:
        if self.interfaces:
            stack = FakeStack()
            stack.kernel = self.kernel  # type: ignore[assignment]
            setup = NetworkSetup(self.options.timeout, self.kernel, self.log, stack)  # type: ignore[arg-type]
            self.resolver = setup.configure(self.interfaces)

    def run_command(self) -> None:
        if self.session:
            with FakeProcesses() as processes:
                self.session.run(processes)


class Case(Record):
    """A kind of boot: the kernel command line, and what the machine has."""

    cmdline: str
    command: Command | Commands | None = None
    sent: bytes = b"bye\n"  # by the host, before the boot
    disks: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()


_TABLE = (440, (0x12345678).to_bytes(4, "little")), (510, b"\x55\xaa")  # of partitions
_DISKS = {"vda": device(*_TABLE), "vda1": ext(), "vdb": ext(label=b"data"), "vdc": ext()}
_USER = f"{os.getuid()}:{os.getgid()}".encode()
_TRUE = Command((b"true",), user=_USER)
_RUN = frames.encode_frame(frames.channel_of(1, "control"), frames.RUN, dump(_TRUE))
_STOP = frames.encode_frame(frames.channel_of(0, "control"), frames.DATA, b"stop\nbye\n")
_BUNDLE = tuple(f"/c/{name}" for name in ("rootfs", "lower", "tmp"))

CASES = {
    "virtiofs": Case("mount=a mount=b:/srv"),
    "modules": Case("initrd.modules=m,n init=/bin/true"),
    "disk": Case("root=LABEL=data rootfstype=ext4 rw", disks=("vda", "vdb", "vdc")),
    "partition": Case("root=PARTUUID=12345678-01", disks=("vda", "vda1")),
    "tmpfs": Case("root=tmpfs"),
    "overlay in memory": Case("overlay_root=ram initrd.overlay_size=64m"),
    "overlay on a disk": Case("root=/dev/vdc overlay_root=vdb", disks=("vdb", "vdc")),
    "FUSE union": Case("overlay_root=ram initrd.union=unionfs-fuse"),
    "bundle": Case("initrd.bundle=/c", directories=_BUNDLE),
    "bundle without layers": Case("initrd.bundle=/c", directories=_BUNDLE[:1]),
    "network by DHCP": Case("ip=dhcp", files=tuple(interface("eth0").items())),
    "network, with a file": Case(
        "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off:10.0.2.3",
        files=(*interface("eth0").items(), ("/etc/resolv.conf", "")),
    ),
    "command": Case("quiet", command=_TRUE),
    "several commands": Case("quiet", command=Commands(), sent=_RUN + _STOP),
}


class Outcome(Record):
    """How a boot has ended."""

    kernel: FaultyKernel
    output: str
    last: str  # the call that ended it


def run_case(case: Case, fail_at: int = -1, error: int = errno.EIO) -> Outcome:
    """Boot; the call with the index `fail_at` fails."""
    files = dict(case.files)
    with ExitStack() as stack:
        stack.callback(_close_others, _descriptors())
        fake = BootKernel(
            case.cmdline,
            files=files,
            directories=case.directories,
            disks={name: _DISKS[name] for name in case.disks},
            partitions={name: "vda" for name in case.disks if name == "vda1"},
        )
        if case.command:
            fake.files[COMMAND_FILE] = os.fsdecode(dump(case.command))
            _add_ports(fake, case.sent, stack)
        kernel = FaultyKernel(fake, fail_at, error)
        try:
            FakeBoot(kernel, []).run()  # type: ignore[arg-type]
        except (BootEnded, SystemExit):
            pass
        return Outcome(kernel, fake.output, fake.calls[-1][0])


def _descriptors() -> set[int]:
    return set(map(int, os.listdir("/proc/self/fd")))


def _close_others(kept: set[int]) -> None:
    """Close what a boot that has failed has left open, as the power-off does."""
    for descriptor in _descriptors() - kept:
        with suppress(OSError):  # it was the one of the list itself
            os.close(descriptor)


def _add_ports(kernel: FakeKernel, sent: bytes, stack: ExitStack) -> None:
    """Connect the ports of a command to a host that has sent all that it has to say."""
    for at, name in enumerate(_PORTS):
        host, guest = (stack.enter_context(end) for end in socket.socketpair())
        guest.setblocking(False)
        host.sendall(sent if name == "control" else b"")
        host.shutdown(socket.SHUT_WR)
        kernel.files[f"/sys/class/virtio-ports/vport0p{at}/name"] = f"initrd.{name}\n"
        kernel.ports[f"/dev/vport0p{at}"] = guest.fileno()


def find_problem(outcome: Outcome, normal: Outcome, error: int) -> str:
    """Return what is wrong with the end of a boot in which a call has failed; empty for nothing."""
    output = outcome.output
    if "Traceback" in output:
        return "it prints a traceback"
    if "boot failed" not in output:
        return "" if outcome.last == normal.last else "it ends without a reason"
    if error == errno.EIO and os.strerror(error) not in output:
        return "it does not print the error"
    unnamed = [path for path in outcome.kernel.path if path not in output]
    return f"it does not name {unnamed[0]}" if unnamed else ""


def fail_each_call(case: Case, error: int, on_problem: Callable[[str], object]) -> int:
    """Run a boot with each of its calls failing in turn; return their number."""
    normal = run_case(case)
    assert "boot failed" not in normal.output, normal.output
    for number in range(normal.kernel.count):
        outcome = run_case(case, number, error)
        problem = find_problem(outcome, normal, error)
        if problem:
            on_problem(f"{outcome.kernel.failed}: {problem}: {outcome.output}")
    return normal.kernel.count


def main() -> int:
    """Run all boots; print a line for each kind, and return the exit status."""
    problems: list[str] = []
    total = 0
    print("| boot | kernel command line | faults |\n| --- | --- | --- |")
    for name, case in CASES.items():
        count = sum(fail_each_call(case, error, problems.append) for error in ERRORS)
        print(f"| {name} | `{case.cmdline}` | {count:,} |", flush=True)
        total += count
    print(f"| all | {len(problems)} neither named nor survived | {total:,} |")
    print("\n".join(problems), file=sys.stderr)
    return min(len(problems), 1)


if __name__ == "__main__":
    sys.exit(main())
