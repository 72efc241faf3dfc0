"""Commands in a machine that runs, from Python, with real processes, without QEMU."""

import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from initrd.frames import HEADER_SIZE
from initrd.host import vm
from initrd.host.service.mux import Port
from initrd.host.service.requests import Request, receive_reply, send_request
from initrd.host.service.thread import OwnerThread
from initrd.host.system.hosterror import HostError
from tests.host.service.native import start_owner

USER = f"{os.getuid()}:{os.getgid()}"
RUN: dict[str, Any] = {"user": USER, "env": {"PATH": os.environ["PATH"]}}


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[OwnerThread]:
    owner, pids = start_owner(tmp_path)
    owner.guest_pid = pids[0]  # type: ignore[attr-defined]
    yield owner
    owner.close()


@pytest.fixture
def machine(owner: OwnerThread) -> vm.Machine:
    return vm.Machine(owner, "/", text=True)


def test_run_has_the_result_of_vm_run(machine: vm.Machine) -> None:
    done = machine.run("sh", "-c", "cat; echo err >&2; exit 3", input="in\n", **RUN)
    assert (done.status, done.stdout, done.stderr) == (3, "in\n", "err\n")
    assert done.command == ("sh", "-c", "cat; echo err >&2; exit 3")
    assert machine.run(["printf", "a"], text=False, **RUN).stdout == b"a"
    with pytest.raises(vm.CommandFailed, match="exit status 4"):
        machine.run(["sh", "-c", "exit 4"], check=True, **RUN)


def test_environment_and_directory_of_a_command(machine: vm.Machine, tmp_path: Path) -> None:
    env = {**RUN["env"], "NAME": "value"}
    done = machine.run("sh", "-c", "echo $NAME; pwd", cwd=tmp_path, user=USER, env=env)
    assert done.stdout == f"value\n{tmp_path}\n"


def test_files_as_streams(machine: vm.Machine, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("line\n")
    with (tmp_path / "in").open() as stdin, (tmp_path / "out").open("w") as stdout:
        done = machine.run("cat", stdin=stdin, stdout=stdout, **RUN)
    assert (done.stdout, (tmp_path / "out").read_text()) == ("", "line\n")


def test_sixteen_threads_run_commands_at_the_same_time(machine: vm.Machine) -> None:
    barrier = threading.Barrier(16)
    results: dict[int, vm.Completed[str]] = {}

    def run(number: int) -> None:
        barrier.wait()
        results[number] = machine.run(
            "sh", "-c", f"cat; exit {number}", input=f"{number}" * 100_000, **RUN
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: done.status for number, done in results.items()} == {n: n for n in range(16)}
    assert all(done.stdout == f"{number}" * 100_000 for number, done in results.items())


def test_command_that_exceeds_its_time_is_killed_with_its_children(
    machine: vm.Machine, tmp_path: Path
) -> None:
    script = f"echo begun; sleep 1000 & echo $! >{tmp_path}/child; wait"
    with pytest.raises(vm.TimeoutExpired) as raised:
        machine.run("sh", "-c", script, timeout=0.5, **RUN)
    assert raised.value.stdout == "begun\n"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 3
    while Path(f"/proc/{child}/exe").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert machine.run("true", **RUN).status == 0


def test_process_that_a_command_leaves_keeps_running(machine: vm.Machine, tmp_path: Path) -> None:
    script = f"(sleep 0.5; echo done >{tmp_path}/mark) >/dev/null 2>&1 &"
    assert machine.run("sh", "-c", script, **RUN).status == 0
    assert not (tmp_path / "mark").exists()
    time.sleep(1)
    assert (tmp_path / "mark").read_text() == "done\n"


@pytest.mark.parametrize("options", [{"memory": "1G"}, {"warm": True}, {"mount": {"a": "/"}}])
def test_option_of_the_machine_is_a_type_error(machine: vm.Machine, options: Any) -> None:
    with pytest.raises(TypeError, match=r"unexpected option .* there are chdir, env, user"):
        machine.run("true", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cwd": "/no/such"}, "cannot enter the directory /no/such"), ({"user": "eve"}, "as eve")],
)
def test_command_that_the_root_refuses(machine: vm.Machine, options: Any, message: str) -> None:
    with pytest.raises(HostError, match=message):
        machine.run("true", **{**RUN, **options})


def test_command_that_does_not_exist_has_status_127_and_a_message(machine: vm.Machine) -> None:
    done = machine.run("no-such-program", **RUN)
    assert done.status == 127
    assert "cannot run no-such-program: not found in PATH" in done.stderr


def test_popen_pipes_and_status(machine: vm.Machine) -> None:
    with machine.popen("cat", **RUN) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("one\n")
        process.stdin.flush()
        assert process.stdout.readline() == "one\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.poll() == process.returncode == 0


@pytest.mark.parametrize(
    ("action", "status"),
    [("terminate", -15), ("kill", -9), ("interrupt", -2)],
)
def test_popen_signals(machine: vm.Machine, action: str, status: int) -> None:
    process = machine.popen("sleep", "1000", **RUN)
    if action == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        getattr(process, action)()
    assert process.wait(10) == status
    process.terminate()  # no error after the end


def test_popen_communicate(machine: vm.Machine) -> None:
    process = machine.popen("sh", "-c", "cat; echo err >&2; exit 5", **RUN)
    assert process.communicate("x" * 300_000, timeout=20) == ("x" * 300_000, "err\n")
    assert process.returncode == 5


def test_popen_wait_raises_after_its_time(machine: vm.Machine) -> None:
    process = machine.popen("sleep", "1000", **RUN)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.05)
    process.kill()
    assert process.wait(10) == -9


