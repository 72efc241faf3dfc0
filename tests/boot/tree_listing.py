"""Compare a directory tree in a guest with the cpio entries that it was made from.

Both are turned into the same kind of table: from each path to the fields of its stat(1).
"""

import base64
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable

from initrd.host.image import cpio

EPOCH = 1_000_000_000  # modification time of the entries, in seconds since 1970
# Shell functions for the guest. `stat_files DIRECTORY` prints one record for each file, with the
# byte 1 at its end, which no name in the tests contains. The output is in base64, because names may
# be any bytes and the serial port carries text. `contents DIRECTORY` prints the MD5 sum of all
# files, in the same order.
LISTING_FUNCTIONS = r"""
stat_files() {
    format="%f %u %g %h %s %t:%T %Y %n$(printf '\001')"
    cd "$1" && find . -print0 | xargs -0 stat -c "$format" | base64
    cd /
}
contents() {
    cd "$1" && find . -type f -print0 | xargs -0 cat | md5sum
    cd /
}
"""

# Mode, owner, group, number of links, size, device number, modification time.
Row = tuple[int, int, int, int, int, tuple[int, int], int]
Table = dict[bytes, Row]


def entries_of(top: str) -> list[cpio.Entry]:
    """Return the entries of a directory's files; their owner is root, their time EPOCH."""
    entries = []
    for folder, directories, names in os.walk(top):
        for name in (*directories, *names):
            entries.append(_make_entry(os.path.join(folder, name), top))
    return entries


def expected_table(entries: list[cpio.Entry]) -> Table:
    """Return the table of `entries`, which must include every directory."""
    link_counts = Counter(entry.link or entry.path for entry in entries)
    by_path = {entry.path: entry for entry in entries}
    return {path: _row(by_path[entry.link or path], link_counts) for path, entry in by_path.items()}


def contents(entries: list[cpio.Entry], order: Iterable[bytes]) -> str:
    """Return the MD5 sum of the regular files among `entries`, concatenated in `order`."""
    by_path = {entry.path: entry for entry in entries}
    ordered = (by_path[by_path[path].link or path] for path in order if path in by_path)
    digest = hashlib.md5()  # busybox in the guest computes MD5 fast
    for entry in ordered:
        if stat.S_ISREG(entry.mode):
            digest.update(entry.data)
    return digest.hexdigest()


def parse_listing(section: str) -> Table:
    """Parse the output of the shell function `stat_files`; the table keeps the guest's order."""
    records = base64.b64decode(section).split(b"\1\n")
    rows = (record.split(b" ", 7) for record in records if record)
    return {fields[7].removeprefix(b"./"): _parse_row(fields[:7]) for fields in rows}


def _make_entry(path: str, top: str) -> cpio.Entry:
    """Return the entry of the file `path` below the directory `top`."""
    status = os.lstat(path)
    data = b""
    if stat.S_ISLNK(status.st_mode):
        data = os.fsencode(os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            data = file.read()
    name = os.fsencode(os.path.relpath(path, top))
    return cpio.Entry(name, status.st_mode, data, mtime=EPOCH)


def _row(entry: cpio.Entry, link_counts: "Counter[bytes]") -> Row:
    """Return the row of an entry; links and size of a directory depend on the file system: 0."""
    is_directory = stat.S_ISDIR(entry.mode)
    links, size = (0, 0) if is_directory else (link_counts[entry.path], len(entry.data))
    return (entry.mode, entry.uid, entry.gid, links, size, entry.device, entry.mtime)


def _parse_row(fields: list[bytes]) -> Row:
    """Return the row for the fields of one record of `stat_files`, as `_row` does for an entry."""
    mode, uid, gid, links, size, device, mtime = fields
    major, minor = (int(number, 16) for number in device.split(b":"))
    st_mode = int(mode, 16)
    if stat.S_ISDIR(st_mode):
        links = size = b"0"
    return (st_mode, int(uid), int(gid), int(links), int(size), (major, minor), int(mtime))
