"""Two families of virtiofsd: told apart by what they say, and spoken to in their own words."""

import resource
from pathlib import Path

import pytest

from initrd.host import openfiles, sandbox
from initrd.host.failure import HostError
from initrd.host.virtiofsd import (
    Dialect,
    Directory,
    ask,
    check,
    check_dialect,
    command,
    serve,
    understand,
)

C_HELP = "usage: virtiofsd [options]\n  -o source=PATH  shared directory tree\n"
RUST_HELP = "Usage: virtiofsd --shared-dir <SHARED_DIR>\n  --readonly\n"
OLD_RUST_HELP = "USAGE: virtiofsd --shared-dir <shared-dir>\n"
C = Dialect("/c/virtiofsd", "c")
RUST = Dialect("/rust/virtiofsd", "rust", readonly=True)
OLD_RUST = RUST.replace(readonly=False)
READ_ONLY, WRITABLE = Directory("/srv/a,b :c"), Directory("/srv/a,b :c", writable=True)


def program(folder: Path, script: str) -> str:
    path = folder / "virtiofsd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "dialect"),
    [
        pytest.param(C_HELP, Dialect("x", "c"), id="c"),
        pytest.param(
            f"{C_HELP}  -o killpriv_v2/no_killpriv_v2\n",
            Dialect("x", "c", killpriv=True),
            id="c with killpriv",
        ),
        pytest.param(RUST_HELP, Dialect("x", "rust", readonly=True), id="rust"),
        pytest.param(OLD_RUST_HELP, Dialect("x", "rust"), id="rust before --readonly"),
        pytest.param(
            f"{RUST_HELP}  --inode-file-handles <INODE_FILE_HANDLES>\n",
            Dialect("x", "rust", readonly=True, handles=True),
            id="rust with file handles",
        ),
        pytest.param(
            f"{RUST_HELP}  --killpriv-v2\n",
            Dialect("x", "rust", readonly=True, killpriv=True),
            id="rust with killpriv",
        ),
    ],
)
def test_the_dialect_is_what_the_help_says(answer: str, dialect: Dialect) -> None:
    assert understand("x", answer) == dialect


def test_the_program_itself_is_asked(tmp_path: Path) -> None:
    path = program(tmp_path, 'test "$1" = --help && echo "  --shared-dir <DIR>  --readonly"')
    assert ask(path) == Dialect(path, "rust", readonly=True)


def test_help_on_standard_error_and_a_bad_status_will_do(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo "    -o source=PATH" >&2; exit 1')
    assert ask(path).family == "c"


@pytest.mark.parametrize("script", ["echo hello", "exit 1", "kill $$"])
def test_another_program_is_refused(tmp_path: Path, script: str) -> None:
    with pytest.raises(HostError, match="is no virtiofsd"):
        ask(program(tmp_path, script))


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot run .*/gone: No such file"):
        ask(str(tmp_path / "gone"))


def test_rust_is_told_the_path_in_one_word() -> None:
    words = command(RUST, WRITABLE, "--fd=5", WRITABLE.path)
    assert words[:3] == ("/rust/virtiofsd", "--fd=5", "--shared-dir=/srv/a,b :c")
    assert "--readonly" not in words


@pytest.mark.parametrize(
    ("limit", "handles", "said"),
    [
        pytest.param(openfiles.ENOUGH, True, False, id="enough files"),
        pytest.param(20_000, True, True, id="few files"),
        pytest.param(20_000, False, False, id="few files, and no such option"),
        pytest.param(resource.RLIM_INFINITY, True, False, id="no limit"),
    ],
)
def test_rust_holds_no_files_open_where_few_can_be(
    monkeypatch: pytest.MonkeyPatch, limit: int, handles: bool, said: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, limit))
    monkeypatch.setattr(sandbox, "may", lambda _: True)
    words = command(RUST.replace(handles=handles), WRITABLE, "--fd=5", WRITABLE.path)
    assert ("--inode-file-handles=prefer" in words) == said


