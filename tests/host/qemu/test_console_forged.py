"""Console output that root in the guest has forged: read in linear time, and shortened."""

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest

from initrd.host.qemu.console import (
    ConsoleLog,
    explain_boot_failure,
    explain_oom_kill,
    find_boot_failure,
    find_panic,
    parse_ending,
)

SIZE = 1 << 20  # bytes: as much as the log keeps at least
MEMORY = 256 << 20
PIECES = {
    "an OOM kill without an end": "Out of memory: Killed process 1 (",
    "an OOM kill": "Out of memory: Killed process 1 (a)\n",
    "digits": "Out of memory: Killed process 11111111111111111111",
    "a line of init": "initrd: x\n",
    "a line of init with a timestamp": "[    1.1] initrd: x\n",
    "a failed boot": "initrd: boot failed: x\n",
    "failed boots on one line": "initrd: boot failed: x",
    "a panic": "Kernel panic - not syncing: ",
    "panics": "[    1.1] Kernel panic - not syncing: x\n",
    "the end of init": "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000",
    "a timestamp": "[    1.1] ",
    "the beginning of a timestamp": "[    1",
    "kernel lines": "[1.1] x\n",
    "ends of traces": "[1.1] ---[ end trace\n",
    "cuts": "------------[ cut here ]------------\n",
    "dashes": "-",
    "line breaks": "\n",
    "other line breaks": "\u2028\v\f",
    "spaces": " ",
    "modules": "no module a",
}


def flood(piece: str) -> str:
    return piece * (SIZE // len(piece))


def find_failure(text: str) -> object:
    return find_boot_failure(text.splitlines())


def explain_failure(text: str) -> object:
    return explain_boot_failure(text, MEMORY, "/boot/vmlinuz")


def explain_kill(text: str) -> object:
    return explain_oom_kill(text, MEMORY)


def find_any_panic(text: str) -> object:
    return find_panic(text, MEMORY)


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize(
    "read", [parse_ending, find_failure, explain_failure, explain_kill, find_any_panic]
)
def test_flood_is_read_in_linear_time(piece: str, read: Callable[[str], object]) -> None:
    began = time.process_time()
    read(flood(piece))
    assert time.process_time() - began < 60  # where time is quadratic, it is minutes


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_messages_about_a_flood_are_short(piece: str) -> None:
    text = flood(piece)
    ending, panic = parse_ending(text), find_panic(text, MEMORY)
    assert len(ending.failure) < 30_000
    assert panic is None or len(str(panic)) < 70_000
    assert len(explain_oom_kill(text, MEMORY)) < 200


def test_oom_kills_are_counted_beyond_the_first_names() -> None:
    text = "".join(f"Out of memory: Killed process {pid} (p{pid}) x\n" for pid in range(60_000))
    assert explain_oom_kill(text, MEMORY) == (
        "the guest ran out of memory at 256M and killed p0, p1, p2, p3, p4 and 59995 others;"
        " try --memory 512M"
    )


def test_name_of_a_killed_process_is_one_of_the_kernel() -> None:
    line = "Out of memory: Killed process 1 ({})\n"
    assert explain_oom_kill(line.format("x" * 16), MEMORY) == ""
    assert "killed " + "x" * 15 + ";" in explain_oom_kill(line.format("x" * 15), MEMORY)
    assert explain_oom_kill(line.format("a\nb"), MEMORY) == ""


def test_first_lines_of_a_long_failure_are_shown() -> None:
    hints = "".join(f"initrd: hint {number}\n" for number in range(50_000))
    failure = parse_ending(f"initrd: boot failed: why\n{hints}").failure.split("\n")
    assert failure == ["why", *(f"hint {number}" for number in range(19))]


@pytest.mark.parametrize("size", [1, 4096, 65536, 5 << 20])
def test_log_keeps_no_more_than_twice_its_size(size: int) -> None:
    log = ConsoleLog()
    tracemalloc.start()
    try:
        for _ in range(max(1, (4 << 20) // size) if size > 1 else 100_000):
            log.append(bytes(size))
        assert tracemalloc.get_traced_memory()[0] < 5 << 20
    finally:
        tracemalloc.stop()
    assert len(log.text) <= 2 << 20


def test_any_mixture_of_forged_lines_is_read() -> None:
    numbers = random.Random(12)
    pieces = [*PIECES.values(), "\n", "reboot: Power down", "\udcff", "initrd: powering off\n"]
    for _ in range(2000):
        text = "".join(numbers.choices(pieces, k=numbers.randint(0, 12)))
        ending = parse_ending(text)
        find_panic(text, MEMORY)
        explain_kill(text)
        explain_failure(ending.failure)
