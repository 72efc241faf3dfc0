"""Count the guest instructions before the kernel's entry point, for both ways to start a kernel.

    python3 -m bench.cold_start

QEMU's default firmware starts the image, which decompresses itself. qboot starts the uncompressed
kernel by its PVH entry point. Both ways lead to the entry point in the ELF header of the
uncompressed kernel, where the GDB stub of QEMU stops the guest. QEMU tells the number of executed
instructions while it records an execution. The kernel gets `nokaslr`, or else its entry point would
be at a random address; the choice of that address takes some 3 M instructions more.

The uncompressed kernel is some four times as large as the image. The time that QEMU takes to load
each of them is measured, too: it does not depend on the accelerator. KVM itself is not run. The
estimate for it assumes a processor that executes RATE instructions a second.

Sources: QEMU's docs/system/gdb.rst and docs/system/replay.rst, GDB's manual ("Remote Protocol"),
the kernel's Documentation/arch/x86/boot.rst.
"""

import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import boots, icount
from bench.figure import MEGA, Figure
from bench.wall_clock import SUITES
from initrd.host.machine import locate
from initrd.host.qemu import argv
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Connections, Hardware, Setup, fd_stream
from initrd.host.qemu.pvh import PvhKernel, find_pvh_kernel
from initrd.host.system.cached import Cache
from initrd.host.system.files import OpenFile
from testbed import assets

HARDWARE = Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1)
CODE32_START = 0x100000  # QEMU loads the code of an image here; its setup code jumps to it
ELF_ENTRY = 24  # offset of e_entry in a 64-bit ELF file
TIMEOUT = 120.0  # seconds without an answer of QEMU
STARTS = 5  # of QEMU with each kernel, for the time that it takes to load the kernel
RATE = 6e9  # instructions per second: 3 GHz, two instructions in each cycle
MILLI = 1e-3
PACKET = re.compile(rb"\$(.*?)#[0-9a-f]{2}", re.DOTALL)  # of the GDB stub
RESPONSE = re.compile(rb'^(\{"(?:return|error)".*)\n', re.MULTILINE)  # of QMP, not an event


def run_to(gdb: socket.socket, address: int) -> None:
    """Let the guest run until it reaches this address. Raises ValueError, TimeoutError."""
    requests = {f"Z0,{address:x},1": "OK", "c": "T05", f"z0,{address:x},1": "OK"}
    for request, expected in requests.items():
        gdb.sendall(packet(request))
        reply = receive(gdb, PACKET)
        gdb.sendall(b"+")
        if not reply.startswith(expected):
            raise ValueError(f"the GDB stub of QEMU replies {reply!r} to {request}")


def packet(request: str) -> bytes:
    """Return a request to a GDB stub as it is sent, with its checksum."""
    data = request.encode()
    return b"$%s#%02x" % (data, sum(data) % 256)


def execute(qmp: socket.socket, command: str) -> dict[str, int]:
    """Return what a command of QEMU's monitor returns. Raises ValueError, TimeoutError."""
    qmp.sendall(json.dumps({"execute": command}).encode())
    reply = json.loads(receive(qmp, RESPONSE))
    if "error" in reply:
        raise ValueError(f"QEMU does not execute {command}: {reply}")
    returned: dict[str, int] = reply["return"]
    return returned


def receive(connection: socket.socket, pattern: re.Pattern[bytes]) -> str:
    """Return the group of the pattern in the next data that it matches; skip what is before it."""
    received = b""
    while not (found := pattern.search(received)):
        data = connection.recv(4096)
        if not data:
            raise ValueError("QEMU has ended")
        received += data
    return found[1].decode()


