"""Directory trees as entries of a cpio archive, and what a guest tells of one that it has.

Both sides end as the same table, from a path to everything that stat(1) knows of it, so that what
has arrived can be compared with what was sent.
"""

import base64
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable

from initrd.host.image import cpio

EPOCH = 1_000_000_000  # all times of the entries: some seconds after this
# One record for each file, ended by a byte that no name of the tests has. Names may be any bytes,
# and the serial port is one for text. The contents come in the same order.
TELL = r"""
tell() {
    format="%f %u %g %h %s %t:%T %Y %n$(printf '\001')"
    cd "$1" && find . -print0 | xargs -0 stat -c "$format" | base64
    cd /
}
contents() {
    cd "$1" && find . -type f -print0 | xargs -0 cat | md5sum
    cd /
}
"""

Row = tuple[int, int, int, int, int, tuple[int, int], int]
Table = dict[bytes, Row]


def entries_of(top: str) -> list[cpio.Entry]:
    """Return what is in a directory, owners left out: everything is root's."""
    found = []
    for folder, directories, names in os.walk(top):
        for name in (*directories, *names):
            found.append(_entry(os.path.join(folder, name), top))
    return found


def expected(entries: list[cpio.Entry]) -> Table:
    """Return the table of entries, all directories spelt out."""
    names = Counter(entry.link or entry.path for entry in entries)
    by_path = {entry.path: entry for entry in entries}
    return {path: _row(by_path[entry.link or path], names) for path, entry in by_path.items()}


def contents(entries: list[cpio.Entry], order: Iterable[bytes]) -> str:
    """Return the MD5 sum of the regular files among `entries`, one after the other in `order`."""
    by_path = {entry.path: entry for entry in entries}
    found = (by_path[by_path[path].link or path] for path in order if path in by_path)
    digest = hashlib.md5()  # which the guest's busybox is fast at
    for entry in found:
        if stat.S_ISREG(entry.mode):
            digest.update(entry.data)
    return digest.hexdigest()


def told(section: str) -> Table:
    """Return the table that a guest has told with `tell`, in its order."""
    records = base64.b64decode(section).split(b"\1\n")
    rows = (record.split(b" ", 7) for record in records if record)
    return {fields[7].removeprefix(b"./"): _parsed(fields[:7]) for fields in rows}


def _entry(path: str, top: str) -> cpio.Entry:
    status = os.lstat(path)
    data = b""
    if stat.S_ISLNK(status.st_mode):
        data = os.fsencode(os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            data = file.read()
    name = os.fsencode(os.path.relpath(path, top))
    return cpio.Entry(name, status.st_mode, data, mtime=EPOCH)


def _row(entry: cpio.Entry, names: "Counter[bytes]") -> Row:
    directory = stat.S_ISDIR(entry.mode)
    links, size = (0, 0) if directory else (names[entry.path], len(entry.data))
    return (entry.mode, entry.uid, entry.gid, links, size, entry.device, entry.mtime)


def _parsed(fields: list[bytes]) -> Row:
    mode, uid, gid, links, size, device, mtime = fields
    major, minor = (int(number, 16) for number in device.split(b":"))
    kind = int(mode, 16)
    if stat.S_ISDIR(kind):  # both depend on the file system
        links = size = b"0"
    return (kind, int(uid), int(gid), int(links), int(size), (major, minor), int(mtime))
