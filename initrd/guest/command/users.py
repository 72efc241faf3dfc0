"""Whom the command runs as, and in which surroundings: the root's own files decide. Pure.

As `chroot --userspec` does it: a name, or a number, which need not be in /etc/passwd. Sources:
passwd(5), group(5), the manual of GNU coreutils.
"""

from initrd.record import Record
from initrd.text import parse_natural

PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LARGEST = (1 << 32) - 2  # the one above means "leave it as it is" to chown(2) and others


class UserError(ValueError):
    """A user or a group that is not there. The text names it."""


class User(Record):
    """An entry of /etc/passwd, or a number that has none."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: bytes = b""
    home: bytes = b"/"
    shell: bytes = b""


def find_user(spec: bytes, passwd: bytes, group: bytes) -> User:
    """Return the user for `USER[:GROUP]`; an empty one is root. Raises UserError."""
    wanted, _, wanted_group = spec.partition(b":")
    users = [user for line in passwd.splitlines() for user in _users(line)]
    user = _find(wanted or b"0", users, known_group=bool(wanted_group) or not wanted)
    groups = [entry for line in group.splitlines() for entry in _groups(line)]
    gid = _group_id(wanted_group, groups) if wanted_group else user.gid
    others = tuple(number for _, number, members in groups if user.name and user.name in members)
    return user.replace(gid=gid, groups=tuple(dict.fromkeys((gid, *others))))


def environment(given: tuple[bytes, ...], user: User, *, terminal: bool) -> dict[bytes, bytes]:
    """Return the environment `given` as `NAME=VALUE`, with what a login would add."""
    found: dict[bytes, bytes] = {}
    for variable in given:
        name, _, value = variable.partition(b"=")
        found.setdefault(name, value)  # the first one counts, as with getenv(3)
    found.setdefault(b"PATH", PATH)
    found.setdefault(b"HOME", user.home)
    if user.name:
        found.setdefault(b"SHELL", user.shell or b"/bin/sh")
        found.setdefault(b"USER", user.name)
        found.setdefault(b"LOGNAME", user.name)
    if terminal:
        found.setdefault(b"TERM", b"linux")
    return found


def host_name(etc_hostname: bytes) -> str:
    """Return the name that /etc/hostname gives the machine: hostname(5)."""
    lines = [line.strip() for line in etc_hostname.splitlines()]
    names = [line for line in lines if line and not line.startswith(b"#") and len(line) <= 64]
    return names[0].decode(errors="replace") if names else "localhost"


def _users(line: bytes) -> list[User]:
    fields = line.split(b":")
    if len(fields) != 7:
        return []
    uid, gid = _number(fields[2]), _number(fields[3])
    if uid is None or gid is None:
        return []
    return [User(uid, gid, name=fields[0], home=fields[5] or b"/", shell=fields[6])]


def _groups(line: bytes) -> list[tuple[bytes, int, list[bytes]]]:
    fields = line.split(b":")
    gid = _number(fields[2]) if len(fields) == 4 else None
    return [] if gid is None else [(fields[0], gid, fields[3].split(b","))]


def _find(wanted: bytes, users: list[User], *, known_group: bool) -> User:
    by_name = [user for user in users if user.name == wanted]
    number = _number(wanted)
    by_number = [user for user in users if user.uid == number]
    if by_name or by_number:
        return (by_name or by_number)[0]
    text = wanted.decode(errors="replace")
    if number is None:
        raise UserError(f"there is no user {text} in the root's /etc/passwd")
    if not known_group:
        raise UserError(f"user {text} is not in the root's /etc/passwd; write {text}:GROUP")
    return User(number, 0)


def _group_id(wanted: bytes, groups: list[tuple[bytes, int, list[bytes]]]) -> int:
    number = _number(wanted)
    found = [gid for name, gid, _ in groups if name == wanted]
    if not found and number is None:
        raise UserError(
            f"there is no group {wanted.decode(errors='replace')} in the root's /etc/group"
        )
    return found[0] if found else number or 0


def _number(text: bytes) -> int | None:
    """Return the number of a user or a group; None for what is none."""
    number = parse_natural(text.decode("latin-1"))
    return None if number is None or number > _LARGEST else number
