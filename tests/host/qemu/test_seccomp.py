"""Whether a QEMU has a system call filter."""

import os
import sys
from pathlib import Path

import pytest

from initrd.host.qemu.seccomp import SANDBOX, answer_to_probe, has_sandbox
from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from tests.host.conftest import write_program

# A program whose file has not just changed, so that the cache takes it.
ELF = os.path.realpath(sys.executable)
WITH = b"qemu: -sandbox on,initrd-probe=on: Invalid parameter 'initrd-probe'\n"
WITHOUT = b"qemu: -sandbox on,initrd-probe=on: There is no option group 'sandbox'\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(WITH, True), (WITHOUT, False), (b"", False), (b"\xff", False)],
    ids=["built in", "not built in", "no answer", "not text"],
)
def test_an_answer_tells_whether_there_is_a_filter(
    answer: bytes, expected: bool, cache: Cache
) -> None:
    assert has_sandbox("/bin/true", cache, lambda _: answer) is expected


def test_a_program_is_asked_once(cache: Cache) -> None:
    asked: list[str] = []

    def ask(program: str) -> bytes:
        asked.append(program)
        return WITH

    assert [has_sandbox(ELF, cache, ask) for _ in range(3)] == [True] * 3
    assert asked == [ELF]


def test_an_output_that_is_no_answer_is_not_kept(cache: Cache) -> None:
    answers = [WITH, b"error while loading shared libraries: libseccomp.so.2\n"]
    assert [has_sandbox(ELF, cache, lambda _: answers.pop()) for _ in range(3)] == [
        False,
        True,
        True,
    ]


def test_a_script_is_asked_each_time_because_it_may_start_another_program(
    tmp_path: Path, cache: Cache
) -> None:
    script = write_program(tmp_path / "qemu")
    answers = [WITH, WITHOUT]
    assert [has_sandbox(script, cache, lambda _: answers.pop()) for _ in range(2)] == [False, True]


def test_a_program_that_cannot_be_run_has_no_filter(cache: Cache) -> None:
    def fail(_: str) -> bytes:
        raise HostError("cannot run it", "no")

    assert not has_sandbox("/nowhere/qemu", cache, fail)


def test_a_program_is_asked_for_a_parameter_that_does_not_exist(tmp_path: Path) -> None:
    qemu = write_program(tmp_path / "qemu", 'echo "$@"')
    assert answer_to_probe(qemu) == b"-sandbox on,initrd-probe=on\n"


def test_the_filter_denies_programs_privileges_and_obsolete_calls() -> None:
    value = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert ("-sandbox", value) == SANDBOX
