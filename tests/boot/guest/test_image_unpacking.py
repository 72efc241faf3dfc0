"""The kernel unpacks the archives of `cpio`, with each compression method of `compress`."""

import hashlib
import stat
from pathlib import Path

import pytest

from initrd.host.image import compress, cpio
from initrd.host.image.cpio import Entry
from testbed import assets
from tests.boot import machine

pytestmark = pytest.mark.boot

# Reports type, owner, links and content of each file below /tree on the second serial port.
INIT = b"""#!/bin/busybox sh
exec >/report 2>&1
cd /tree
/bin/busybox find . -mindepth 1 -exec /bin/busybox stat -c '%f %u %g %h %t,%T %n' {} \\;
/bin/busybox find . -type f -exec /bin/busybox sha256sum {} \\;
/bin/busybox find . -type l -exec /bin/busybox readlink {} \\;
/bin/busybox poweroff -f
"""
TREE = (
    cpio.file("tree/empty", b"", 0o600),
    cpio.file("tree/large", b"07070100" * 999_999, 0o4755).replace(uid=1000, gid=4_000_000_000),
    cpio.file(b"tree/a b/\xff\xfe *", b"a name that is not UTF-8"),
    cpio.directory("tree/tmp", 0o1777),
    cpio.symlink("tree/link", b"no where/\xfe"),
    cpio.hard_link("tree/1", "tree/2"),
    cpio.file("tree/2", b"content", 0o640),
    cpio.hard_link("tree/3", "tree/2"),
    cpio.device("tree/fifo", stat.S_IFIFO | 0o644, 0, 0),
    cpio.device("tree/disk", stat.S_IFBLK | 0o660, 254, 16),
)
SERIAL_PORT = cpio.device("report", stat.S_IFCHR | 0o600, 4, 65)  # ttyS1


@pytest.mark.parametrize(
    ("suite", "method"),
    [*(("bookworm", method) for method in compress.METHODS), ("trixie", "none"), ("trixie", "lz4")],
)
def test_kernel_unpacks_the_same_tree_that_was_packed(
    suite: str, method: str, tmp_path: Path
) -> None:
    busybox = cpio.file("bin/busybox", Path(assets.busybox()).read_bytes(), 0o755)
    programs = cpio.pack([cpio.file("init", INIT, 0o755), busybox, SERIAL_PORT])
    image = compress.compress(programs, method)
    image += cpio.padding(len(image)) + compress.compress(cpio.pack(TREE[:5]), method)
    image += cpio.padding(len(image)) + cpio.pack(TREE[5:])
    (tmp_path / "image").write_bytes(image)

    kernel = assets.kernel(suite)
    vm = machine.Machine(kernel.image, "quiet", initrd=f"{tmp_path}/image", plain=method == "none")
    boot = machine.boot(vm, f"{tmp_path}/machine")
    assert set(boot.report.splitlines()) == expected_report()


def expected_report() -> set[str]:
    """Return the lines that INIT reports of TREE."""
    by_path = {entry.path: entry for entry in TREE}
    lines = {
        line for entry in TREE for line in describe_entry(entry, by_path.get(entry.link, entry))
    }
    return lines | {"41ed 0 0 2 0,0 ./a b"}  # the parent that cpio.pack adds


def describe_entry(entry: Entry, inode: Entry) -> list[str]:
    """Return the lines that INIT reports of one entry; `inode` is the target of a hard link."""
    name = entry.path.removeprefix(b"tree").decode(errors="replace")
    links = 3 if inode.data == b"content" else 1 + stat.S_ISDIR(inode.mode)
    major, minor = inode.device
    lines = [f"{inode.mode:x} {inode.uid} {inode.gid} {links} {major:x},{minor:x} .{name}"]
    if stat.S_ISREG(inode.mode):
        lines.append(f"{hashlib.sha256(inode.data).hexdigest()}  .{name}")
    if stat.S_ISLNK(inode.mode):
        lines.append(inode.data.decode(errors="replace"))
    return lines
