"""Machines that start from one template: what is their own, and what a command can tell."""

import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from initrd.host import vm
from initrd.host.command import protocol
from testbed import assets
from tests.boot.chrootvm import used_templates
from tests.boot.differences import DIFFERENCES, INSPECT, compare, explain, read_sections

pytestmark = pytest.mark.boot

IN_A_ROW, AT_ONCE, IN_PARALLEL = 12, 8, 4  # machines
TEMPLATE_WORD = "pcie_ports=compat"  # of the kernel command line of a template
IDENTITY = """
echo urandom $(od -An -tx1 -N16 /dev/urandom)
echo random $(od -An -tx1 -N16 /dev/random)
echo uuid $(cat /proc/sys/kernel/random/uuid)
echo boot_id $(cat /proc/sys/kernel/random/boot_id)
for name in stack heap vdso; do echo $name $(grep "\\[$name\\]" /proc/$$/maps); done
echo cmdline $(cat /proc/cmdline)
"""
# A guest that boots on a busy host may cease to trust its TSC, and use acpi_pm. The machines of a
# template, which boots once, never trust it then.
TRIES = 3
ROUNDS = 20  # of asking a guest for its time
TELL_TIME = """
import sys, time
print(hash("a"), open("/proc/cmdline").read(), flush=True)
while sys.stdin.readline():
    print(time.time(), flush=True)
"""


def run_warm(root: str, *words: str, **options: object) -> str:
    """Run a command in a machine of a template; return its output."""
    done = vm.run(root, words, warm=True, text=True, check=True, **options)
    assert done.stderr == ""
    return str(done.stdout)


@pytest.fixture(scope="module")
def identities() -> dict[str, list[str]]:
    """Start machines in a row, then several at a time; return what each told, by name."""
    root = assets.busybox_root()

    def start(_: int) -> str:
        return run_warm(root, "sh", "-c", IDENTITY)

    outputs = [start(number) for number in range(IN_A_ROW)]
    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        outputs += pool.map(start, range(AT_ONCE))
    told: dict[str, list[str]] = {}
    for output in outputs:
        for line in output.splitlines():
            name, _, value = line.partition(" ")
            told.setdefault(name, []).append(value)
    return told


def test_machines_in_a_row_and_at_once_start_from_a_template(
    identities: dict[str, list[str]],
) -> None:
    used = [TEMPLATE_WORD in cmdline for cmdline in identities["cmdline"]]
    assert used == [True] * (IN_A_ROW + AT_ONCE)


@pytest.mark.parametrize("name", ["urandom", "random", "uuid", "boot_id", "stack", "heap", "vdso"])
def test_each_machine_of_a_template_has_its_own(
    name: str, identities: dict[str, list[str]]
) -> None:
    values = identities[name]
    assert len(set(values)) == len(values) == IN_A_ROW + AT_ONCE, values
    assert "" not in values


def test_each_machine_of_a_template_has_its_own_ethernet_address() -> None:
    words = ("cat", "/sys/class/net/eth0/address", "/proc/cmdline")
    outputs = [run_warm(assets.busybox_root(), *words, net=True) for _ in range(3)]
    addresses = {output.splitlines()[0] for output in outputs}
    assert len(addresses) == 3
    assert all(re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", address) for address in addresses)
    assert all(TEMPLATE_WORD in output for output in outputs)


class Clock:
    """The clock of a guest, which a program there reads when it is asked."""

    def __init__(self, ask: int, answers: int) -> None:
        self._ask, self._answers = ask, answers
        self.greeting = self._read_line()

    def offset(self) -> tuple[float, float]:
        """Return the least and the most that the guest's clock may be ahead of the host's."""
        bounds = [self._measure() for _ in range(ROUNDS)]
        return max(least for least, _ in bounds), min(most for _, most in bounds)

    def _measure(self) -> tuple[float, float]:
        before = time.time()
        os.write(self._ask, b"\n")
        answer = float(self._read_line())
        return answer - time.time(), answer - before

    def _read_line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self._answers, 1 << 16)
            assert piece, line
            line += piece
        return line.decode()


