"""The command of virtiofsd for a share, for its two families, and the checks before it."""

import os
import resource
from pathlib import Path

import pytest

from initrd.host.system.hosterror import HostError
from initrd.host.virtiofsd import sandbox
from initrd.host.virtiofsd.program import (
    Virtiofsd,
    check,
    check_share,
    command,
    confine,
    make_program,
)
from initrd.options import Share

C = Virtiofsd("/c/virtiofsd", "c")
RUST = Virtiofsd("/rust/virtiofsd", "rust", readonly=True)
OLD_RUST = RUST.replace(readonly=False)
WEAK_C = C.replace(obstacle="EPERM")
UNPROTECTABLE = r"needs a mount of its own for that, and gets none \(EPERM\)"
WRITABLE = Share("data", source="/srv/a,b :c")
LATIN1 = Share("data", source="/srv/\udcfc")
READ_ONLY = WRITABLE.replace(writable=False)


def test_rust_virtiofsd_gets_the_path_in_one_word() -> None:
    words = command(RUST, WRITABLE, "--fd=5", WRITABLE.source)
    assert words[:3] == ("/rust/virtiofsd", "--fd=5", "--shared-dir=/srv/a,b :c")
    assert "--readonly" not in words


@pytest.mark.parametrize(
    ("limit", "handles", "expected"),
    [
        pytest.param(sandbox.AMPLE_OPEN_FILES, True, False, id="enough files"),
        pytest.param(20_000, True, True, id="few files"),
        pytest.param(20_000, False, False, id="few files, and no such option"),
        pytest.param(resource.RLIM_INFINITY, True, False, id="no limit"),
    ],
)
def test_rust_virtiofsd_uses_file_handles_under_a_low_limit_of_open_files(
    monkeypatch: pytest.MonkeyPatch, limit: int, handles: bool, expected: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, limit))
    monkeypatch.setattr(sandbox, "has_capability", lambda _: True)
    words = command(RUST.replace(handles=handles), WRITABLE, "--fd=5", WRITABLE.source)
    assert ("--inode-file-handles=prefer" in words) == expected


def test_file_handles_are_not_used_without_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    monkeypatch.setattr(sandbox, "has_capability", lambda _: False)
    words = command(RUST.replace(handles=True), WRITABLE, "--fd=5", WRITABLE.source)
    assert "--inode-file-handles=prefer" not in words


@pytest.mark.parametrize(
    ("killpriv", "share", "expected"),
    [(True, WRITABLE, True), (True, READ_ONLY, False), (False, WRITABLE, False)],
)
def test_killpriv_is_used_for_writable_shares(killpriv: bool, share: Share, expected: bool) -> None:
    words = command(RUST.replace(killpriv=killpriv), share, "--fd=5", share.source)
    assert ("--killpriv-v2" in words) == expected
    words = command(C.replace(killpriv=killpriv), share, "--fd=5", "/proc/self/fd/6")
    assert words[-1].endswith(",killpriv_v2") == expected


@pytest.mark.parametrize(
    ("virtiofsd", "announced", "unannounced"),
    [
        pytest.param(C, "announce_submounts", "", id="c"),
        pytest.param(RUST, "--announce-submounts", "", id="rust"),
        pytest.param(
            RUST.replace(announces=True),
            "--announce-submounts",
            "--no-announce-submounts",
            id="rust that announces by default",
        ),
    ],
)
def test_submounts_are_announced_except_in_the_lower_layer_of_an_overlay(
    virtiofsd: Virtiofsd, announced: str, unannounced: str
) -> None:
    def option(lower: str) -> str:
        words = command(virtiofsd.replace(lower=lower), WRITABLE, "--fd=5", "/srv")
        options = [word for text in words for word in text.split(",") if "announce" in word]
        return " ".join(options)

    assert option("") == announced
    assert option("other") == announced
    assert option(WRITABLE.tag) == unannounced


def test_rust_virtiofsd_gets_readonly_for_a_read_only_share() -> None:
    assert "--readonly" in command(RUST, READ_ONLY, "--fd=5", READ_ONLY.source)


MAPS = ("--translate-uid=map:0:7:1", "--translate-gid=map:0:8:1")


@pytest.mark.parametrize(
    ("mode", "user", "translates", "expected"),
    [
        pytest.param("namespace", 7, True, (), id="namespaces"),
        pytest.param("chroot", 0, True, ("--sandbox=chroot",), id="root"),
        pytest.param("none", 0, True, ("--sandbox=none",), id="root, no chroot"),
        pytest.param("none", 7, True, ("--sandbox=none", *MAPS), id="user"),
        pytest.param("none", 7, False, ("--sandbox=none",), id="user, no such option"),
    ],
)
def test_rust_virtiofsd_gets_the_sandbox_that_it_can_have(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    user: int,
    translates: bool,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: user and user + 1)
    obstacle = "" if mode == sandbox.NAMESPACE else "EPERM"
    virtiofsd = RUST.replace(sandbox=mode, obstacle=obstacle, translates=translates)
    words = command(virtiofsd, READ_ONLY, "--fd=5", "/srv")
    given = [word for word in words if word.startswith(("--sandbox", "--translate"))]
    assert tuple(given) == expected
    assert "--readonly" in words


