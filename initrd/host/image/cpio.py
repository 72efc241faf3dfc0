"""Write cpio archives in the format that the kernel unpacks ("newc"); `lsinitramfs` reads them.

Pure, and the same entries give the same bytes: `pack` sorts them, numbers the inodes itself, adds
the parent directories that are missing, and does not use the clock.

    image = cpio.pack([cpio.file("init", program, 0o755), cpio.symlink("bin", "usr/bin")])
    image += cpio.padding(len(image)) + cpio.pack([cpio.file("etc/extra", b"more")])

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst and
init/initramfs.c.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable

from initrd.record import Record

MAGIC = b"070701"
MAGIC_CRC = b"070702"  # the same layout with a checksum, which `lsinitramfs` does not verify
HEADER_SIZE = 110
TRAILER = b"TRAILER!!!"
PATH_MAX = 4096  # bytes; the kernel skips an entry with a longer name or link, without a message
_FIELD_MAX = 0xFFFFFFFF

Name = str | bytes


class Entry(Record):
    """One file of any kind. `mode` is the whole `st_mode`: kind and permissions."""

    path: bytes  # relative to the root of the archive
    mode: int
    data: bytes = b""  # content, or the target of a symbolic link
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # seconds since 1970
    device: tuple[int, int] = (0, 0)  # major and minor number of a device node
    link: bytes = b""  # for a hard link: the path of the regular file, which has mode and owner


def file(path: Name, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(os.fsencode(path), stat.S_IFREG | mode, data)


def directory(path: Name, mode: int = 0o755) -> Entry:
    """Return a directory. `pack` adds those with the mode 0755 by itself."""
    return Entry(os.fsencode(path), stat.S_IFDIR | mode)


def symlink(path: Name, target: Name) -> Entry:
    """Return a symbolic link to `target`."""
    return Entry(os.fsencode(path), stat.S_IFLNK | 0o777, os.fsencode(target))


def device(path: Name, mode: int, major: int, minor: int) -> Entry:
    """Return a device node; `mode` includes its kind: `stat.S_IFCHR | 0o600`."""
    return Entry(os.fsencode(path), mode, device=(major, minor))


def hard_link(path: Name, to: Name) -> Entry:
    """Return a further name of the regular file that is packed as `to`."""
    return Entry(os.fsencode(path), stat.S_IFREG, link=os.fsencode(to))


def pack(entries: Iterable[Entry]) -> bytes:
    """Return one archive of `entries`, with their parents' directories, sorted by path.

    Raises ValueError for entries that an archive cannot hold: a path that is absolute, has `..`, is
    there twice or is below an entry that is no directory; a link that is too long; a hard link to a
    path that is no regular file; numbers of more than 32 bits.
    """
    tree = _with_parents(_by_path(entries))
    targets = {path: _inode_path(tree, entry) for path, entry in tree.items()}
    inodes = {path: number for number, path in enumerate(sorted(set(targets.values())), 1)}
    link_counts = Counter(targets.values())
    chunks: list[bytes] = []
    for path in sorted(tree):
        target = targets[path]
        nlink = 2 if stat.S_ISDIR(tree[path].mode) else link_counts[target]
        chunks += _member(path, tree[target], tree[path].data, inodes[target], nlink)
    chunks += _member(TRAILER, Entry(TRAILER, 0), b"", 0, 1)
    return b"".join(chunks)


def padding(size: int) -> bytes:
    """Return the zeros to put after an image of `size` bytes, so that an archive can follow.

    The kernel requires an archive to start at a multiple of 4 bytes, and takes four zeros for the
    end of an LZ4 stream, which has no other end mark.
    """
    return bytes(4 + -size % 4)


def _by_path(entries: Iterable[Entry]) -> dict[bytes, Entry]:
    tree: dict[bytes, Entry] = {}
    for entry in entries:
        _check_path(entry.path)
        if stat.S_ISLNK(entry.mode) and len(entry.data) >= PATH_MAX:
            raise ValueError(f"{os.fsdecode(entry.path)}: a link that an archive cannot hold")
        if entry.path in tree:
            raise ValueError(f"{os.fsdecode(entry.path)}: there twice")
        tree[entry.path] = entry
    return tree


def _check_path(path: bytes) -> None:
    parts = path.split(b"/")
    if b"" in parts or b"." in parts or b".." in parts or b"\0" in path:
        raise ValueError(f"{os.fsdecode(path)!r}: not a plain relative path")
    if path == TRAILER or len(path) >= PATH_MAX:
        raise ValueError(f"{os.fsdecode(path)!r}: a name that an archive cannot hold")


def _with_parents(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    completed = dict(tree)
    for path in tree:
        child = path
        while parent := child.rpartition(b"/")[0]:
            if not stat.S_ISDIR(completed.setdefault(parent, directory(parent)).mode):
                raise ValueError(f"{os.fsdecode(child)}: below something that is no directory")
            child = parent
    return completed


def _inode_path(tree: dict[bytes, Entry], entry: Entry) -> bytes:
    """Return the path of the entry with the inode: the target of a hard link, or its own path."""
    if not entry.link:
        return entry.path
    target = tree.get(entry.link)
    if target is None or target.link or not stat.S_ISREG(target.mode):
        raise ValueError(
            f"{os.fsdecode(entry.path)}: a hard link to {os.fsdecode(entry.link)}, "
            "which is no regular file of the archive"
        )
    return target.path


def _member(path: bytes, entry: Entry, body: bytes, inode: int, nlink: int) -> list[bytes]:
    """Return the bytes of one archive member, in pieces."""
    fields = (
        *(inode, entry.mode, entry.uid, entry.gid, nlink, entry.mtime, len(body)),
        *(0, 0, *entry.device, len(path) + 1, 0),
    )
    if not all(0 <= field <= _FIELD_MAX for field in fields):
        raise ValueError(f"{os.fsdecode(path)}: a number in {fields} does not fit into 32 bits")
    head = MAGIC + b"%08X" * len(fields) % fields + path + b"\0"
    return [head, bytes(-len(head) % 4), body, bytes(-len(body) % 4)]
