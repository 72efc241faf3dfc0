"""Clients and guests that are faulty or hostile: the owner refuses them, and serves the others."""

import json
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from initrd import frames
from initrd.command import Command, dump
from initrd.host import vm
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.qemu.console import ConsoleLog
from initrd.host.service import client
from initrd.host.service.owner import About, Owner
from initrd.host.service.requests import Request, receive_reply, send_request
from initrd.host.service.thread import OwnerThread
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from tests.host.service.native import start_owner

USER = f"{os.getuid()}:{os.getgid()}"
RUN: dict[str, Any] = {"user": USER, "env": {"PATH": os.environ["PATH"]}}
# Python 3.12 and later warn of a fork(2) in a process with threads, which these tests are about.
FORK_BESIDE_THREADS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
CONTENT = dump(Command((b"true",), (b"PATH=/bin:/usr/bin",), user=USER.encode()))


class Native(OwnerThread):
    guest_pid = 0


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Native]:
    owner, pids = start_owner(tmp_path)
    owner.__class__ = Native
    assert isinstance(owner, Native)
    owner.guest_pid = pids[0]
    yield owner
    owner.close()


@pytest.fixture
def machine(owner: OwnerThread) -> vm.Machine:
    return vm.Machine(owner, "/", text=True)


def line(**fields: object) -> bytes:
    return json.dumps({"version": 1, **fields}).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x\n", "is no object of JSON"),
        (b'{"version": 2, "kind": "run"}\n', "it is not of version 1"),
        (line(kind="dance"), "it asks for 'dance'"),
        (line(kind="run", speed=3), "speed"),
        (line(kind="run", channels=["control"]), "descriptors are missing"),
        (b"x" * 100_000, "too long"),
        (line(kind="run", size="x"), "'x' is no number of bytes"),
        (line(kind="run", size=-5), "-5 is no number"),
        (line(kind="run", size=None), "None is no number"),
        (line(kind="info", shown=[1]), "is no text"),
        (line(kind="run", channels=["nope"]), "are not the channels of a command"),
        (line(kind="run", channels=[{}]), "are not the channels"),
        (line(kind="run", channels=["control", "control"]), "are not the channels"),
        (line(kind="run", channels=["stdin"]), "needs the channel control"),
        (b"[" * 60000 + b"\n", "no object of JSON"),
        (line(kind="info") + b"more", ""),
    ],
)
def test_request_that_is_wrong_or_unknown_is_refused(
    owner: OwnerThread, machine: vm.Machine, data: bytes, why: str
) -> None:
    with owner.connect() as connection:
        connection.settimeout(5)
        connection.sendall(data)
        if why:
            with pytest.raises(HostError, match=why):
                receive_reply(connection)
    assert machine.run("true", **RUN).status == 0


def a_file() -> int:
    return os.open("/etc/passwd", os.O_RDONLY)


def a_datagram_socket() -> int:
    return socket.socketpair(type=socket.SOCK_DGRAM)[0].detach()


def an_unconnected_socket() -> int:
    return socket.socket(socket.AF_UNIX).detach()


@pytest.mark.parametrize(
    ("open_descriptor", "why"),
    [
        (a_file, "no connection: Socket operation on non-socket"),
        (an_unconnected_socket, "no connection: Transport endpoint is not connected"),
        (a_datagram_socket, "no stream of unix"),
    ],
)
def test_descriptor_that_is_no_connection_is_refused(
    owner: OwnerThread, machine: vm.Machine, open_descriptor: Callable[[], int], why: str
) -> None:
    descriptor = open_descriptor()
    with owner.connect() as connection:
        connection.settimeout(5)
        send_request(connection, Request("run", ("control",), len(CONTENT), "x"), descriptor)
        connection.sendall(CONTENT)
        with pytest.raises(HostError, match=why):
            receive_reply(connection)
    os.close(descriptor)
    assert machine.run("true", **RUN).status == 0


def test_client_that_sends_descriptors_without_end_is_disconnected(
    owner: OwnerThread, machine: vm.Machine
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with owner.connect() as connection, open(os.devnull, "rb") as null:
        with pytest.raises(BrokenPipeError):
            for _ in range(1000):
                socket.send_fds(connection, [b"x"], [null.fileno()] * 5)
                time.sleep(0.001)
        assert len(os.listdir("/proc/self/fd")) < before + 20
    assert machine.run("true", **RUN).status == 0


def test_long_description_arrives_completely(owner: OwnerThread, machine: vm.Machine) -> None:
    script = ("sh", "-c", "read line; :", "\u4e2d" * 1000)
    processes = [machine.popen(*script, **RUN) for _ in range(40)]
    with owner.connect() as connection:
        connection.settimeout(5)
        send_request(connection, Request("info"))
        assert len(receive_reply(connection)["commands"]) == 40
    for process in processes:
        process.communicate()


def test_clients_over_the_limit_are_refused(
    owner: OwnerThread, machine: vm.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (64 + 6 * 2, 1024))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        stack.callback(owner.close)  # before the listener, which it watches
        assert owner._owner
        owner._owner.add_listener(listener)
        machine.run("true", **RUN)  # wakes the loop, which then sees the listener
        deadline = time.monotonic() + 20
        while owner._owner._clients:
            assert time.monotonic() < deadline
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for each in clients:
            each.settimeout(20)
            each.connect(str(tmp_path / "socket"))
        with pytest.raises(HostError, match="it serves 2 clients already"):
            receive_reply(clients[2])


def test_kill_of_a_client_that_leaves_at_once_reaches_its_command(
    owner: Native, machine: vm.Machine, tmp_path: Path
) -> None:
    for _ in range(8):
        script = f"trap '' HUP; echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done"
        with pytest.raises(vm.TimeoutExpired):
            machine.run("sh", "-c", script, timeout=0.3, **RUN)
        pid, began = int((tmp_path / "pid").read_text()), time.monotonic()
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < began + 3, "it has got SIGHUP only"
            time.sleep(0.01)


def test_further_communicate_after_a_timeout_returns_all_output(machine: vm.Machine) -> None:
    process = machine.popen("sh", "-c", "echo a; echo b >&2; sleep 1000", **RUN)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.3)
    process.kill()
    assert process.communicate(timeout=10) == ("a\n", "b\n")


