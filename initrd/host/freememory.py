"""How much memory a new program could have on this machine.

Source: the kernel's Documentation/filesystems/proc.rst and admin-guide/cgroup-v2.rst.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_UNKNOWN = 1 << 62


def free_memory(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int:
    """Return the bytes that are available, or that our control groups have left if that is less."""
    return min(_available(_read(f"{proc}/meminfo")), *_left(_read(f"{proc}/self/cgroup"), cgroups))


def _available(meminfo: str) -> int:
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return _UNKNOWN


def _left(membership: str, cgroups: str) -> "Iterator[int]":
    """Yield what each group that we are in may still take. What it caches does not count."""
    yield _UNKNOWN
    group = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), "/")
    while group != "/":
        folder = cgroups + group
        limit = _read(f"{folder}/memory.max").strip()
        if limit.isdigit():
            yield int(limit) - _anonymous(_read(f"{folder}/memory.stat"))
        group = os.path.dirname(group)


def _anonymous(statistics: str) -> int:
    fields = dict(line.split() for line in statistics.splitlines())
    return int(fields.get("anon", 0))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:  # no such limit, or none that we may know
        return ""
