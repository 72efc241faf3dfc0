"""Boots whose guest instructions are counted: from the kernel's first word to the target's mark.

The target is `target.c`, which says on the kernel's log that it runs. Root and shares come by
virtiofs, as they do for users. While the guest waits for virtiofsd it executes next to nothing, but
its clock jumps from one timer to the next; so the kernel logs each switch of tasks, and the time of
its idle task is subtracted. What is left are the instructions that were executed.
"""

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import icount
from initrd.host.image import modules
from initrd.host.image.build import build_image
from initrd.host.machine import locate
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams, start_machine
from initrd.host.qemu import arch
from initrd.host.qemu.argv import Hardware, Setup
from initrd.host.system.files import OpenFile
from initrd.host.system.loop import Loop
from initrd.host.virtiofsd.program import Virtiofsd, ask
from initrd.options import Share
from testbed import assets

INIT = "dist/init"
DEADLINE = 300.0  # seconds
CONSOLE = "console=ttyS0 panic=-1 quiet log_buf_len=16M"
TRACE = "tp_printk trace_event=sched:sched_switch,syscalls:sys_enter_execve"
IDLE = re.compile(r"sched_switch: .*?prev_pid=(\d+) .* next_pid=(\d+) ")
DIRECTORIES = ("dev", "proc", "run", "sys", "tmp")


@dataclass(frozen=True)
class Marks:
    """How many instructions had been executed when something happened."""

    init: int  # "Run /init"
    execve: int  # the last one: of the target
    target: int  # its first instruction

    @property
    def to_execve(self) -> int:
        """Return what the initramfs' program has cost."""
        return self.execve - self.init


@dataclass(frozen=True)
class Counted:
    """A boot to be measured."""

    kernel: str
    image: bytes
    cmdline: str
    root: str
    tags: tuple[str, ...] = ("root", "data")  # each is a share of the root directory
    extra: tuple[str, ...] = icount.COUNTED[2:]


def measure(boot: Counted) -> Marks:
    """Boot, and return what the log tells. Raises ValueError when the target has not run."""
    return marks(console(boot))


def marks(log: str) -> Marks:
    """Return what a log tells. Raises ValueError when the target has not run."""
    init = execve = 0
    for event in busy(icount.parse(log)):
        if event.text.startswith("Run /init"):
            init = event.instructions
        elif event.text.startswith("sys_execve("):
            execve = event.instructions
        elif event.text == "bench: target":
            return Marks(init, execve, event.instructions)
    raise ValueError(f"the target has not run; the end of the log:\n{log[-2000:]}")


def busy(events: Iterable[icount.Event]) -> Iterator[icount.Event]:
    """Yield the events with the time subtracted in which the processor had nothing to do."""
    idle = since = 0
    for event in events:
        switch = IDLE.match(event.text)
        if switch and switch[2] == "0":
            since = event.instructions
        elif switch and switch[1] == "0" and since:
            idle += event.instructions - since
        yield event._replace(instructions=event.instructions - idle)


def console(boot: Counted) -> str:
    """Boot, and return what the guest printed. Raises TimeoutError."""
    loop = Loop()
    with image_file(boot.image) as image:
        setup = Setup(
            program=icount.QEMU,
            hardware=Hardware(arch.find_arch("x86_64"), "tcg", memory=512 << 20, cpus=1),
            kernel=OpenFile(boot.kernel),
            initrd=OpenFile("", image),
            cmdline=f"{CONSOLE} {TRACE} {boot.cmdline}",
            shares=tuple(Share(tag, source=boot.root, writable=False) for tag in boot.tags),
            extra=boot.extra,
        )
        launch = Launch(setup, served_by(), boot.kernel)
        with start_machine(launch, loop, HostStreams()) as machine:
            if not machine.wait(DEADLINE):
                raise TimeoutError(f"no power-off; the log:\n{machine.log.text[-2000:]}")
            machine.ending()
            return machine.log.text


@functools.cache
def served_by() -> Virtiofsd:
    """Return the virtiofsd that chrootvm would use."""
    return ask(locate.find_virtiofsd("", os.environ))


@contextmanager
def image_file(image: bytes) -> Iterator[int]:
    """Return a descriptor of an image in memory."""
    descriptor = os.memfd_create("image")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(image)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def small_root() -> Iterator[str]:
    """Make a root directory that holds nothing but the target and where mounts move to."""
    with tempfile.TemporaryDirectory(prefix="bench-") as top:
        for name in DIRECTORIES:
            Path(top, name).mkdir()
        add_target(top)
        yield top


def add_target(root: str) -> None:
    """Put the target into a root directory."""
    options = ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-s")
    compile_program("target.c", f"{root}/target", options)


def floor(directory: str) -> str:
    """Return the path of the floor under /init, made in `directory`."""
    output = f"{directory}/floor"
    compile_program("floor.c", output, ("-Os", "-static", "-s"))
    return output


def compile_program(source: str, output: str, options: Iterable[str]) -> None:
    """Compile a program of this directory."""
    path = Path(__file__).parent / source
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *options, "-o", output, str(path)], check=True)


def image(init: str, kernel: assets.Kernel, *names: str) -> bytes:
    """Return the image with the program `init`, and these modules beyond virtiofs."""
    wanted = (*modules.ALWAYS, *(modules.module_requirement(name) for name in names))
    return build_image(Path(init).read_bytes(), modules.choose_modules(kernel.modules, wanted))
