"""From chrootvm's arguments to the machine that they describe. Raises HostError for mistakes."""

import os

from initrd.host.accel import CHOICES
from initrd.host.arguments import Arguments
from initrd.host.failure import HostError
from initrd.host.machine import OVERLAY_IN_MEMORY, Machine, Share
from initrd.quoting import Word, split
from initrd.values import natural

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}  # powers of 2
_STEPS = ("debug", "quiet")  # /init says each step; the kernel, which heeds the last, is quiet


def machine_of(arguments: Arguments) -> Machine:
    """Return the machine that was asked for."""
    if not arguments.root:
        raise HostError("no directory to boot", "ROOTFS is missing", "chrootvm --help")
    init = arguments.init or ("/bin/sh",)
    return Machine(
        root=arguments.root,
        init=init[0],
        arguments=init[1:],
        shares=shares_of(arguments),
        writable=arguments.has("--rw"),
        overlay=_overlay(arguments),
        memory=size_of(arguments.value("--memory", "1G")),
        cpus=count_of(arguments.value("--cpus", "1")),
        accel=_accel(arguments.value("--accel", CHOICES[0])),
        machine=arguments.value("--machine"),
        arch=arguments.value("--arch"),
        kernel=arguments.value("--kernel"),
        modules=arguments.value("--modules"),
        module=arguments.values("--module"),
        init_program=arguments.value("--init"),
        append=(*_append(arguments), *(_STEPS if arguments.has("--report") else ())),
        network=arguments.has("--net"),
        debug=arguments.has("--debug"),
        quiet=not (arguments.has("--debug") or _watches(arguments)),
        qemu=arguments.value("--qemu"),
        virtiofsd=arguments.value("--virtiofsd"),
        qemu_arguments=arguments.values("--qemu-arg"),
    )


def shares_of(arguments: Arguments) -> tuple[Share, ...]:
    """Return the further directories."""
    writable = (share_of(*words, writable=True) for words in arguments.given.get("--mount", ()))
    readonly = (share_of(*words, writable=False) for words in arguments.given.get("--mount-ro", ()))
    return (*writable, *readonly)


def share_of(tag: str, where: str, *, writable: bool) -> Share:
    """Return the share for TAG and PATH[:DEST].

    DEST is absolute, so a colon that no slash follows belongs to PATH; and when there is a
    directory of the whole name, that is what is meant.
    """
    if ":" in tag:
        raise HostError(f"cannot use {tag!r} as a tag", "it has a colon")
    path, colon, destination = where.rpartition(":/")
    if not colon or not path or os.path.isdir(where):
        return Share(tag, where, writable=writable)
    return Share(tag, path, f"/{destination}", writable=writable)


def size_of(text: str) -> int:
    """Return the number of bytes that `512M` or `2G` is."""
    number, unit = natural(text[:-1]), text[-1:].upper()
    if not number or unit not in _UNITS:
        raise HostError(f"cannot use {text!r} as a size", "write 512M or 2G")
    return number << _UNITS[unit]


def count_of(text: str) -> int:
    """Return a number of at least one."""
    number = natural(text)
    if not number:
        raise HostError(f"cannot use {text!r} as a number of processors", "write 1 or more")
    return number


def seconds_of(text: str) -> float:
    """Return a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise HostError(f"cannot use {text!r} as a time", "write a number of seconds")
    return seconds


def _append(arguments: Arguments) -> tuple[str, ...]:
    """Return what is added to the kernel command line: whole words, and no end of it."""
    mark = Word("end")
    for text in arguments.values("--append"):
        words = split(f"{text} {mark}")
        if words[-1:] != [mark]:
            why = "all that follows on the kernel command line would be lost"
            hint = "leave out --, and close each quote"
            raise HostError(f"cannot use --append {text}", why, hint)
        if any(word.key == "init" for word in words):
            raise HostError(f"cannot use --append {text}", "what to run is named after ROOTFS")
    return arguments.values("--append")


def _accel(text: str) -> str:
    if text not in CHOICES:
        raise HostError(f"cannot use {text!r} as the accelerator", f"one of {', '.join(CHOICES)}")
    return text


def _watches(arguments: Arguments) -> bool:
    """Tell whether the console is for reading, and not a command's terminal."""
    return arguments.has("--verbose") and arguments.command is not None


def _overlay(arguments: Arguments) -> str:
    if not arguments.has("--overlay"):
        return ""
    path = arguments.value("--overlay")
    return os.path.abspath(path) if path else OVERLAY_IN_MEMORY