@FORK_BESIDE_THREADS
def test_forked_process_does_not_keep_a_client_whose_command_has_ended(
    owner: OwnerThread, machine: vm.Machine
) -> None:
    process = machine.popen("sleep", "0.5", **RUN)
    pid = os.fork()
    if not pid:  # it has copies of the client's sockets
        signal.pause()
        os._exit(0)
    try:
        assert process.wait(10) == 0
        assert owner._owner
        deadline = time.monotonic() + 10
        while owner._owner._clients:
            assert time.monotonic() < deadline
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@FORK_BESIDE_THREADS
@pytest.mark.parametrize("closes", [False, True])
def test_forked_process_does_not_hold_up_the_end_of_the_machine(
    machine: vm.Machine, *, closes: bool
) -> None:
    pid = os.fork()
    if not pid:
        if closes:
            machine.close()  # its own copy only
        signal.pause()
        os._exit(0)
    try:
        time.sleep(0.3)
        assert machine.run("true", **RUN).status == 0
        thread = Thread(target=machine.close, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("size", [200_000, 300_000, 420_000])
def test_output_that_is_not_read_before_the_end_of_the_machine_is_whole_or_an_error(
    machine: vm.Machine, size: int
) -> None:
    process = machine.popen("head", "-c", f"{size}", "/dev/zero", text=False, **RUN)
    time.sleep(0.5)
    machine.close()
    received: list[bytes] = []
    assert process.stdout
    thread = Thread(target=lambda: received.append(process.stdout.read()), daemon=True)  # type: ignore[union-attr]
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the output has no end"
    process._running.join(10)
    if len(received[0]) < size:
        with pytest.raises(HostError, match=r"output is not all there|machine has ended"):
            process.wait(5)
    else:
        assert process.wait(5) == 0


def test_warnings_of_the_guest_are_shown_to_the_caller(owner: OwnerThread) -> None:
    warned = deque(["one", "two"])
    machine = vm.Machine(owner, "/", text=True, warned=warned)
    with pytest.warns(RuntimeWarning) as shown:
        machine.run("true", **RUN)
    texts = [str(found.message) for found in shown if found.category is RuntimeWarning]
    assert texts == ["one", "two"]
    warned.append("three")
    with pytest.warns(RuntimeWarning, match="three"):
        machine.close()


class FakeMachine:
    """The part of a RunningMachine that an owner uses; it is always on."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.is_off, self.log = loop, False, ConsoleLog()

    def wait(self, _: float) -> bool:
        return True


class FakeSession:
    def __init__(self, machine: FakeMachine, guest: CommandProtocol) -> None:
        self.loop, self.machine, self.guest = machine.loop, machine, guest

    def explain_oom_kill(self, _: int) -> str:
        return ""


def start_with_guest(act: Callable[[socket.socket], object]) -> OwnerThread:
    """Return the owner of a guest that does `act` when it has received a command."""

    def run(port: socket.socket) -> None:
        with port:
            port.sendall(b"ready\nframes 2\n")
            while b"initrd-command" not in port.recv(1 << 16):
                pass
            act(port)
            while port.recv(1 << 16):
                pass

    @contextmanager
    def own(loop: Loop, _: object) -> Iterator[Owner]:
        port, guest_port = socket.socketpair()
        Thread(target=run, args=(guest_port,), daemon=True).start()
        with port:
            guest = CommandProtocol(loop, {"initrd.control": port}, LocalStreams())
            assert loop.run(lambda: guest.has_frames, 5)
            session = FakeSession(FakeMachine(loop), guest)
            with closing(Owner(session, About("", "/", ""))) as owner:  # type: ignore[arg-type]
                yield owner

    return OwnerThread(own)


CONTROL_1 = frames.channel_of(1, frames.CONTROL)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frames.encode_frame(CONTROL_1, frames.CLOSE), "the machine does not say why"),
        (
            frames.encode_frame(CONTROL_1, frames.DATA, b"eof stdout 9\nexit 0\n")
            + frames.encode_frame(CONTROL_1, frames.CLOSE),
            "the command's output is not all there",
        ),
        (frames.encode_frame(CONTROL_1, frames.DATA, b"eof stdout -1\n"), "'-1' is not a number"),
        (frames.encode_frame(CONTROL_1, frames.RUN, b"x"), "there is no command 1"),
        (frames.encode_credit(CONTROL_1, 1 << 31), "more credit than was used"),
        (os.urandom(1 << 16), "cannot understand the guest"),
    ],
    ids=["no-status", "short-output", "number", "run", "credit", "noise"],
)
def test_guest_that_does_not_keep_to_the_protocol_is_an_error(
    data: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_REPLY_TIMEOUT", 0.3)
    monkeypatch.setattr("initrd.host.service.owner._STOP_TIMEOUT", 0.1)
    owner = start_with_guest(lambda port: port.sendall(data))
    with pytest.raises(HostError, match=why):
        vm.Machine(owner, "/", text=True).run("true")
    owner.close()
