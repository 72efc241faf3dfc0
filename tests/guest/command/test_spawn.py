"""Start a command: search through PATH as execvp(3), directory, user, and error reports."""

import errno
import os
from pathlib import Path

import pytest

from initrd.guest.command.spawn import (
    EXECUTE,
    SpawnError,
    SpawnRequest,
    exit_status_of,
    explain_spawn_error,
    list_candidates,
    spawn,
)
from initrd.guest.command.users import User

PATH = os.environ["PATH"].encode()


def run(*argv: bytes, **changes: object) -> tuple[int, bytes]:
    """Run a command; return its exit status and its output."""
    reader, writer = os.pipe()
    with open(os.devnull, "rb") as dev_null:
        fds = (dev_null.fileno(), writer, 2)
        request = SpawnRequest(argv, {b"PATH": PATH}, b"/", None, fds).replace(**changes)
        try:
            pid = spawn(request)
        finally:
            os.close(writer)
    with open(reader, "rb") as file:
        output = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output


def expect_spawn_error(*argv: bytes, **changes: object) -> tuple[SpawnError, str]:
    """Run a command that cannot be started; return the error and its message."""
    with pytest.raises(SpawnError) as raised:
        run(*argv, **changes)
    request = SpawnRequest(argv, {b"PATH": PATH}, b"/", None, ()).replace(**changes)
    return raised.value, explain_spawn_error(raised.value, request)


def write_program(path: Path, content: str, mode: int = 0o755) -> bytes:
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
def test_command_name_without_a_slash_is_searched_in_path(
    name: bytes, path: bytes, files: tuple[bytes, ...]
) -> None:
    assert list_candidates(name, path) == files


def test_command_gets_its_arguments_and_returns_its_status() -> None:
    assert run(b"sh", b"-c", b'printf %s "$1"; exit 7', b"x", b"\xff 'a\n") == (7, b"\xff 'a\n")


def test_path_search_executes_the_first_executable_file(tmp_path: Path) -> None:
    write_program(tmp_path / "a/tool", "#!/bin/sh\necho a\n", 0o644)
    write_program(tmp_path / "b/tool", "#!/bin/sh\necho b\n")
    write_program(tmp_path / "c/tool", "#!/bin/sh\necho c\n")
    path = b":".join(bytes(tmp_path / name) for name in ("none", "a", "b", "c"))
    assert run(b"tool", environ={b"PATH": path}) == (0, b"b\n")


def test_text_file_without_an_interpreter_line_runs_in_the_shell(tmp_path: Path) -> None:
    assert run(write_program(tmp_path / "tool", "echo $0 $1\n"), b"x")[1].endswith(b"tool x\n")


def test_command_runs_in_its_working_directory(tmp_path: Path) -> None:
    write_program(tmp_path / "tool", "#!/bin/sh\npwd\n")
    assert run(b"./tool", cwd=bytes(tmp_path)) == (0, bytes(tmp_path) + b"\n")


@pytest.mark.parametrize(
    ("name", "content", "mode", "status", "words"),
    [
        pytest.param(
            "tool", "#!/bin/sh\n", 0o644, 126, "it is not executable", id="no execute permission"
        ),
        pytest.param(
            "tool", "#!/no/sh\n", 0o755, 127, "a script for /no/sh", id="missing interpreter"
        ),
        pytest.param(
            "tool", "a\0b", 0o755, 126, "neither an ELF program nor a script", id="binary data"
        ),
        pytest.param("other", "", 0o755, 127, "there is no such file", id="missing file"),
    ],
)
def test_message_explains_why_a_file_cannot_be_executed(  # noqa: PLR0917
    name: str, content: str, mode: int, status: int, words: str, tmp_path: Path
) -> None:
    write_program(tmp_path / name, content, mode)
    for argv0, changes in (
        (bytes(tmp_path / "tool"), {}),
        (b"./tool", {"cwd": bytes(tmp_path)}),
    ):
        error, text = expect_spawn_error(argv0, **changes)
        assert (error.step, exit_status_of(error)) == (EXECUTE, status)
        assert words in text
        assert text.startswith(f"cannot run {argv0.decode()}: ")


def test_message_is_about_the_file_found_in_path_not_the_missing_ones(tmp_path: Path) -> None:
    write_program(tmp_path / "tool", "#!/no/such/python\n")
    environ = {b"PATH": b"/none:" + bytes(tmp_path) + b":/nowhere"}
    error, text = expect_spawn_error(b"tool", environ=environ)
    assert exit_status_of(error) == 127
    assert "/no/such/python" in text


def test_message_for_a_command_that_is_not_found_contains_path() -> None:
    error, text = expect_spawn_error(b"no such tool", environ={b"PATH": b"/a:/b"})
    assert exit_status_of(error) == 127
    assert text == "cannot run no such tool: not found in PATH (/a:/b)"


def test_command_with_an_empty_name_is_not_found() -> None:
    error, text = expect_spawn_error(b"")
    assert exit_status_of(error) == 127
    assert text.startswith("cannot run '': not found in PATH")


def test_too_many_arguments_are_reported_as_e2big() -> None:
    error, text = expect_spawn_error(b"sh", *(b"x" * 100_000 for _ in range(200)))
    assert (error.number, exit_status_of(error)) == (errno.E2BIG, 126)
    assert "Argument list too long" in text


@pytest.mark.parametrize("cwd", [b"", b"/no/such/place", b"/etc/passwd"])
def test_error_names_an_unusable_working_directory_and_the_step(cwd: bytes) -> None:
    error, _ = expect_spawn_error(b"true", cwd=cwd)
    assert (error.step, error.path) == ("enter the directory", cwd)


def test_failure_to_change_the_user_is_reported_as_that_step() -> None:
    error, _ = expect_spawn_error(b"true", user=User(1 << 40, 1 << 40))
    assert error.step == "become user"


def test_failed_start_leaves_no_child_process() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    expect_spawn_error(b"/no/such/file")
    assert children.read_text() == before


@pytest.mark.parametrize("cwd", [b"/nowhere", b"/dev/null", b"/" + b"x" * 300])
def test_missing_working_directory_is_a_refusal(cwd: bytes) -> None:
    assert expect_spawn_error(b"true", cwd=cwd)[0].is_refusal()


def test_machine_errors_and_missing_programs_are_no_refusal() -> None:
    assert not SpawnError("enter the directory", errno.EIO, b"/").is_refusal()
    assert not expect_spawn_error(b"/nowhere")[0].is_refusal()
