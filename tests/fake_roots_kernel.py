"""A fake kernel with block devices, links and a FUSE daemon, for tests of roots and layers."""

import errno
import os
from typing import Any

from tests.fake_kernel import FakeKernel

OVERLAYFS = "nodev\ttmpfs\nnodev\toverlay\n"


class LayerKernel(FakeKernel):
    """A `FakeKernel` with the methods of `RootOperations`.

    `disks` maps device names below /dev to the contents of the devices, `partitions` maps those
    that are partitions to the names of their disks, `links` symbolic links to their targets, and
    `modes` paths to their st_mode. `statuses` is what `wait_status` returns, call by call.
    """

    def __init__(
        self,
        *,
        disks: dict[str, bytes] | None = None,
        partitions: dict[str, str] | None = None,
        links: dict[str, str] | None = None,
        modes: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("files", {})
        kwargs["files"].setdefault("/proc/filesystems", OVERLAYFS)
        super().__init__(**kwargs)
        self.disks: dict[str, bytes] = {}
        self.links = dict(links or {})
        self.modes = dict(modes or {})
        self.statuses: list[int | None] = []
        for name, data in (disks or {}).items():
            self.attach(name, data, disk=(partitions or {}).get(name, ""))

    def attach(self, name: str, data: bytes, disk: str = "") -> None:
        """Add a disk, or a partition of `disk` whose number is the last digit of `name`."""
        self.disks[f"/dev/{name}"] = data
        sysfs_name = name.replace("/", "!")
        self.files[f"/sys/class/block/{sysfs_name}/size"] = "2048\n"
        if disk:
            self.files[f"/sys/class/block/{sysfs_name}/partition"] = f"{name[-1]}\n"
            self.files[f"/sys/class/block/{disk}/{sysfs_name}/partition"] = f"{name[-1]}\n"

    def exists(self, path: str) -> bool:
        return path in self.disks or path in self.links or super().exists(path)

    def is_block_device(self, path: str) -> bool:
        return path in self.disks

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        self._call("read_at", path, offset)
        return self.disks[path][offset : offset + length]

    def file_mode(self, path: str) -> int:
        return self.modes.get(path, 0)

    def real_path(self, path: str) -> str:
        if not self.is_directory(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.links.get(path, path)

    def has_acls(self, path: str) -> bool:
        return False

    def write_file(self, path: str, text: str) -> None:
        self._call("write_file", path, text)

    def make_fifo(self, path: str) -> None:
        self._call("make_fifo", path)

    def remove_directory(self, path: str) -> None:
        self._call("remove_directory", path)

    def copy_access(self, source: str, target: str) -> None:
        self._call("copy_access", source, target)

    def space(self, path: str) -> tuple[int, int]:
        return 1024_000, 409_600

    def move_tree(self, source: int, target: int, is_excluded: Any) -> None:
        self._call("move_tree", source, target)

    def start_daemon(
        self, root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str
    ) -> int:
        self._call("start_daemon", root, argv)
        return 42

    def wait_status(self, pid: int) -> int | None:
        return self.statuses.pop(0) if self.statuses else None

    def keep_serving(self, pid: int) -> None:
        self._call("keep_serving", pid)


def device(*parts: tuple[int, bytes], size: int = 70 * 1024) -> bytes:
    """Return the contents of a device: zeros, with each part at its offset."""
    data = bytearray(size)
    for offset, part in parts:
        data[offset : offset + len(part)] = part
    return bytes(data)


UUID_BYTES = bytes(range(0x10, 0x20))
UUID = "10111213-1415-1617-1819-1a1b1c1d1e1f"


def ext(*, compat: int = 4, incompat: int = 0x42, label: bytes = b"", ro_compat: int = 1) -> bytes:
    """Return the contents of a device with ext4, or ext2 or ext3, by the given feature flags."""
    features = b"".join(number.to_bytes(4, "little") for number in (compat, incompat, ro_compat))
    parts = (0x38, b"\x53\xef"), (0x5C, features), (0x68, UUID_BYTES), (0x78, label)
    return device(*((1024 + at, part) for at, part in parts))


def squashfs() -> bytes:
    """Return the contents of a device with squashfs, which has neither UUID nor label."""
    return device((0, b"hsqs"))
