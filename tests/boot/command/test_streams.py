"""The streams of a command in a real machine: every byte, in both directions, and both ends."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.ports import commanded, run

pytestmark = pytest.mark.boot

WRITES = 200  # of 64 kB each


def sh(script: str) -> Command:
    return Command((b"sh", b"-c", os.fsencode(script)))


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_every_byte_comes_back(tmp_path: Path, suite: str) -> None:
    data = random.Random(2).randbytes(10_000_001)
    ended = run(sh("cat; echo end >&2"), str(tmp_path), data, suite=suite)
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(data).digest()
    assert ended.stderr == b"end\n"
    assert ended.message == "exit 0"


def test_the_end_of_input_is_seen_at_its_last_byte(tmp_path: Path) -> None:
    with commanded(sh("wc -c; wc -c"), str(tmp_path)) as host:
        host.expect("started")
        host.tell("eof stdin 100000")
        host.feed("stdin", b"x" * 99_999)
        for _ in range(5):
            host.read(0.1)
        assert host.received["stdout"] == b""
        host.feed("stdin", b"x")
        assert host.end().stdout.split() == [b"100000", b"0"]


def test_the_writer_waits_for_the_reader_and_nothing_is_lost(tmp_path: Path) -> None:
    """The host reads nothing until the command has long stopped to get on, and then everything."""
    write = "dd if=/dev/zero bs=64k count=1 2>/dev/null; echo $i >&2"
    script = f"i=0; while [ $i -lt {WRITES} ]; do i=$((i+1)); {write}; done"
    with commanded(sh(script), str(tmp_path)) as host:
        host.paused = {"stdout"}
        host.expect_output("stderr", b"3\n")
        progress = b""
        while progress != host.received["stderr"]:
            progress = host.received["stderr"]
            for _ in range(10):
                host.read(0.1)
        written = int(progress.split()[-1])
        host.paused.clear()
        ended = host.end()
    assert written < WRITES * 3 / 4
    assert ended.stdout == bytes(WRITES * 65536)
    assert ended.message == "exit 0"


def test_output_is_delivered_though_the_command_has_ended_long_ago(tmp_path: Path) -> None:
    with commanded(sh("dd if=/dev/zero bs=64k count=40 2>/dev/null"), str(tmp_path)) as host:
        host.paused = {"stdout"}
        host.expect("started")
        for _ in range(20):
            host.read(0.1)
        host.paused.clear()
        assert host.end().stdout == bytes(40 * 65536)


def test_each_side_notices_when_the_other_hangs_up(tmp_path: Path) -> None:
    script = "cat; yes; echo writer: $? >&2; exec <&-; sleep 1000"
    with commanded(sh(script), str(tmp_path)) as host:
        host.feed("stdin", b"last words\n")
        host.expect_output("stdout", b"last words\n")
        host.hang_up("stdin")
        host.expect_output("stdout", b"last words\ny\n")
        host.hang_up("stdout")
        host.expect_output("stderr", b"writer: 141\n")
        host.hang_up("control")
        console = host.machine.wait().console if host.machine else ""
    assert "Power down" in console
    assert "initrd:" not in console


def test_a_reader_can_be_done_with_it_while_the_machine_runs_on(tmp_path: Path) -> None:
    with commanded(sh("exec <&-; yes; echo writer: $? >&2; exit 5"), str(tmp_path)) as host:
        assert host.expect("closed") == "stdin"
        host.expect_output("stdout", b"y\n")
        host.tell("closed stdout")
        host.expect_output("stderr", b"writer: 141\n")
        assert host.expect("exit") == "5"
        host.tell("bye")