@contextmanager
def stopped_machine(setup: Setup) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Start QEMU with a guest that is stopped before its first instruction.

    Yields the connections to its GDB stub and to its monitor.
    """
    with ExitStack() as stack:
        ends = [end for _ in range(2) for end in socket.socketpair()]
        for end in ends:
            stack.enter_context(closing(end)).settimeout(TIMEOUT)
        gdb, qemu_gdb, qmp, qemu_qmp = ends
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        streams = Connections(console="null", monitor=fd_stream(qemu_qmp.fileno()))
        command = [
            *argv.command(setup, streams),
            *("-S", "-icount", f"shift=0,rr=record,rrfile={folder}/record"),
            *("-chardev", f"{fd_stream(qemu_gdb.fileno())},id=gdb", "-gdb", "chardev:gdb"),
        ]
        inherited = (*setup.descriptors, qemu_gdb.fileno(), qemu_qmp.fileno())
        process = stack.enter_context(subprocess.Popen(command, pass_fds=inherited))
        stack.callback(process.kill)
        for end in (qemu_gdb, qemu_qmp):  # so that the end of QEMU is the end of the connections
            end.close()
        execute(qmp, "qmp_capabilities")
        yield gdb, qmp


def count(setup: Setup, *addresses: int) -> list[int]:
    """Return how many instructions are executed before each of these addresses is reached."""
    counts = []
    with stopped_machine(setup) as (gdb, qmp):
        for address in addresses:
            run_to(gdb, address)
            counts.append(execute(qmp, "query-replay")["icount"])
    return counts


def loading_time(setup: Setup) -> float:
    """Return the seconds from the start of QEMU until the guest could run."""
    begin = time.perf_counter()
    with stopped_machine(setup):
        return time.perf_counter() - begin


@dataclass(frozen=True)
class ColdStart:
    """Both ways to start one kernel."""

    image: Setup
    uncompressed: Setup
    entry: int  # address of the kernel's entry point

    def counts(self) -> tuple[int, int, int]:
        """Return the instructions to the code of the image, to its end, and by the PVH entry."""
        code, entry = count(self.image, CODE32_START, self.entry)
        (pvh,) = count(self.uncompressed, self.entry)
        return code, entry, pvh

    def additional_loading_time(self, runs: int) -> float:
        """Return the median time in seconds that the uncompressed kernel costs QEMU."""
        return median(
            loading_time(self.uncompressed) - loading_time(self.image) for _ in range(runs)
        )


@contextmanager
def cold_start(image: str) -> Iterator[ColdStart]:
    """Prepare both ways to start the kernel in this image, with /init alone as initramfs."""
    program = locate.find_program(icount.QEMU, os.environ, "")
    with Cache(locate.cache_directory(os.environ)) as cache, open(image, "rb") as file:
        kernel = find_pvh_kernel(HARDWARE, OpenFile(image, file.fileno()), program, cache)
    if not kernel:
        raise ValueError(f"{image} has no kernel with a PVH entry point")
    with boots.image_file(icount.initramfs(Path(boots.INIT).read_bytes())) as initrd:
        setup = Setup(
            program=program,
            hardware=HARDWARE,
            kernel=OpenFile(image),
            initrd=OpenFile("", initrd),
            cmdline=f"{icount.CONSOLE} nokaslr",
        )
        uncompressed = setup.replace(kernel=kernel.file, firmware=kernel.firmware)
        try:
            yield ColdStart(setup, uncompressed, read_entry(kernel))
        finally:
            os.close(kernel.file.descriptor)


def read_entry(kernel: PvhKernel) -> int:
    """Return the physical address of an uncompressed kernel's entry point."""
    (entry,) = struct.unpack("<Q", os.pread(kernel.file.descriptor, 8, ELF_ENTRY))
    return int(entry)


def figures(runs: int = STARTS) -> list[Figure]:
    """Measure with the kernels of both Debian releases."""
    return [
        figure
        for suite, name in SUITES.items()
        for figure in kernel_figures(name, assets.kernel(suite).image, runs)
    ]


def kernel_figures(name: str, image: str, runs: int) -> list[Figure]:
    """Measure with one kernel; the last figure is the lower estimate of the time saved with KVM."""
    with cold_start(image) as start:
        code, entry, pvh = start.counts()
        added = start.additional_loading_time(runs)
    saved = (entry - pvh) / RATE - added
    return [
        Figure(f"{name}: default firmware and setup code", code / MEGA, "M"),
        Figure(f"{name}: decompression by the image itself", (entry - code) / MEGA, "M"),
        Figure(f"{name}: qboot and the PVH entry, in place of both", pvh / MEGA, "M"),
        Figure(f"{name}: added to QEMU's loading time", added / MILLI, "ms"),
        Figure(f"{name}: estimate of the time saved with KVM", saved / MILLI, "ms"),
    ]


def main() -> None:
    """Measure and print."""
    for figure in figures():
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