def test_handles_are_not_for_whoever_may_not_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    monkeypatch.setattr(sandbox, "may", lambda _: False)
    words = command(RUST.replace(handles=True), WRITABLE, "--fd=5", WRITABLE.path)
    assert "--inode-file-handles=prefer" not in words


@pytest.mark.parametrize(
    ("killpriv", "directory", "said"),
    [(True, WRITABLE, True), (True, READ_ONLY, False), (False, WRITABLE, False)],
)
def test_privileges_are_dropped_by_virtiofsd(
    killpriv: bool, directory: Directory, said: bool
) -> None:
    words = command(RUST.replace(killpriv=killpriv), directory, "--fd=5", directory.path)
    assert ("--killpriv-v2" in words) == said
    words = command(C.replace(killpriv=killpriv), directory, "--fd=5", "/proc/self/fd/6")
    assert words[-1].endswith(",killpriv_v2") == said


def test_rust_has_a_read_only_mode() -> None:
    assert "--readonly" in command(RUST, READ_ONLY, "--fd=5", READ_ONLY.path)


def test_rust_is_not_shut_into_what_is_its_root_anyway() -> None:
    slash = Directory("/")
    assert "--sandbox=none" in command(RUST, slash, "--fd=5", slash.path)
    assert "--sandbox=none" not in command(RUST, READ_ONLY, "--fd=5", READ_ONLY.path)


def test_c_is_told_a_descriptor_because_a_comma_would_end_the_path() -> None:
    program = serve(C, WRITABLE, listener=5, top=6)
    assert "-f" in program.command
    assert "--fd=5" in program.command
    assert program.command[-1].startswith("source=/proc/self/fd/6/.,sandbox=chroot")
    assert program.descriptors == (5, 6)


def test_rust_inherits_the_socket_and_nothing_else() -> None:
    assert serve(RUST, READ_ONLY, listener=5, top=6).descriptors == (5,)


def test_c_read_only_is_made_so_before_it_starts() -> None:
    plain = serve(C, WRITABLE, listener=5, top=6)
    readonly = serve(C, READ_ONLY, listener=5, top=6)
    assert readonly.command == plain.command
    assert readonly.before != plain.before


@pytest.mark.parametrize(
    ("dialect", "directory", "root", "why"),
    [
        pytest.param(C, WRITABLE, False, "only root can use", id="c, not as root"),
        pytest.param(OLD_RUST, READ_ONLY, True, "too old", id="rust without --readonly"),
    ],
)
def test_what_cannot_be_done_is_refused(
    dialect: Dialect, directory: Directory, root: bool, why: str
) -> None:
    with pytest.raises(HostError, match=f"{why}.*\ntry: "):
        check_dialect(dialect, directory, root=root)


@pytest.mark.parametrize(
    ("dialect", "directory", "root"),
    [(C, READ_ONLY, True), (RUST, READ_ONLY, False), (OLD_RUST, WRITABLE, False)],
)
def test_what_can_be_done_is_not_refused(
    dialect: Dialect, directory: Directory, root: bool
) -> None:
    assert check_dialect(dialect, directory, root=root) is None  # type: ignore[func-returns-value]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"cannot share {tmp_path}/gone: No such file"):
        check(RUST, [Directory(f"{tmp_path}/gone")], root=True)


def test_what_the_kernel_refuses_is_told_with_what_may_help(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("0\n")
    how = "sysctl user.max_user_namespaces=10000 as root, or run chrootvm as root"
    assert sandbox.advice(root=False, settings=str(tmp_path)) == how
    assert "CAP_SYS_ADMIN" in sandbox.advice(root=True)


def test_a_root_that_was_deprived_is_known_by_its_capabilities(tmp_path: Path) -> None:
    status = tmp_path / "status"
    assert not sandbox.may(sandbox.CAP_SYS_ADMIN, str(status))
    status.write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert sandbox.may(sandbox.CAP_SYS_ADMIN, str(status))
    assert sandbox.may(sandbox.CAP_DAC_READ_SEARCH, str(status))
    status.write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")  # as in a container
    assert not sandbox.may(sandbox.CAP_SYS_ADMIN, str(status))
    assert not sandbox.may(sandbox.CAP_DAC_READ_SEARCH, str(status))
