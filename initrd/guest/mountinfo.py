"""Reads the mount table: which mounts have to go for a place to be what it was. Pure.

Source: proc_pid_mountinfo(5).
"""


def mounts_at(place: str, table: str) -> list[str]:
    """Return the mount points to unmount so that `place` is no mount any more, last ones first.

    That is the topmost mount at `place` and all that is mounted below it. `place` is a real path.
    """
    rows = [line.split(" ") for line in table.splitlines()]
    mounts = [(row[0], row[1], _unescape(row[4])) for row in rows if len(row) > 4]
    tops = [number for number, _, point in mounts if point == place]
    if not tops:
        return []
    inside, found = {tops[-1]}, []
    for number, parent, point in mounts:
        if number in inside or parent in inside:
            inside.add(number)
            found.append(point)
    return found[::-1]


def _unescape(field: str) -> str:
    """Undo how the kernel writes white space, `#` and backslash: three octal digits."""
    text = field
    for octal in ("040", "011", "012", "043"):
        text = text.replace(f"\\{octal}", chr(int(octal, 8)))
    return text.replace("\\134", "\\")