def test_popen_with_a_file_and_without_output(machine: vm.Machine, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        process = machine.popen(
            "sh", "-c", "echo a; echo b >&2", stdout=out, stderr=subprocess.DEVNULL, **RUN
        )
        assert process.wait(10) == 0
        assert (process.stdout, process.stderr) == (None, None)
    assert (tmp_path / "out").read_text() == "a\n"


def test_popen_on_a_terminal(machine: vm.Machine) -> None:
    process = machine.popen(
        "sh", "-c", "stty size; read word; echo got $word; stty size", terminal=(33, 77), **RUN
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "33 77\n"
    process.resize(11, 22)
    process.stdin.write("word\n")
    process.stdin.close()
    assert process.stdout.read().splitlines() == ["word", "got word", "11 22"]
    assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("argv", "error"), [(("no-such-program",), FileNotFoundError), (("/",), PermissionError)]
)
def test_popen_of_what_cannot_be_executed(
    machine: vm.Machine, argv: tuple[str, ...], error: type[Exception]
) -> None:
    with pytest.raises(error, match="cannot run"):
        machine.popen(*argv, **RUN)


def test_popen_whose_output_is_not_read_holds_up_itself_only(machine: vm.Machine) -> None:
    process = machine.popen("cat", "/dev/zero", text=False, **RUN)
    time.sleep(0.3)
    began = time.monotonic()
    assert machine.run("head", "-c", "1000000", "/dev/zero", text=False, **RUN).status == 0
    assert time.monotonic() < began + 5
    assert process.stdout
    process.stdout.close()
    assert process.wait(10) == -signal.SIGPIPE


def test_end_of_the_machine_ends_its_commands_with_an_error(
    machine: vm.Machine, owner: OwnerThread
) -> None:
    process = machine.popen("sleep", "1000", **RUN)
    os.kill(owner.guest_pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(HostError, match="the machine has ended: its process was killed"):
        process.wait(10)
    with pytest.raises(HostError, match="the machine has ended"):
        machine.run("true", **RUN)
    with pytest.raises(HostError, match="its process was killed"):
        machine.close()


def test_close_ends_commands_orderly(machine: vm.Machine) -> None:
    process = machine.popen(
        "sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done", **RUN
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    machine.close()
    assert process.wait(10) == 7
    assert process.stdout.read() == "bye\n"
    with pytest.raises(HostError, match="the machine has ended"):
        machine.run("true", **RUN)


def test_description_of_a_machine_has_its_commands(owner: OwnerThread, machine: vm.Machine) -> None:
    process = machine.popen("sleep", "1000", **RUN)
    with owner.connect() as connection:
        send_request(connection, Request("info"))
        reply = receive_reply(connection)
    assert (reply["root"], reply["kernel"], reply["owner"]) == ("/", "6.1", os.getpid())
    assert reply["commands"] == ["sleep 1000"]
    process.kill()
    process.wait(10)


def test_no_descriptors_are_left_open(tmp_path: Path) -> None:
    gc.collect()  # of other tests
    before = set(os.listdir("/proc/self/fd"))
    owner, _ = start_owner(tmp_path)
    machine = vm.Machine(owner, "/", text=True)
    machine.run("true", **RUN)
    process = machine.popen("echo", "x", **RUN)
    assert process.communicate() == ("x\n", "")
    machine.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_guest_gets_the_time_before_each_command(
    machine: vm.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    send = Port.send
    monkeypatch.setattr(
        Port, "send", lambda port, frame: (sent.append(bytes(frame)), send(port, frame))
    )
    for _ in range(2):
        machine.run("true", **RUN)
    started = [at for at, frame in enumerate(sent) if b"initrd-command 1" in frame]
    assert len(started) == 2
    for at in started:
        word, number = sent[at - 1][HEADER_SIZE:].split()
        assert word == b"time"
        assert abs(int(number) / 1e6 - time.time()) < 60
