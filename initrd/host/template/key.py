"""What a template depends on, as text. A template is used only where all of it is the same."""

import os

from initrd import __version__
from initrd.host.machine.launch import Launch, Warm
from initrd.host.system.cached import file_state, name_of
from initrd.host.system.files import OpenFile

_FORMAT = 1  # of the template's file
_CPU_FIELDS = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags", "Features")


def warm_of(launch: Launch) -> Warm:
    """Return what a launch needs for a template. Raises ValueError when it is not to use one."""
    if launch.warm is None:
        raise ValueError("a launch without a template")
    return launch.warm


def template_key(launch: Launch) -> str:
    """Return the text that identifies a template for a launch.

    A template is not used after the host has booted again: its file may not have been written
    completely, and the host's kernel and microcode may be others.
    """
    setup = launch.setup
    files = (setup.program, setup.firmware, launch.kernel)
    parts = (
        _FORMAT,
        __version__,
        _read("/proc/sys/kernel/random/boot_id"),
        [(path, file_state(path)) for path in files],
        launch.is_uncompressed,
        _identify(setup.initrd),
        warm_of(launch).cmdline,
        setup.hardware,
        (len(setup.shares), len(setup.disks), setup.network),
        _describe_processor() if setup.hardware.accelerator == "kvm" else "",
    )
    return "\n".join(map(repr, parts))


def _identify(image: OpenFile) -> str:
    """Return the digest of an image, which is its name in the cache."""
    if os.path.isabs(image.path):
        return os.path.basename(image.path)
    size = os.fstat(image.descriptor).st_size
    return name_of(os.pread(image.descriptor, size, 0))


def _describe_processor() -> str:
    """Return the host's processor as its kernel describes it, and the kernel's release."""
    lines = _read("/proc/cpuinfo").split("\n\n", 1)[0].splitlines()
    fields = [line for line in lines if line.partition(":")[0].strip() in _CPU_FIELDS]
    return "\n".join((os.uname().release, *fields))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
