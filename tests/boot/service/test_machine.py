"""Machines that stay: many commands in one boot, from Python, with real machines."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from initrd.host import vm as interface
from initrd.host.system.hosterror import HostError
from initrd.host.vm import Machine
from tests.boot.chrootvm import used_templates
from tests.boot.images import TOP
from tests.boot.nested import run_nested

pytestmark = pytest.mark.boot


@pytest.fixture(scope="module", params=["cold", "warm"])
def machine(request: pytest.FixtureRequest, vm_root: str) -> Iterator[Machine]:
    """A machine for all tests of this module, started in each way."""
    began, warm = time.time_ns(), request.param == "warm"
    with interface.boot(vm_root, text=True, warm=warm, memory="256M") as running:
        if warm:
            assert used_templates(os.environ["XDG_CACHE_HOME"], began)
        yield running


def test_commands_of_one_boot(machine: Machine) -> None:
    boot_id = machine.run("cat", "/proc/sys/kernel/random/boot_id", check=True).stdout
    script = "cat; cat /proc/sys/kernel/random/boot_id >&2; exit 3"
    done = machine.run("sh", "-c", script, input="in\n")
    assert (done.status, done.stdout, done.stderr) == (3, "in\n", boot_id)


def test_user_directory_and_environment(machine: Machine) -> None:
    script = "id -u; pwd; echo $A"
    done = machine.run("sh", "-c", script, user="12:34", cwd="/tmp", env={"A": "b c"})
    assert done.stdout == "12\n/tmp\nb c\n"


def test_state_is_kept_between_commands(machine: Machine) -> None:
    machine.run("sh", "-c", "echo kept >/tmp/kept", check=True)
    assert machine.run("cat", "/tmp/kept").stdout == "kept\n"


def test_sixteen_commands_at_the_same_time(machine: Machine) -> None:
    def run(number: int) -> tuple[int, str]:
        done = machine.run("sh", "-c", f"cat; exit {number}", input=f"{number}\n" * 5000)
        return done.status, done.stdout

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(run, range(16)))
    assert results == [(number, f"{number}\n" * 5000) for number in range(16)]


def test_flood_that_is_not_read_and_input_that_is_not_taken_hold_up_no_other_command(
    machine: Machine,
) -> None:
    flood = machine.popen("cat", "/dev/zero")
    idle = machine.popen("sleep", "1000", text=False, stdin=subprocess.PIPE)
    assert idle.stdin
    os.set_blocking(idle.stdin.fileno(), False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(idle.stdin.fileno(), bytes(1 << 16))
            time.sleep(0.01)
    data = os.urandom(3_000_000)
    done = machine.run("cat", input=data, text=False, timeout=60)
    assert done.stdout == data
    for process in (flood, idle):
        process.kill()
        assert process.wait(30) == -9


def test_commands_that_were_killed_and_dropped_keep_no_descriptors(machine: Machine) -> None:
    machine.run("true")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        flood = machine.popen("cat", "/dev/zero")
        flood.kill()
        assert flood.wait(30) == -9
    del flood
    deadline = time.monotonic() + 30
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < deadline
        gc.collect()


def test_popen_on_a_terminal_with_job_control(machine: Machine) -> None:
    shell = machine.popen("sh", "-i", terminal=(33, 77), env={"PS1": "prompt> "})
    assert shell.stdin
    assert shell.stdout
    shell.stdin.write("stty size; tty\nsleep 1000\n")
    shell.stdin.flush()
    output = ""
    while "/dev/pts/" not in output:
        output += shell.stdout.readline()
    assert "33 77" in output
    time.sleep(0.5)
    shell.stdin.write("\x03echo after $?\nexit 5\n")
    shell.stdin.close()
    assert "after 130" in shell.stdout.read()
    assert shell.wait(30) == 5


def test_command_that_exceeds_its_time_is_killed(machine: Machine) -> None:
    with pytest.raises(interface.TimeoutExpired):
        machine.run("sh", "-c", "sleep 4321 & wait", timeout=0.5)
    deadline = time.monotonic() + 20
    while "sleep 4321" in machine.run("ps").stdout:
        assert time.monotonic() < deadline


def test_end_of_a_machine_is_orderly(vm_root: str, tmp_path: Path) -> None:
    with interface.boot(vm_root, text=True, mount={"s": tmp_path}) as machine:
        script = (
            "trap 'echo ended >/run/mnt/s/mark; exit 7' TERM; echo up; while :; do sleep 0.1; done"
        )
        process = machine.popen("sh", "-c", script)
        assert process.stdout
        assert process.stdout.readline() == "up\n"
    assert (tmp_path / "mark").read_text() == "ended\n"
    assert process.wait(1) == 7
    with pytest.raises(HostError, match="the machine has ended"):
        machine.run("true")


def test_machine_that_is_switched_off_from_inside_ends_orderly(vm_root: str) -> None:
    machine = interface.boot(vm_root, text=True, warm=True)
    process = machine.popen("sleep", "1000")
    machine.run("poweroff")
    assert process.wait(30) == -signal.SIGTERM
    with pytest.raises(HostError, match=r"the machine (has ended|is about to end)"):
        for _ in range(100):
            machine.run("true")
    machine.close()


def test_failed_boot_is_an_error(vm_root: str) -> None:
    with pytest.raises(HostError, match="no directory of a kernel"):
        interface.boot(vm_root, modules="/var/empty")
    with pytest.raises(HostError, match=r"the machine was not up after 0\.05 s"):
        interface.boot(vm_root, timeout=0.05)


OWNER = """
import sys, time
from initrd.host import vm
machine = vm.boot(sys.argv[1], warm=True)
machine.popen("sleep", "1000")
print("up", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_machine_ends_with_its_owner(vm_root: str, tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "PYTHONPATH": TOP, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", OWNER, vm_root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        children = descendants(process.pid)
        assert len(children) >= 2
        process.send_signal(number)
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []


def descendants(pid: int) -> list[int]:
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii")
        for child in map(int, text.split()):
            found += [child, *descendants(child)]
    return found


TEST_MODULES = {
    "test_a": "def test_1(machine): machine.run('touch', '/tmp/mark', check=True)\n"
    "def test_2(machine): assert machine.run('ls', '/tmp').stdout == 'mark\\n'\n",
    "test_b": "def test_3(machine): assert machine.run('ls', '/tmp').stdout == EXPECTED\n",
}


@pytest.mark.parametrize(("scope", "expected"), [("", "mark\n"), ("module", "")])
def test_fixture_machine_boots_once_for_its_scope(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    vm_root: str,
    scope: str,
    expected: str,
) -> None:
    pytester.makepyfile(
        **{name: text.replace("EXPECTED", repr(expected)) for name, text in TEST_MODULES.items()}
    )
    settings = f"vm_root = {vm_root}\n" + (f"vm_machine_scope = {scope}\n" if scope else "")
    pytester.makeini(f"[pytest]\n{settings}")
    result = run_nested(pytester, monkeypatch, "-W", "error")
    result.assert_outcomes(passed=3)
