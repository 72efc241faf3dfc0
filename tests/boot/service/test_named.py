"""Machines with names: --name, --detach, --in, --list and --stop."""

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from initrd.host.service import names
from tests.boot.chrootvm import COMMAND, DEADLINE
from tests.boot.conftest import WARM_ONLY
from tests.boot.gdb import Gdb
from tests.boot.terminal import Terminal

pytestmark = pytest.mark.boot

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of this test's own."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def chrootvm(*words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run chrootvm to its end."""
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        input=input,
    )


def listed() -> list[dict[str, object]]:
    found = json.loads(chrootvm("--list", "--json").stdout)
    assert isinstance(found, list)
    return found


@pytest.fixture
def kept(runtime: Path, vm_root: str, start: str) -> Iterator[str]:
    """The name of a detached machine."""
    done = chrootvm("--name", "one", "--detach", "--memory", "256M", vm_root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    yield "one"
    owners = [int(str(machine["owner"])) for machine in listed()]
    for owner in owners:
        os.kill(owner, signal.SIGTERM)
    wait_until(lambda: not any(os.path.exists(f"/proc/{owner}") for owner in owners))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_commands_in_a_detached_machine(kept: str, vm_root: str, runtime: Path) -> None:
    first = chrootvm("--in", kept, "--", "cat", "/proc/sys/kernel/random/boot_id")
    script = "cat; cat /proc/sys/kernel/random/boot_id >&2; exit 3"
    second = chrootvm("--in", kept, "--", "sh", "-c", script, input="data")
    assert (second.returncode, second.stdout, second.stderr) == (3, "data", first.stdout)
    words = ("--user", "12:34", "--chdir", "/tmp", "--env", "A=b c")
    third = chrootvm("--in", kept, *words, "--", "sh", "-c", "id -u; id -g; pwd; echo $A")
    assert third.stdout == "12\n34\n/tmp\nb c\n"
    fourth = chrootvm("--in", kept, "--timeout", "0.5", "--", "sh", "-c", "sleep 4321 & wait")
    assert (fourth.returncode, fourth.stderr) == (
        124,
        "chrootvm: the command still runs after 0.5 s; ending it\n",
    )
    assert "sleep 4321" not in chrootvm("--in", kept, "--", "ps").stdout
    killed = chrootvm("--in", kept, "--", "sh", "-c", "kill -TERM $$")
    assert killed.returncode == 128 + signal.SIGTERM
    missing = chrootvm("--in", kept, "--", "no-such-program")
    assert missing.returncode == 127
    assert "cannot run no-such-program: not found in PATH" in missing.stderr
    refused = chrootvm("--in", kept, "--chdir", "/no/such", "--", "true")
    assert refused.returncode == 125
    assert "/no/such" in refused.stderr
    shell = chrootvm("--in", kept, input="echo $0 $((1 + 1))\nexit 4\n")
    assert (shell.returncode, shell.stdout) == (4, "-sh 2\n")


def test_list_shows_machines_and_commands(kept: str, vm_root: str) -> None:
    with subprocess.Popen([*COMMAND, "--in", kept, "--", "sleep", "1000"]) as process:
        wait_until(lambda: listed()[0]["commands"])
        (machine,) = listed()
        assert machine["name"] == kept
        assert machine["root"] == os.path.realpath(vm_root)
        assert str(machine["kernel"])[0].isdigit()
        assert machine["commands"] == ["sleep 1000"]
        lines = chrootvm("--list").stdout.splitlines()
        assert lines[0].split() == ["NAME", "STATE", "KERNEL", "SINCE", "COMMANDS", "ROOT"]
        assert lines[1].split()[:3] == [kept, "running", machine["kernel"]]
        assert lines[1].split()[-2:] == ["1", machine["root"]]
        assert chrootvm("--stop", kept).returncode == 0
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM
    assert listed() == []
    gone = chrootvm("--in", kept, "--", "true")
    assert gone.returncode == 125
    assert gone.stderr == (
        f"chrootvm: cannot find the machine {kept}: no machine that runs has a name\n"
        "try: chrootvm --list\n"
    )
    assert chrootvm("--stop", kept).returncode == 125


@WARM_ONLY
def test_stop_ends_a_machine_whose_owner_is_stopped(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_STOP_TIMEOUT", 0.5)
    (machine,) = listed()
    owner = int(str(machine["owner"]))
    os.kill(owner, signal.SIGSTOP)
    names.stop_machine(kept, os.environ)
    assert not os.path.exists(f"/proc/{owner}/exe")
    assert listed() == []


@WARM_ONLY
def test_name_is_for_one_machine(kept: str, vm_root: str) -> None:
    done = chrootvm("--name", kept, vm_root, "--", "true")
    assert done.returncode == 125
    assert (
        f"cannot give the machine the name {kept}: another machine that runs has it" in done.stderr
    )
    assert f"chrootvm --in {kept} -- COMMAND" in done.stderr


@WARM_ONLY
def test_crash_of_the_owner_leaves_nothing_that_the_next_call_does_not_remove(
    kept: str, vm_root: str, runtime: Path
) -> None:
    (machine,) = listed()
    owner = int(str(machine["owner"]))
    children = Path(f"/proc/{owner}/task/{owner}/children").read_text(encoding="ascii").split()
    os.kill(owner, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in children))
    assert os.listdir(runtime / "chrootvm")
    assert listed() == []
    assert os.listdir(runtime / "chrootvm") == []
    again = chrootvm("--name", kept, vm_root, "--", "echo", "again")
    assert (again.returncode, again.stdout) == (0, "again\n")


@WARM_ONLY
def test_names_are_for_their_user_only(kept: str, runtime: Path) -> None:
    folder = runtime / "chrootvm"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    done = chrootvm("--in", kept, "--", "true")
    assert done.returncode == 125
    assert "0755" in done.stderr
    folder.chmod(0o700)


@pytest.mark.usefixtures("start", "runtime")
def test_machine_without_detach_ends_with_its_command(vm_root: str) -> None:
    done = chrootvm("--name", "one", vm_root, "--", "sh", "-c", "sleep 1000 & echo hi; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "hi\n", "")
    assert listed() == []


@WARM_ONLY
@pytest.mark.usefixtures("start", "runtime")
def test_command_joins_a_machine_in_the_foreground_and_sees_its_end(vm_root: str) -> None:
    words = ("--name", "one", vm_root, "--", "sh", "-c", "echo up; read line; echo $line")
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *words], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        assert chrootvm("--in", "one", "--", "echo", "joined").stdout == "joined\n"
        with subprocess.Popen([*COMMAND, "--in", "one", "--", "sleep", "1000"]) as other:
            wait_until(lambda: len(listed()[0]["commands"]) == 2)  # type: ignore[arg-type]
            process.communicate("end\n", timeout=DEADLINE)
            assert process.returncode == 0
            assert other.wait(DEADLINE) == 128 + signal.SIGTERM


@WARM_ONLY
@pytest.mark.usefixtures("start", "runtime")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_machine_without_detach_ends_when_chrootvm_is_killed(vm_root: str, number: int) -> None:
    words = ("--name", "one", vm_root, "--", "sh", "-c", "echo up; sleep 1000")
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
    wait_until(lambda: not listed())


@WARM_ONLY
@pytest.mark.usefixtures("start", "runtime")
def test_kernel_that_panics_ends_all_commands_with_status_255(vm_root: str) -> None:
    chrootvm("--name", "one", "--detach", vm_root)
    pipe = subprocess.PIPE
    words = [*COMMAND, "--in", "one", "--", "sh", "-c", "echo up; sleep 1000"]
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        chrootvm("--in", "one", "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 255
    assert "the guest's kernel panicked: sysrq triggered crash" in errors
    assert "Kernel panic - not syncing" in errors
    assert listed() == []


@pytest.mark.usefixtures("runtime")
def test_command_that_uses_up_the_memory_is_reported(vm_root: str) -> None:
    chrootvm("--name", "one", "--detach", "--memory", "192M", vm_root)
    for _ in range(2):
        done = chrootvm("--in", "one", "--", "tail", "/dev/zero")
        assert done.returncode == 137
        assert done.stderr == (
            "chrootvm: the guest ran out of memory at 192M and killed tail; try --memory 384M\n"
        )
    killed = chrootvm("--in", "one", "--", "sh", "-c", "kill -9 $$")
    assert (killed.returncode, killed.stderr) == (137, "")
    assert chrootvm("--stop", "one").returncode == 0


@WARM_ONLY
@pytest.mark.usefixtures("start", "runtime")
def test_kernel_that_panics_in_the_foreground_is_reported_once(vm_root: str) -> None:
    done = chrootvm("--name", "one", vm_root, "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
    first, second, *_ = done.stderr.split("\n")
    assert done.returncode == 255
    assert first.startswith("chrootvm: the guest's kernel panicked: sysrq triggered crash")
    assert "Kernel panic" in second
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("runtime")
def test_failed_boot_of_a_named_machine_is_reported(vm_root: str) -> None:
    append = "initrd.union=unionfs-fuse overlay_root=ram"
    done = chrootvm("--name", "one", "--detach", "--append", append, vm_root)
    assert done.returncode == 125
    assert "the boot failed: " in done.stderr
    assert "unionfs" in done.stderr
    assert listed() == []


@pytest.mark.usefixtures("runtime")
def test_named_machine_that_waits_for_gdb(vm_root: str) -> None:
    words = [*COMMAND, "--name", "one", "--detach", "--gdb", vm_root]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        address = process.stderr.readline().split("target remote ")[1].rstrip("'\n")
        with Gdb(address) as gdb:
            assert gdb.ask("?").startswith("T05")
            gdb.send("c")
            assert process.wait(DEADLINE) == 0
            assert chrootvm("--in", "one", "--", "echo", "hi").stdout == "hi\n"
    assert chrootvm("--stop", "one").returncode == 0


@pytest.mark.usefixtures("runtime")
def test_interrupted_start_leaves_no_machine(vm_root: str, runtime: Path) -> None:
    with subprocess.Popen([*COMMAND, "--name", "one", "--detach", vm_root]) as process:
        wait_until((runtime / "chrootvm" / "one.sock").exists)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    wait_until(lambda: not listed())


@WARM_ONLY
@pytest.mark.usefixtures("start", "runtime")
def test_terminal_of_a_further_command(vm_root: str, tmp_path: Path) -> None:
    chrootvm("--name", "one", "--detach", vm_root)
    terminal = Terminal(tmp_path)
    try:
        terminal.run(f"{shlex.join(COMMAND)} --in one; echo ended with $?")
        terminal.expect("/ #")
        terminal.run("stty size; tty")
        terminal.expect("24 80")
        terminal.expect("/dev/pts/0")
        terminal.run("sleep 1000")
        time.sleep(0.5)
        terminal.press("C-c")
        terminal.run("echo status $?")
        terminal.expect("status 130")
        terminal.run("exit 7")
        terminal.expect("ended with 7")
    finally:
        terminal.close()
        chrootvm("--stop", "one")


def test_other_program_on_the_socket_is_no_machine(runtime: Path) -> None:
    folder = runtime / "chrootvm"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "one.sock"))
        listener.listen()
        began = time.monotonic()
        assert [machine["state"] for machine in listed()] == ["starting"]
        assert time.monotonic() < began + 20
