"""How a command is found and executed: as execvp(3) does it."""

import errno
import os
from pathlib import Path

import pytest

from initrd.guest.command.spawn import (
    EXECUTE,
    SpawnError,
    SpawnRequest,
    candidates,
    exit_status_of,
    explain_spawn_error,
    spawn,
)
from initrd.guest.command.users import User

PATH = os.environ["PATH"].encode()


def run(*argv: bytes, **changes: object) -> tuple[int, bytes]:
    """Run a command; return its exit status and its output."""
    reader, writer = os.pipe()
    with open(os.devnull, "rb") as nothing:
        fds = (nothing.fileno(), writer, 2)
        what = SpawnRequest(argv, {b"PATH": PATH}, b"/", None, fds).replace(**changes)
        try:
            pid = spawn(what)
        finally:
            os.close(writer)
    with open(reader, "rb") as file:
        output = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output


def failure(*argv: bytes, **changes: object) -> tuple[SpawnError, str]:
    with pytest.raises(SpawnError) as raised:
        run(*argv, **changes)
    what = SpawnRequest(argv, {b"PATH": PATH}, b"/", None, ()).replace(**changes)
    return raised.value, explain_spawn_error(raised.value, what)


def program(path: Path, content: str, mode: int = 0o755) -> bytes:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return bytes(path)


@pytest.mark.parametrize(
    ("name", "path", "files"),
    [
        (b"x", b"/a:/b", (b"/a/x", b"/b/x")),
        (b"x", b"/a::b", (b"/a/x", b"./x", b"b/x")),
        (b"x", b"", (b"./x",)),
        (b"./x", b"/a", (b"./x",)),
        (b"/x", b"/a", (b"/x",)),
        (b"a/x", b"/a", (b"a/x",)),
        (b"", b"/a", ()),
    ],
)
def test_names_without_a_slash_are_looked_up(
    name: bytes, path: bytes, files: tuple[bytes, ...]
) -> None:
    assert candidates(name, path) == files


def test_arguments_and_status_are_the_commands() -> None:
    assert run(b"sh", b"-c", b'printf %s "$1"; exit 7', b"x", b"\xff 'a\n") == (7, b"\xff 'a\n")


def test_the_first_that_can_be_executed_is(tmp_path: Path) -> None:
    program(tmp_path / "a/tool", "#!/bin/sh\necho a\n", 0o644)
    program(tmp_path / "b/tool", "#!/bin/sh\necho b\n")
    program(tmp_path / "c/tool", "#!/bin/sh\necho c\n")
    path = b":".join(bytes(tmp_path / name) for name in ("none", "a", "b", "c"))
    assert run(b"tool", environ={b"PATH": path}) == (0, b"b\n")


def test_a_text_without_an_interpreter_is_a_shell_script(tmp_path: Path) -> None:
    assert run(program(tmp_path / "tool", "echo $0 $1\n"), b"x")[1].endswith(b"tool x\n")


def test_it_runs_where_it_was_asked_to(tmp_path: Path) -> None:
    program(tmp_path / "tool", "#!/bin/sh\npwd\n")
    assert run(b"./tool", cwd=bytes(tmp_path)) == (0, bytes(tmp_path) + b"\n")


@pytest.mark.parametrize(
    ("name", "content", "mode", "status", "words"),
    [
        pytest.param("tool", "#!/bin/sh\n", 0o644, 126, "it is not executable", id="mode"),
        pytest.param("tool", "#!/no/sh\n", 0o755, 127, "a script for /no/sh", id="interpreter"),
        pytest.param("tool", "a\0b", 0o755, 126, "neither an ELF program nor a script", id="data"),
        pytest.param("other", "", 0o755, 127, "there is no such file", id="nothing"),
    ],
)
def test_why_a_file_cannot_be_executed_is_said(  # noqa: PLR0917
    name: str, content: str, mode: int, status: int, words: str, tmp_path: Path
) -> None:
    program(tmp_path / name, content, mode)
    for argv0, changes in (
        (bytes(tmp_path / "tool"), {}),
        (b"./tool", {"cwd": bytes(tmp_path)}),
    ):
        error, text = failure(argv0, **changes)
        assert (error.step, exit_status_of(error)) == (EXECUTE, status)
        assert words in text
        assert text.startswith(f"cannot run {argv0.decode()}: ")


def test_a_file_found_through_path_says_more_than_those_that_are_not(tmp_path: Path) -> None:
    program(tmp_path / "tool", "#!/no/such/python\n")
    environ = {b"PATH": b"/none:" + bytes(tmp_path) + b":/nowhere"}
    error, text = failure(b"tool", environ=environ)
    assert exit_status_of(error) == 127
    assert "/no/such/python" in text


def test_what_is_nowhere_names_the_path() -> None:
    error, text = failure(b"no such tool", environ={b"PATH": b"/a:/b"})
    assert exit_status_of(error) == 127
    assert text == "cannot run no such tool: not found in PATH (/a:/b)"


def test_a_command_without_a_name_is_not_found() -> None:
    error, text = failure(b"")
    assert exit_status_of(error) == 127
    assert text.startswith("cannot run '': not found in PATH")


def test_too_many_arguments_are_called_that() -> None:
    error, text = failure(b"sh", *(b"x" * 100_000 for _ in range(200)))
    assert (error.number, exit_status_of(error)) == (errno.E2BIG, 126)
    assert "Argument list too long" in text


@pytest.mark.parametrize("cwd", [b"", b"/no/such/place", b"/etc/passwd"])
def test_a_directory_that_cannot_be_entered_is_not_the_commands_fault(cwd: bytes) -> None:
    error, _ = failure(b"true", cwd=cwd)
    assert (error.step, error.path) == ("enter the directory", cwd)


def test_nobody_becomes_who_he_may_not() -> None:
    error, _ = failure(b"true", user=User(1 << 40, 1 << 40))
    assert error.step == "become user"


def test_no_process_is_left_of_a_failure() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    failure(b"/no/such/file")
    assert children.read_text() == before


@pytest.mark.parametrize("cwd", [b"/nowhere", b"/dev/null", b"/" + b"x" * 300])
def test_a_directory_that_is_not_there_is_a_wish_that_is_not_granted(cwd: bytes) -> None:
    assert failure(b"true", cwd=cwd)[0].is_refusal()


def test_what_the_machine_cannot_do_is_no_wish() -> None:
    assert not SpawnError("enter the directory", errno.EIO, b"/").is_refusal()
    assert not failure(b"/nowhere")[0].is_refusal()