@contextmanager
def guest_clock(**options: object) -> Iterator[Clock]:
    """Start a machine, and yield its clock."""
    pipes = [os.pipe() for _ in range(2)]
    (stdin, ask), (answers, stdout) = pipes
    words = ("python3", "-c", TELL_TIME)
    options = {"stdin": stdin, "stdout": stdout, "timeout": 180, "memory": "512M", **options}
    thread = threading.Thread(target=vm.run, args=(assets.debian_root(), words), kwargs=options)
    thread.start()
    try:
        yield Clock(ask, answers)
    finally:
        os.close(ask)
        thread.join()
        for number in (stdin, answers, stdout):
            os.close(number)


@pytest.mark.parametrize("warm", [False, True], ids=["boot", "template"])
@pytest.mark.parametrize("hours", [0, 1])
def test_the_clock_of_a_machine_is_that_of_the_host(
    hours: int, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = hours * 3600
    now = SimpleNamespace(time_ns=lambda: time.time_ns() + later * 10**9)
    monkeypatch.setattr(protocol, "time", now)
    with guest_clock(warm=warm) as clock:
        least, most = clock.offset()
        assert (TEMPLATE_WORD in clock.greeting) == warm
    print(f"\nahead by {1e3 * (least - later):+.1f} to {1e3 * (most - later):+.1f} ms")
    assert least - later < 0.05, (least, most)
    assert most - later > -0.05, (least, most)
    assert most - least < 0.05, "measured precisely enough"


def test_python_has_another_hash_seed_in_each_machine_of_a_template() -> None:
    script = 'print(hash("a"), open("/proc/cmdline").read())'
    words = ("python3", "-c", script)
    outputs = [run_warm(assets.debian_root(), *words, memory="512M") for _ in range(3)]
    assert len({output.split()[0] for output in outputs}) == 3
    assert all(TEMPLATE_WORD in output for output in outputs)


@pytest.fixture(scope="module")
def inspected(shared_directory: str) -> dict[str, list[str]]:
    """Print what a command sees, in two machines that boot and in two of a template."""
    share = Path(shared_directory, "share")
    share.mkdir()
    (share / "inspect").write_text(INSPECT)

    devices = {"net": True, "mount": {"s": share}, "overlay": f"{shared_directory}/disk"}

    def inspect(start: str) -> str:
        words = ("sh", "/run/mnt/s/inspect")
        for _ in range(TRIES):
            done = vm.run(assets.busybox_root(), words, text=True, warm=start == "warm", **devices)
            assert done.status == 0
            sections = read_sections(done.stdout)
            assert sections["end"] == []
            if sections["clock"][-1] != "acpi_pm":
                break
            for template in used_templates(os.environ["XDG_CACHE_HOME"], 0):
                template.unlink()
        return str(done.stdout)

    return {start: [inspect(start) for _ in range(2)] for start in ("cold", "warm")}


def test_a_command_sees_only_the_documented_differences(inspected: dict[str, list[str]]) -> None:
    found = compare(inspected["cold"], inspected["warm"])
    unexplained = [pair for pair in found if not explain(*pair)]
    assert unexplained == []
    assert {explain(*pair) for pair in found} == {difference.what for difference in DIFFERENCES}


def test_a_machine_of_a_template_has_as_much_free_memory(inspected: dict[str, list[str]]) -> None:
    free = {}
    for start, outputs in inspected.items():
        lines = [read_sections(output)["measured"][0] for output in outputs]
        assert all(line.startswith("MemFree:") for line in lines)
        free[start] = min(int(line.split()[1]) for line in lines)
    assert abs(free["cold"] - free["warm"]) < 16 << 10, "kB"