@pytest.mark.parametrize(
    ("obstacle", "root", "chroot", "mode"),
    [
        ("", True, True, "namespace"),
        ("EPERM", True, True, "chroot"),
        ("EPERM", True, False, "none"),
        ("EPERM", False, True, "none"),
    ],
)
def test_sandbox_is_the_strongest_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, obstacle: str, root: bool, chroot: bool, mode: str
) -> None:
    monkeypatch.setattr(sandbox, "has_capability", lambda _: chroot)
    monkeypatch.setattr(sandbox, "find_namespace_problem", lambda *, root: obstacle)
    confined = confine(RUST, root=root, unprotected=True)
    assert confined == RUST.replace(sandbox=mode, obstacle=obstacle, unprotected=True)


def test_rust_virtiofsd_has_no_sandbox_for_the_root_directory() -> None:
    slash = Share("data", writable=False, source="/")
    assert "--sandbox=none" in command(RUST, slash, "--fd=5", slash.source)
    assert "--sandbox=none" not in command(RUST, READ_ONLY, "--fd=5", READ_ONLY.source)


def test_c_virtiofsd_gets_a_descriptor_as_its_path_may_have_commas() -> None:
    program = make_program(C, WRITABLE, listener=5, directory=6)
    assert "-f" in program.command
    assert "--fd=5" in program.command
    assert program.command[-1].startswith("source=/proc/self/fd/6/.,sandbox=chroot")
    assert program.descriptors == (5, 6)


def test_rust_virtiofsd_inherits_only_the_socket() -> None:
    assert make_program(RUST, READ_ONLY, listener=5, directory=6).descriptors == (5,)


def test_c_virtiofsd_gets_no_mount_where_the_user_forgoes_it_and_there_is_none() -> None:
    for obstacle, forgoes in (("", False), ("EPERM", True)):
        virtiofsd = C.replace(obstacle=obstacle, unprotected=True)
        plain = make_program(virtiofsd, WRITABLE, listener=5, directory=6)
        readonly = make_program(virtiofsd, READ_ONLY, listener=5, directory=6)
        assert (readonly.before == plain.before) is forgoes


def test_c_virtiofsd_has_a_preparation_step_for_a_read_only_share() -> None:
    plain = make_program(C, WRITABLE, listener=5, directory=6)
    readonly = make_program(C, READ_ONLY, listener=5, directory=6)
    assert readonly.command == plain.command
    assert readonly.before != plain.before


@pytest.mark.parametrize(
    ("virtiofsd", "share", "root", "why"),
    [
        pytest.param(C, WRITABLE, False, "only root can use", id="c, not as root"),
        pytest.param(OLD_RUST, READ_ONLY, True, "too old", id="rust without --readonly"),
        pytest.param(WEAK_C, READ_ONLY, True, UNPROTECTABLE, id="c without a mount of its own"),
        pytest.param(RUST, LATIN1, True, "is not UTF-8, and /rust/virtiofsd", id="rust, latin 1"),
    ],
)
def test_share_that_a_virtiofsd_cannot_serve_is_refused(
    virtiofsd: Virtiofsd, share: Share, root: bool, why: str
) -> None:
    with pytest.raises(HostError, match=f"{why}.*\ntry: "):
        check_share(virtiofsd, share, root=root)


@pytest.mark.parametrize(
    ("virtiofsd", "share", "root"),
    [
        (C, READ_ONLY, True),
        (C, LATIN1, True),
        (RUST, READ_ONLY, False),
        (OLD_RUST, WRITABLE, False),
    ],
)
def test_share_that_a_virtiofsd_can_serve_is_accepted(
    virtiofsd: Virtiofsd, share: Share, root: bool
) -> None:
    assert check_share(virtiofsd, share, root=root) is None  # type: ignore[func-returns-value]


def test_refused_read_only_share_names_the_option_that_forgoes_the_protection() -> None:
    for virtiofsd in (WEAK_C, OLD_RUST):
        with pytest.raises(HostError, match="; or --unprotected-read-only, if the guest's root"):
            check_share(virtiofsd, READ_ONLY, root=True)
    old = OLD_RUST.replace(unprotected=True)
    assert "--readonly" not in command(old, READ_ONLY, "--fd=5", "/srv")


def test_error_about_a_missing_directory_has_its_path(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"cannot share {tmp_path}/gone: No such file"):
        check(RUST, [Share("data", writable=False, source=f"{tmp_path}/gone")], root=True)


def test_namespace_advice_names_the_sysctl_or_the_capability(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("0\n")
    advice = "sysctl user.max_user_namespaces=10000 as root, or run chrootvm as root"
    assert sandbox.namespace_hint(root=False, settings=str(tmp_path)) == advice
    assert "CAP_SYS_ADMIN" in sandbox.namespace_hint(root=True)


def test_capabilities_are_read_from_the_status_file(tmp_path: Path) -> None:
    status = tmp_path / "status"
    assert not sandbox.has_capability(sandbox.CAP_SYS_ADMIN, str(status))
    status.write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert sandbox.has_capability(sandbox.CAP_SYS_ADMIN, str(status))
    assert sandbox.has_capability(sandbox.CAP_DAC_READ_SEARCH, str(status))
    status.write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")  # as in a container
    assert not sandbox.has_capability(sandbox.CAP_SYS_ADMIN, str(status))
    assert not sandbox.has_capability(sandbox.CAP_DAC_READ_SEARCH, str(status))


@pytest.mark.parametrize("name", [b"caf\xc3\xa9", b"x\xff", b"a\rb", b"a\x0cb", b"CapEff:0", b""])
def test_name_of_the_program_may_have_any_bytes(name: bytes, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_bytes(b"Name:\t" + name + b"\nUmask:\t0022\nCapEff:\t0000000000200000\n")
    assert sandbox.has_capability(sandbox.CAP_SYS_ADMIN, str(status))
    assert not sandbox.has_capability(sandbox.CAP_SYS_CHROOT, str(status))
