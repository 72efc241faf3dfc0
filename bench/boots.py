"""Count the guest instructions of a boot, from the kernel's entry point to the target.

The target is `target.c`, which writes to the kernel's log when it starts. The root and the shares
are on virtiofs. While the guest waits for virtiofsd it executes almost nothing, but its clock jumps
from one timer to the next. Therefore the kernel logs each task switch, and the time of its idle
task is subtracted; the rest is the number of executed instructions.
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
from initrd.host.virtiofsd.program import Virtiofsd, query
from initrd.options import Share
from testbed import assets

INIT = "dist/init"
TIMEOUT = 300.0  # seconds
CONSOLE = "console=ttyS0 panic=-1 quiet log_buf_len=16M"
TRACE = "tp_printk trace_event=sched:sched_switch,syscalls:sys_enter_execve"
TASK_SWITCH = re.compile(r"sched_switch: .*?prev_pid=(\d+) .* next_pid=(\d+) ")
DIRECTORIES = ("dev", "proc", "run", "sys", "tmp")


@dataclass(frozen=True)
class Marks:
    """The numbers of instructions executed before three events of a boot."""

    init: int  # the kernel logs "Run /init"
    execve: int  # the last execve(2), which starts the target
    target: int  # the first instruction of the target

    @property
    def to_execve(self) -> int:
        """The instructions from the start of /init to the execve(2) of the target."""
        return self.execve - self.init


@dataclass(frozen=True)
class CountedBoot:
    """The configuration of a boot to be measured."""

    kernel: str
    image: bytes
    cmdline: str
    root: str
    tags: tuple[str, ...] = ("root", "data")  # each is a share of the root directory
    extra: tuple[str, ...] = icount.COUNTED[2:]


def measure(boot: CountedBoot) -> Marks:
    """Boot, and return its marks. Raises ValueError when the target has not run, TimeoutError."""
    return marks(console_log(boot))


def marks(log: str) -> Marks:
    """Return the marks in a kernel log. Raises ValueError when the target has not run."""
    init = execve = 0
    for event in without_idle_time(icount.parse(log)):
        if event.text.startswith("Run /init"):
            init = event.instructions
        elif event.text.startswith("sys_execve("):
            execve = event.instructions
        elif event.text == "bench: target":
            return Marks(init, execve, event.instructions)
    raise ValueError(f"the target has not run; the end of the log:\n{log[-2000:]}")


def without_idle_time(events: Iterable[icount.Event]) -> Iterator[icount.Event]:
    """Yield the events with the time of the idle task subtracted."""
    idle = idle_begin = 0
    for event in events:
        switch = TASK_SWITCH.match(event.text)
        if switch and switch[2] == "0":
            idle_begin = event.instructions
        elif switch and switch[1] == "0" and idle_begin:
            idle += event.instructions - idle_begin
        yield event._replace(instructions=event.instructions - idle)


def console_log(boot: CountedBoot) -> str:
    """Boot, and return the console output. Raises TimeoutError without a power-off in time."""
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
        launch = Launch(setup, default_virtiofsd(), boot.kernel)
        with start_machine(launch, loop, HostStreams()) as machine:
            if not machine.wait(TIMEOUT):
                raise TimeoutError(f"no power-off; the log:\n{machine.log.text[-2000:]}")
            machine.ending()
            return machine.log.text


@functools.cache
def default_virtiofsd() -> Virtiofsd:
    """Return the virtiofsd that chrootvm uses by default."""
    return query(locate.find_virtiofsd("", os.environ))


@contextmanager
def image_file(image: bytes) -> Iterator[int]:
    """Write an image to a file in memory; yield its descriptor."""
    descriptor = os.memfd_create("image")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(image)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def small_root() -> Iterator[str]:
    """Create a temporary root directory with the target and the mount points; yield its path."""
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        for name in DIRECTORIES:
            Path(root, name).mkdir()
        add_target(root)
        yield root


def add_target(root: str) -> None:
    """Compile the target into a root directory."""
    options = ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-s")
    compile_program("target.c", f"{root}/target", options)


def compile_minimal_init(directory: str) -> str:
    """Compile minimal_init.c in `directory`; return the path of the program."""
    output = f"{directory}/minimal_init"
    compile_program("minimal_init.c", output, ("-Os", "-static", "-s"))
    return output


def compile_program(source: str, output: str, options: Iterable[str]) -> None:
    """Compile a source file of this package."""
    path = Path(__file__).parent / source
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *options, "-o", output, str(path)], check=True)


def image(init: str, kernel: assets.Kernel, *names: str) -> bytes:
    """Return an image with the program `init`, virtiofs and the named modules."""
    requirements = (*modules.ALWAYS, *(modules.module_requirement(name) for name in names))
    return build_image(
        Path(init).read_bytes(), modules.choose_modules(kernel.modules, requirements)
    )
