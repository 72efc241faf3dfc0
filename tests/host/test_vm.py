"""The Python interface, as far as it goes without a machine."""

import socket
import subprocess
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host import vm
from initrd.host.command import capture
from initrd.host.machine.cli import OPTIONS, parse
from initrd.host.vm import KEYWORDS

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"memory": "2G", "cpus": 2}, ["--memory=2G", "--cpus=2"]),
        ({"net": True, "rw": False, "overlay": True}, ["--net", "--overlay"]),
        ({"overlay": Path("/a b")}, ["--overlay=/a b"]),
        ({"kernel": None}, []),
        ({"module": ["a", "b"]}, ["--module=a", "--module=b"]),
        ({"append": "a b"}, ["--append=a b"]),
        ({"qemu_arg": ["-s"]}, ["--qemu-arg=-s"]),
        ({"env": {"A": "b=c", "N": 1}}, ["--env=A=b=c", "--env=N=1"]),
        ({"env": "A"}, ["--env=A"]),
        ({"mount_ro": {"t": Path("/a:b")}}, ["--mount-ro", "t", "/a:b"]),
    ],
)
def test_keywords_are_options(options: dict[str, object], words: list[str]) -> None:
    assert vm.option_words(options) == words
    assert not parse(words).root


def test_every_option_of_a_machine_is_a_keyword() -> None:
    people = {"--help", "--version", "--doctor", "--dry-run", "--verbose", "--timeout"}
    names = {f"--{name.replace('_', '-')}" for name in KEYWORDS}
    assert names == {option.name for option in OPTIONS} - people


@pytest.mark.parametrize("name", ["nosuch", "help", "timeout_", "mount-ro"])
def test_an_unknown_keyword_is_a_mistake_that_names_the_known(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}.*there are accel, append.*virtiofsd"):
        vm.option_words({name: True})


@pytest.mark.parametrize("words", [["--help"], ["--timeout", "5"], ["/root"], ["a", "--", "b"]])
def test_words_that_are_no_options_are_refused(words: list[str]) -> None:
    with pytest.raises(HostError, match=r"cannot use '.*' here"):
        vm.run("/", "true", words=words)


@pytest.mark.parametrize("command", [[], ()])
def test_there_must_be_a_command(command: list[str]) -> None:
    with pytest.raises(HostError, match="no command"):
        vm.run("/", command)


def test_what_cannot_be_launched_is_an_error_and_nothing_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="no kernel in"):
        vm.run(TOP, "true", stdout=subprocess.DEVNULL, input="text")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def read(given: "capture.File", data: bytes) -> bytes:
    with capture.open_input(given, data) as number, open(number, "rb", closefd=False) as file:
        return file.read()


def test_input_may_be_bytes_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    with (tmp_path / "file").open("rb") as file:
        assert read(file, b"bytes") == b"file"
        assert read(file.fileno(), b"bytes") == b""
    assert read(subprocess.DEVNULL, b"") == b""
    assert read(None, b"a" * 100000) == b"a" * 100000


@pytest.mark.parametrize("nothing", [None, subprocess.PIPE])
def test_what_is_not_for_a_file_is_collected(nothing: int | None) -> None:
    with capture.open_output(nothing) as number:
        assert number == capture.CAPTURED


def test_output_may_be_whatever_has_a_descriptor() -> None:
    here, there = socket.socketpair()
    with here, there, capture.open_output(here) as number:
        assert number == here.fileno()


def test_streams_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="-2 is no file"), capture.open_output(subprocess.STDOUT):
        pass


def test_a_project_without_a_directory_is_told_what_to_set(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    pytester.makepyfile("def test_it(vm): pass")
    ran = pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["E *no directory for the fixture vm: give --vm-root DIR, or *"])


def test_without_the_fixture_the_plugin_costs_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin").assert_outcomes(passed=1)
