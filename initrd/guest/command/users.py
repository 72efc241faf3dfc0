"""Resolve the command's user and groups, its environment, and the host name, from the root's files.

As in `chroot --userspec`, a user is a name or a number, and a number need not be in /etc/passwd.
Pure. Sources: passwd(5), group(5), the manual of GNU coreutils.
"""

from initrd.record import Record
from initrd.text import parse_natural

PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_ID = (1 << 32) - 2  # for chown(2) and others, the next number means "leave unchanged"


class UserError(ValueError):
    """A user or a group does not exist. The text names it."""


class User(Record):
    """An entry of /etc/passwd, or a number without an entry."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: bytes = b""
    home: bytes = b"/"
    shell: bytes = b""


def find_user(spec: bytes, passwd: bytes, group: bytes) -> User:
    """Return the user for `USER[:GROUP]`; root for an empty `spec`. Raises UserError.

    `passwd` and `group` are the contents of /etc/passwd and /etc/group.
    """
    user_spec, _, group_spec = spec.partition(b":")
    users = [user for line in passwd.splitlines() for user in _parse_passwd_line(line)]
    user = _find_entry(user_spec or b"0", users, known_group=bool(group_spec) or not user_spec)
    groups = [entry for line in group.splitlines() for entry in _parse_group_line(line)]
    gid = _find_group_id(group_spec, groups) if group_spec else user.gid
    others = tuple(number for _, number, members in groups if user.name and user.name in members)
    return user.replace(gid=gid, groups=tuple(dict.fromkeys((gid, *others))))


def build_environment(
    given: tuple[bytes, ...], user: User, *, terminal: bool
) -> dict[bytes, bytes]:
    """Return the environment of `given` (`NAME=VALUE`), with the variables that login(1) adds."""
    environ: dict[bytes, bytes] = {}
    for variable in given:
        name, _, value = variable.partition(b"=")
        environ.setdefault(name, value)  # of duplicates the first counts, as with getenv(3)
    environ.setdefault(b"PATH", PATH)
    environ.setdefault(b"HOME", user.home)
    if user.name or user.shell:
        environ.setdefault(b"SHELL", user.shell or b"/bin/sh")
    if user.name:
        environ.setdefault(b"USER", user.name)
        environ.setdefault(b"LOGNAME", user.name)
    if terminal:
        environ.setdefault(b"TERM", b"linux")
    return environ


def parse_hostname(etc_hostname: bytes) -> str:
    """Return the host name in the content of /etc/hostname, or `localhost`: hostname(5)."""
    lines = [line.strip() for line in etc_hostname.splitlines()]
    names = [line for line in lines if line and not line.startswith(b"#") and len(line) <= 64]
    return names[0].decode(errors="replace") if names else "localhost"


def _parse_passwd_line(line: bytes) -> list[User]:
    """Return the user of a line; an empty list for an invalid line."""
    fields = line.split(b":")
    if len(fields) != 7:
        return []
    uid, gid = _parse_id(fields[2]), _parse_id(fields[3])
    if uid is None or gid is None:
        return []
    return [User(uid, gid, name=fields[0], home=fields[5] or b"/", shell=fields[6])]


def _parse_group_line(line: bytes) -> list[tuple[bytes, int, list[bytes]]]:
    """Return the (name, number, members) of a line; an empty list for an invalid line."""
    fields = line.split(b":")
    gid = _parse_id(fields[2]) if len(fields) == 4 else None
    return [] if gid is None else [(fields[0], gid, fields[3].split(b","))]


def _find_entry(spec: bytes, users: list[User], *, known_group: bool) -> User:
    """Return the user with this name, else with this number. Raises UserError.

    A number without an entry is valid if its group is known.
    """
    by_name = [user for user in users if user.name == spec]
    number = _parse_id(spec)
    by_number = [user for user in users if user.uid == number]
    if by_name or by_number:
        return (by_name or by_number)[0]
    text = spec.decode(errors="replace")
    if number is None:
        raise UserError(f"there is no user {text} in the root's /etc/passwd")
    if not known_group:
        raise UserError(f"user {text} is not in the root's /etc/passwd; write {text}:GROUP")
    return User(number, 0)


def _find_group_id(spec: bytes, groups: list[tuple[bytes, int, list[bytes]]]) -> int:
    number = _parse_id(spec)
    found = [gid for name, gid, _ in groups if name == spec]
    if not found and number is None:
        raise UserError(
            f"there is no group {spec.decode(errors='replace')} in the root's /etc/group"
        )
    return found[0] if found else number or 0


def _parse_id(text: bytes) -> int | None:
    """Return the number of a user or a group; None if `text` is not a valid one."""
    number = parse_natural(text.decode("latin-1"))
    return None if number is None or number > _MAX_ID else number
