"""Boot under QEMU's instruction counter, and read instruction counts from the kernel's log.

With `-icount shift=0,sleep=off` one guest instruction is one nanosecond of guest time, so that the
kernel's timestamps are instruction counts, the same in each run and independent of the host's load.
The guest needs no changes: the kernel prints each traced system call (`trace_event=`, `tp_printk`),
which costs about 10,000 instructions a line.

Sources: QEMU's docs/devel/tcg-icount.rst, the kernel's Documentation/trace/events.rst.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from initrd.host.image import cpio

QEMU = "qemu-system-x86_64"
MACHINE = ("-m", "512M", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio")
COUNTED = ("-accel", "tcg", "-icount", "shift=0,sleep=off")
CONSOLE = "console=ttyS0 panic=-1"
LINE = re.compile(r"^(?:<\d+>)?\[ *(\d+)\.(\d{6})\] (.*?)\r?$", re.MULTILINE)


class Event(NamedTuple):
    """One line of the kernel's log."""

    instructions: int  # since the kernel's clock started, exact to 1000
    text: str


def initramfs(init: bytes) -> bytes:
    """Return an image that holds only /init and the device node of the console."""
    console = cpio.device("dev/console", 0o020600, 5, 1)
    return cpio.pack([cpio.file("init", init, 0o755), console])


def boot(
    kernel: str, image: bytes, calls: Iterable[str], append: str = "", qemu_args: Iterable[str] = ()
) -> list[Event]:
    """Boot until power-off; return the kernel's log with the system calls named in `calls`.

    Raises subprocess.TimeoutExpired when the guest does not power off within two minutes, and
    subprocess.CalledProcessError when QEMU fails.
    """
    traced = ",".join(f"syscalls:sys_enter_{call}" for call in calls)
    cmdline = f"{CONSOLE} tp_printk trace_event={traced} {append}"
    with tempfile.NamedTemporaryFile() as file:
        file.write(image)
        file.flush()
        files = ("-kernel", kernel, "-initrd", file.name)
        done = subprocess.run(
            [QEMU, *MACHINE, *COUNTED, *qemu_args, "-append", cmdline, *files],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
    return list(parse(done.stdout.decode(errors="replace")))


def parse(log: str) -> Iterator[Event]:
    """Yield the lines of a kernel log that carry a timestamp."""
    for seconds, microseconds, text in LINE.findall(log):
        yield Event((int(seconds) * 1_000_000 + int(microseconds)) * 1000, text)
