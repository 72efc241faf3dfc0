"""initrd.host.vm and the pytest plugin: keywords, streams and errors, without a machine."""

import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from initrd.host import vm
from initrd.host.command import capture
from initrd.host.machine.cli import OPTIONS, parse
from initrd.host.system.hosterror import HostError
from initrd.host.vm import KEYWORDS

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"memory": "2G", "cpus": 2}, ["--memory=2G", "--cpus=2"]),
        ({"net": True, "rw": False, "overlay": True}, ["--net", "--overlay"]),
        ({"net": "host"}, ["--net=host"]),
        ({"overlay": Path("/a b")}, ["--overlay=/a b"]),
        ({"kernel": None}, []),
        ({"module": ["a", "b"]}, ["--module=a", "--module=b"]),
        ({"append": "a b"}, ["--append=a b"]),
        ({"qemu_arg": ["-s"]}, ["--qemu-arg=-s"]),
        ({"env": {"A": "b=c", "N": 1}}, ["--env=A=b=c", "--env=N=1"]),
        ({"env": "A"}, ["--env=A"]),
        ({"warm": True, "cache_limit": "1G"}, ["--warm", "--cache-limit=1G"]),
        ({"warm": False}, []),
        ({"mount_ro": {"t": Path("/a:b")}}, ["--mount-ro", "t", "/a:b"]),
    ],
)
def test_keywords_become_options_of_chrootvm(options: dict[str, object], words: list[str]) -> None:
    assert vm.option_words(options) == words
    assert not parse(words).root


def test_each_option_that_describes_a_machine_is_a_keyword() -> None:
    for_terminals = {"--help", "--version", "--doctor", "--dry-run", "--verbose", "--timeout"}
    for_terminals |= {"--name", "--detach", "--in", "--list", "--json", "--stop"}
    for_terminals |= {"--clean-cache", "--gdb", "--report"}
    names = {f"--{name.replace('_', '-')}" for name in KEYWORDS}
    assert names == {option.name for option in OPTIONS} - for_terminals


@pytest.mark.parametrize("name", ["nosuch", "help", "timeout_", "mount-ro"])
def test_unknown_keyword_is_a_type_error_with_the_known_ones(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}.*there are accel, append.*virtiofsd"):
        vm.option_words({name: True})


@pytest.mark.parametrize("options", [{"env": {"A": "b"}}, {"user": "eve"}, {"words": ["--env=A"]}])
def test_setting_of_a_command_is_refused_for_a_machine(options: Any) -> None:
    with pytest.raises(HostError, match=r"it is for a command: an argument of Machine\.run"):
        vm.boot("/", **options)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--timeout", "5"], ["--gdb"], ["--report", "file"], ["/root"], ["a", "--", "b"]],
)
def test_words_that_describe_no_machine_are_refused(words: list[str]) -> None:
    with pytest.raises(HostError, match=r"cannot use '.*' here"):
        vm.run("/", "true", words=words)


@pytest.mark.parametrize("command", [[], ()])
def test_empty_command_is_refused(command: list[str]) -> None:
    with pytest.raises(HostError, match="no command"):
        vm.run("/", command)


def test_failed_launch_raises_and_leaves_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="no kernel in"):
        vm.run(TOP, "true", stdout=subprocess.DEVNULL, input="text")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def read_input(file: "capture.File", data: bytes) -> bytes:
    with capture.open_input(file, data) as number, open(number, "rb", closefd=False) as stdin:
        return stdin.read()


def test_input_may_be_bytes_a_file_or_devnull(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    with (tmp_path / "file").open("rb") as file:
        assert read_input(file, b"bytes") == b"file"
        assert read_input(file.fileno(), b"bytes") == b""
    assert read_input(subprocess.DEVNULL, b"") == b""
    assert read_input(None, b"a" * 100000) == b"a" * 100000


@pytest.mark.parametrize("stdout", [None, subprocess.PIPE])
def test_output_without_a_file_is_captured(stdout: int | None) -> None:
    with capture.open_output(stdout) as number:
        assert number == capture.CAPTURED


def test_output_may_be_an_object_with_a_fileno_method() -> None:
    one, other = socket.socketpair()
    with one, other, capture.open_output(one) as number:
        assert number == one.fileno()


def test_subprocess_stdout_is_refused_as_an_output() -> None:
    with pytest.raises(ValueError, match="-2 is no file"), capture.open_output(subprocess.STDOUT):
        pass


def test_plugin_error_names_the_option_for_the_directory(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    pytester.makepyfile("def test_it(vm): pass")
    result = pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *no directory for the fixture vm: give --vm-root DIR, or *"])


def test_plugin_does_not_affect_tests_without_its_fixture(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("timeout", "error", "text"),
    [
        ("x", TypeError, "timeout is a number of seconds or None, not 'x'"),
        (float("nan"), ValueError, "not NaN"),
    ],
    ids=["text", "NaN"],
)
def test_timeout_is_a_number(timeout: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        vm.run("/", ["true"], timeout=timeout)
    with pytest.raises(error, match=text):
        vm.boot("/", timeout=timeout)


def test_time_that_planning_takes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_slowly(*_: object) -> SimpleNamespace:
        time.sleep(0.1)
        return SimpleNamespace(setup=SimpleNamespace(descriptors=()))

    monkeypatch.setattr(vm, "plan_command", plan_slowly)
    with pytest.raises(vm.TimeoutExpired):  # no machine is started
        vm.run("/", ["true"], timeout=0.05)
