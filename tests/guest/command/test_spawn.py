"""Start a command: search through PATH as execvp(3), directory, user, and error reports."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from initrd.guest.command.spawn import (
    EXECUTE,
    SpawnError,
    SpawnRequest,
    exit_status_of,
    explain_spawn_error,
    find_shell,
    list_candidates,
    spawn,
)
from initrd.guest.command.users import User

PATH = os.environ["PATH"].encode()


def run(*argv: bytes, **changes: object) -> tuple[int, bytes]:
    """Run a command; return its exit status and its output."""
    reader, writer = os.pipe()
    with open(os.devnull, "rb") as dev_null, open(reader, "rb") as file:
        fds = (dev_null.fileno(), writer, 2)
        request = SpawnRequest(argv, {b"PATH": PATH}, b"/", None, fds).replace(**changes)
        try:
            pid = spawn(request)
        finally:
            os.close(writer)
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


@pytest.mark.parametrize(
    "first",
    [
        pytest.param("", id="a file without permission"),
        pytest.param("file", id="a file in the place of a directory"),
        pytest.param("none", id="a missing directory"),
        pytest.param("dangling", id="a dangling link"),
    ],
)
def test_path_search_continues_after_an_error_of_one_directory(first: str, tmp_path: Path) -> None:
    write_program(tmp_path / "tool", "#!/bin/sh\n", 0o644)
    write_program(tmp_path / "good/tool", "#!/bin/sh\necho good\n")
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    path = bytes(tmp_path / first) + b":" + bytes(tmp_path / "good")
    assert run(b"tool", environ={b"PATH": path}) == (0, b"good\n")


@pytest.mark.parametrize(
    ("first", "number"),
    [
        pytest.param("loop", errno.ELOOP, id="a loop of links"),
        pytest.param("x" * 300, errno.ENAMETOOLONG, id="a name that is too long"),
        pytest.param("binary", errno.ENOEXEC, id="a program of no known format"),
    ],
)
def test_path_search_ends_at_other_errors(first: str, number: int, tmp_path: Path) -> None:
    write_program(tmp_path / "binary/tool", "a\0b")
    write_program(tmp_path / "good/tool", "#!/bin/sh\n")
    (tmp_path / "loop").symlink_to("loop")
    path = bytes(tmp_path / first) + b":" + bytes(tmp_path / "good")
    error, _ = expect_spawn_error(b"tool", environ={b"PATH": path})
    assert (error.number, error.path) == (number, bytes(tmp_path / first / "tool"))


def test_path_search_reports_the_first_file_that_exists(tmp_path: Path) -> None:
    write_program(tmp_path / "script/tool", "#!/no/such/shell\n")
    write_program(tmp_path / "data/tool", "", 0o644)
    folders = [bytes(tmp_path / name) for name in ("none", "script", "data")]
    error, _ = expect_spawn_error(b"tool", environ={b"PATH": b":".join(folders)})
    assert (error.number, error.path) == (errno.ENOENT, folders[1] + b"/tool")
    folders.reverse()
    error, _ = expect_spawn_error(b"tool", environ={b"PATH": b":".join(folders)})
    assert (error.number, error.path) == (errno.EACCES, folders[0] + b"/tool")


def test_dangling_link_in_path_is_reported_as_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "tool").symlink_to("nowhere")
    error, _ = expect_spawn_error(b"tool", environ={b"PATH": b"/none:" + bytes(tmp_path)})
    assert (error.number, error.path) == (errno.ENOENT, bytes(tmp_path / "tool"))


def test_text_file_without_an_interpreter_line_runs_in_the_shell(tmp_path: Path) -> None:
    assert run(write_program(tmp_path / "tool", "echo $0 $1\n"), b"x")[1].endswith(b"tool x\n")


def test_text_file_found_in_path_gets_all_arguments(tmp_path: Path) -> None:
    file = write_program(tmp_path / "tool", 'printf \'%s|\' "$0" "$@"\n')
    environ = {b"PATH": b"/nowhere:" + bytes(tmp_path)}
    assert run(b"tool", b"", b"a b", b"", environ=environ) == (0, file + b"||a b||")


def test_text_file_with_a_nul_after_128_bytes_runs_in_the_shell(tmp_path: Path) -> None:
    text = "echo good; exit 3\n"
    late, early = (f"{text}{'#' * (size - len(text))}\0" for size in (128, 127))
    assert run(write_program(tmp_path / "late", late)) == (3, b"good\n")
    assert expect_spawn_error(write_program(tmp_path / "early", early))[0].number == errno.ENOEXEC


def test_empty_executable_file_runs_in_the_shell(tmp_path: Path) -> None:
    assert run(write_program(tmp_path / "tool", "")) == (0, b"")


def test_text_file_that_its_user_cannot_read_counts_as_binary() -> None:
    other = None if os.geteuid() else User(65534, 65534)  # root can read every file
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        file = write_program(Path(folder) / "tool", "echo text\n", 0o111)
        error, _ = expect_spawn_error(file, user=other)
    assert (error.step, error.number, error.path) == (EXECUTE, errno.ENOEXEC, file)


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
    error, text = expect_spawn_error(b"", b"x")
    assert (error.step, error.number, error.path) == (EXECUTE, errno.ENOENT, b"")
    assert exit_status_of(error) == 127
    assert text.startswith("cannot run '': not found in PATH")


def test_long_and_empty_arguments_arrive_unchanged() -> None:
    script = b'printf %s "$1"; printf " %s" "${#1}" "$#"'
    long = b"x" * 10_000
    assert run(b"sh", b"-c", script, b"", long, b"", b"") == (0, long + b" 10000 3")


def test_variables_arrive_unchanged() -> None:
    environ = {b"PATH": PATH, b"EMPTY": b"", b"TEXT": b"a=b\n\xff"}
    assert run(b"env", b"-0", environ=environ)[1].split(b"\0")[:-1] == [
        b"PATH=" + PATH,
        b"EMPTY=",
        b"TEXT=a=b\n\xff",
    ]


def test_argument_that_is_too_long_is_reported_with_the_file() -> None:
    error, _ = expect_spawn_error(b"sh", b"x" * 200_000)
    assert (error.step, error.number) == (EXECUTE, errno.E2BIG)
    assert error.path.endswith(b"/sh")


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


def test_program_is_executed_under_the_name_in_its_arguments() -> None:
    script = b"echo $0"
    assert run(b"-sh", b"-c", script, program=b"/bin/sh") == (0, b"-sh\n")


def test_error_about_a_program_names_the_program() -> None:
    failure, message = expect_spawn_error(b"-sh", program=b"/no/sh")
    assert exit_status_of(failure) == 127
    assert message.startswith("cannot run /no/sh: ")


def test_login_shell_is_that_of_the_user_or_bin_sh(tmp_path: Path) -> None:
    zsh = write_program(tmp_path / "zsh", "")
    assert find_shell(zsh) == zsh
    zsh_without_permission = write_program(tmp_path / "no zsh", "", 0o644)
    for shell in (b"", b"sh", b"/no/such/shell", zsh_without_permission):
        assert find_shell(shell) == b"/bin/sh"
