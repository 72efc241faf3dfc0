"""User, groups, environment and host name of a command, from the contents of the root's files."""

import pytest

from initrd.guest.command.users import (
    PATH,
    User,
    UserError,
    build_environment,
    find_user,
    parse_hostname,
)

PASSWD = b"""\
root:x:0:0:root:/root:/bin/bash
bin:x:2:2:bin:/bin:
ann:x:1000:100:Ann:/home/ann:/bin/zsh
1001:x:77:77:a name of digits:/odd:/bin/sh
bob:x:1001:1001::/home/bob:/bin/sh
nohome:x:5:5:::
short:x:9
bad:x:one:two:::
# comment

"""
GROUP = b"""\
root:x:0:
users:x:100:
audio:x:29:ann,bob
adm:x:4:ann
annex:x:50:annie
wheel:x:10
"""


@pytest.mark.parametrize(
    ("spec", "uid", "gid", "groups"),
    [
        (b"", 0, 0, (0,)),
        (b"root", 0, 0, (0,)),
        (b"0", 0, 0, (0,)),
        (b"ann", 1000, 100, (100, 29, 4)),
        (b"1000", 1000, 100, (100, 29, 4)),
        (b"ann:audio", 1000, 29, (29, 4)),
        (b"ann:5000", 1000, 5000, (5000, 29, 4)),
        (b"ann:", 1000, 100, (100, 29, 4)),
        (b":audio", 0, 29, (29,)),
        (b"4242:4242", 4242, 4242, (4242,)),
        (b"4242:adm", 4242, 4, (4,)),
        (b"1001", 77, 77, (77,)),
        (b"4294967294:4294967294", 4294967294, 4294967294, (4294967294,)),
    ],
)
def test_user_spec_gives_user_group_and_supplementary_groups(
    spec: bytes, uid: int, gid: int, groups: tuple[int, ...]
) -> None:
    user = find_user(spec, PASSWD, GROUP)
    assert (user.uid, user.gid, user.groups) == (uid, gid, groups)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (b"eve", "no user eve"),
        (b"eve:1", "no user eve"),
        (b"short", "no user short"),
        (b"bad", "no user bad"),
        (b"ann:staff", "no group staff"),
        (b"4242", "write 4242:GROUP"),
        (b"-1:0", "no user -1"),
        (b"4294967295:0", "no user 4294967295"),
        (b"1000.5:0", "no user"),
        (b"\xff:0", "no user"),
        (b"0:4294967295", "no group"),
        ("²:0".encode(), "no user"),
        (b"9" * 5000, "no user 999"),
    ],
)
def test_error_names_the_missing_user_or_group(spec: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_user(spec, PASSWD, GROUP)


def test_passwd_and_group_lines_with_too_large_numbers_are_ignored() -> None:
    huge = b"9" * 5000
    passwd = b"ann:x:%s:1:::\nann:x:1:4294967295:::\n" % huge + PASSWD
    user = find_user(b"ann:audio", passwd, b"audio:x:%s:\n" % huge + GROUP)
    assert (user.uid, user.gid) == (1000, 29)


def test_root_user_is_found_without_passwd_and_group() -> None:
    assert find_user(b"", b"", b"") == User(0, 0, (0,))


def test_environment_has_the_variables_of_a_login() -> None:
    environ = build_environment((b"X=1",), find_user(b"ann", PASSWD, GROUP), terminal=False)
    assert environ == {
        b"X": b"1",
        b"PATH": PATH,
        b"HOME": b"/home/ann",
        b"SHELL": b"/bin/zsh",
        b"USER": b"ann",
        b"LOGNAME": b"ann",
    }


def test_environment_keeps_the_given_variables() -> None:
    given = (b"HOME=/x", b"PATH=", b"USER=me", b"LOGNAME=me", b"SHELL=/no", b"TERM=vt100", b"A=b=c")
    environ = build_environment(given, find_user(b"ann", PASSWD, GROUP), terminal=True)
    assert environ == dict(variable.split(b"=", 1) for variable in given)


def test_environment_takes_the_first_of_duplicate_variables() -> None:
    assert build_environment((b"X=1", b"X=2"), User(1, 1), terminal=False)[b"X"] == b"1"


def test_environment_of_a_user_without_an_entry_has_home_path_and_term() -> None:
    assert build_environment((), User(42, 42), terminal=True) == {
        b"PATH": PATH,
        b"HOME": b"/",
        b"TERM": b"linux",
    }


def test_environment_of_a_login_shell_names_it_for_a_user_without_an_entry() -> None:
    environ = build_environment((), User(42, 42, shell=b"/bin/sh"), terminal=False)
    assert environ == {b"PATH": PATH, b"HOME": b"/", b"SHELL": b"/bin/sh"}


@pytest.mark.parametrize(
    ("spec", "home", "shell"), [(b"nohome", b"/", b"/bin/sh"), (b"bin", b"/bin", b"/bin/sh")]
)
def test_empty_passwd_fields_give_the_default_home_and_shell(
    spec: bytes, home: bytes, shell: bytes
) -> None:
    environ = build_environment((), find_user(spec, PASSWD, GROUP), terminal=False)
    assert (environ[b"HOME"], environ[b"SHELL"]) == (home, shell)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"box\n", "box"),
        (b"# a comment\n\n  box.example \nother\n", "box.example"),
        (b"", "localhost"),
        (b"#\n", "localhost"),
        (b"x" * 65, "localhost"),
        (b"\xff\n", "\ufffd"),
    ],
)
def test_host_name_is_the_first_valid_line_or_localhost(text: bytes, name: str) -> None:
    assert parse_hostname(text) == name
