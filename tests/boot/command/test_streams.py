"""The streams of a command in a real machine: data, flow control, end of file, closing."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.command_machine import boot_with_command, run
from tests.boot.conftest import WARM_ONLY
from tests.boot.machine import has_long_queues

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]

WRITE_SIZE = 1 << 20  # bytes
# The guest's driver puts up to 32 KiB into one entry of a port's queue. The rest is in pipes and
# sockets.
ENTRY_SIZE, ELSEWHERE = 32 << 10, 1 << 20  # bytes


def sh(script: str) -> Command:
    return Command((b"sh", b"-c", os.fsencode(script)))


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_standard_input_copied_by_cat_arrives_complete(tmp_path: Path, suite: str) -> None:
    data = random.Random(2).randbytes(10_000_001)
    ended = run(sh("cat; echo end >&2"), str(tmp_path), data, suite=suite)
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(data).digest()
    assert ended.stderr == b"end\n"
    assert ended.message == "exit 0"


@WARM_ONLY
def test_command_sees_end_of_input_only_after_the_last_announced_byte(tmp_path: Path) -> None:
    with boot_with_command(sh("wc -c; wc -c"), str(tmp_path)) as host:
        host.expect("started")
        host.send("eof stdin 100000")
        host.write_port("stdin", b"x" * 99_999)
        for _ in range(5):
            host.read(0.1)
        assert host.received["stdout"] == b""
        host.write_port("stdin", b"x")
        assert host.end().stdout.split() == [b"100000", b"0"]


def test_command_blocks_while_the_host_does_not_read_and_loses_no_output(tmp_path: Path) -> None:
    """The host reads no output until the command has stopped making progress, then all of it.

    The command would write 1 GB. A line on its standard input ends it after its current write.
    """
    write = "dd if=/dev/zero bs=64k count=16 2>/dev/null; echo $i >&2"
    script = f"i=0; until [ $i = 1000 ] || read -t 0 line; do i=$((i+1)); {write}; done"
    with boot_with_command(sh(script), str(tmp_path)) as host:
        host.paused = {"stdout"}
        host.expect_output("stderr", b"3\n")
        progress = b""
        while progress != host.received["stderr"]:
            progress = host.received["stderr"]
            for _ in range(10):
                host.read(0.1)
        host.send_stdin(b"stop\n")
        host.paused.clear()
        ended = host.end()
    most_unread = (1024 if has_long_queues() else 128) * ENTRY_SIZE + ELSEWHERE
    assert int(progress.split()[-1]) * WRITE_SIZE < most_unread
    assert ended.stdout == bytes(int(ended.stderr.split()[-1]) * WRITE_SIZE)
    assert ended.message == "exit 0"


@WARM_ONLY
def test_output_is_delivered_after_the_command_has_ended(tmp_path: Path) -> None:
    with boot_with_command(
        sh("dd if=/dev/zero bs=64k count=40 2>/dev/null"), str(tmp_path)
    ) as host:
        host.paused = {"stdout"}
        host.expect("started")
        for _ in range(20):
            host.read(0.1)
        host.paused.clear()
        assert host.end().stdout == bytes(40 * 65536)


def test_port_closed_by_the_host_ends_its_stream_and_finally_the_machine(tmp_path: Path) -> None:
    script = "cat; yes; echo writer: $? >&2; exec <&-; sleep 1000"
    with boot_with_command(sh(script), str(tmp_path)) as host:
        host.write_port("stdin", b"last line\n")
        host.expect_output("stdout", b"last line\n")
        host.close_port("stdin")
        host.expect_output("stdout", b"last line\ny\n")
        host.close_port("stdout")
        host.expect_output("stderr", b"writer: 141\n")
        host.close_port("control")
        console = host.machine.wait().console if host.machine else ""
    assert "Power down" in console
    assert "initrd:" not in console


@WARM_ONLY
def test_closed_message_ends_a_stream_while_the_machine_keeps_running(tmp_path: Path) -> None:
    with boot_with_command(sh("exec <&-; yes; echo writer: $? >&2; exit 5"), str(tmp_path)) as host:
        assert host.expect("closed") == "stdin"
        host.expect_output("stdout", b"y\n")
        host.send("closed stdout")
        host.expect_output("stderr", b"writer: 141\n")
        assert host.expect("exit") == "5"
        host.send("bye")
