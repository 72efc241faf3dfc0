"""QMP: the requests that QEMU gets, and its replies and events; the test acts as QEMU."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from initrd.host.qemu.qmp import Monitor
from initrd.host.system.loop import Loop

CAPABILITIES = [
    {"capability": "x-ignore-shared", "state": True},
    {"capability": "events", "state": True},
]
INVALID = "QEMU has sent an invalid message"


class Qemu:
    """QEMU's end of the connection of a Monitor."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.end, self.connection = socket.socketpair()
        self.monitor = Monitor(self.loop, self.connection)

    def send(self, *pieces: bytes) -> None:
        """Send pieces of messages; the monitor reads each before the next is sent."""
        for piece in pieces:
            self.end.sendall(piece)
            self.run_loop()

    def run_loop(self) -> None:
        """Let the monitor handle what it has received."""
        self.loop.run(lambda: False, 0)

    def requests(self) -> list[tuple[str, dict[str, object]]]:
        """Return the commands received, with their arguments."""
        return parse(self.end.recv(1 << 16))

    def requests_with_descriptors(
        self, count: int
    ) -> tuple[list[tuple[str, dict[str, object]]], list[int]]:
        """Return a number of commands, and the descriptors that came with them."""
        data, descriptors = b"", []
        while data.count(b"\n") < count:
            piece, received, _, _ = socket.recv_fds(self.end, 1 << 16, 4)
            data += piece
            descriptors += received
        return parse(data), descriptors

    def close(self) -> None:
        self.monitor.close()
        self.end.close()
        self.connection.close()


def parse(data: bytes) -> list[tuple[str, dict[str, object]]]:
    requests = map(json.loads, data.splitlines())
    return [(request["execute"], request["arguments"]) for request in requests]


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    with closing(Qemu()) as qemu:
        yield qemu


def test_capabilities_are_negotiated_before_the_first_command(qemu: Qemu) -> None:
    qemu.monitor.execute("device_add", driver="virtio-net-pci", multifunction=True)
    assert qemu.requests() == [
        ("qmp_capabilities", {}),
        ("device_add", {"driver": "virtio-net-pci", "multifunction": True}),
    ]


def test_requests_are_lines_with_a_command_and_its_arguments(qemu: Qemu) -> None:
    qemu.requests()
    qemu.monitor.execute("cont")
    assert qemu.end.recv(100) == b'{"execute": "cont", "arguments": {}}\n'


def test_tag_with_quotes_and_commas_is_sent_as_it_is(qemu: Qemu) -> None:
    qemu.monitor.execute("device_add", tag='a,b"c\n')
    assert qemu.requests()[1] == ("device_add", {"tag": 'a,b"c\n'})


def test_saving_passes_a_descriptor_and_leaves_out_the_memory(qemu: Qemu) -> None:
    reader, writer = os.pipe()
    qemu.monitor.start_saving(writer)
    os.close(writer)
    requests, (received,) = qemu.requests_with_descriptors(4)
    assert requests == [
        ("qmp_capabilities", {}),
        ("migrate-set-capabilities", {"capabilities": CAPABILITIES}),
        ("getfd", {"fdname": "state"}),
        ("migrate", {"uri": "fd:state"}),
    ]
    os.write(received, b"state")
    os.close(received)
    assert (os.read(reader, 10), os.read(reader, 10)) == (b"state", b"")
    os.close(reader)


def test_loading_names_a_descriptor_that_qemu_has_inherited(qemu: Qemu) -> None:
    qemu.monitor.start_loading(7)
    assert qemu.requests()[1:] == [
        ("migrate-set-capabilities", {"capabilities": CAPABILITIES}),
        ("migrate-incoming", {"uri": "fd:7"}),
    ]


def test_status_of_a_migration_is_that_of_the_latest_event(qemu: Qemu) -> None:
    qemu.send(b'{"QMP": {}}\r\n{"return": {}}\r\n')
    assert (qemu.monitor.migration, qemu.monitor.error) == ("", "")
    qemu.send(b'{"event": "MIGRATION", "data": {"status": "setup"}}\r\n')
    assert qemu.monitor.migration == "setup"
    qemu.send(
        b'{"event": "STOP"}\r\n{"event": "MIGRATION", "data": {"status": "active"}}\r\n'
        b'{"event": "MIGRATION", "data": {"status": "completed"}}\r\n{"return": {}}\r\n'
    )
    assert (qemu.monitor.migration, qemu.monitor.error) == ("completed", "")


def test_message_that_arrives_in_pieces_is_handled_when_it_is_complete(qemu: Qemu) -> None:
    event = b'{"event": "MIGRATION", "data": {"status": "completed"}}\n'
    qemu.send(*(event[index : index + 1] for index in range(len(event) - 1)))
    assert qemu.monitor.migration == ""
    qemu.send(event[-1:] + b'{"ret')
    assert qemu.monitor.migration == "completed"
    qemu.send(b'urn": {}}\n')
    assert qemu.monitor.error == ""


def test_replies_are_counted_and_events_are_not(qemu: Qemu) -> None:
    qemu.monitor.execute("cont")
    assert qemu.monitor.unanswered == 2, "the capabilities, and the command"
    qemu.send(b'{"QMP": {}}\n{"return": {}}\n', b'{"event": "RESUME"}\n')
    assert qemu.monitor.unanswered == 1
    qemu.send(b'{"error": {"class": "GenericError", "desc": "no"}}\n')
    assert qemu.monitor.unanswered == 0


def test_first_error_is_kept_and_reported_once(qemu: Qemu) -> None:
    reported: list[str] = []
    qemu.monitor.on_error = reported.append
    qemu.send(
        b'{"error": {"class": "GenericError", "desc": "no such bus"}}\n{"return": {}}\n'
        b'{"error": {"class": "GenericError", "desc": "a later one"}}\n'
    )
    assert (qemu.monitor.error, reported) == ("no such bus", ["no such bus"])


def test_disk_for_which_the_machine_has_stopped_is_reported(qemu: Qemu) -> None:
    reported: list[tuple[str, str]] = []
    qemu.monitor.on_disk_stop = lambda *error: reported.append(error)
    fields = {"device": "disk1", "node-name": "#block1", "operation": "write", "nospace": True}
    for action in ("report", "ignore", "stop"):
        data = {**fields, "action": action, "reason": "No space left on device"}
        qemu.send(json.dumps({"event": "BLOCK_IO_ERROR", "data": data}).encode() + b"\r\n")
    assert reported == [("disk1", "No space left on device")]
    assert (qemu.monitor.error, qemu.monitor.unanswered) == ("", 1)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"not JSON", id="text"),
        pytest.param(b"", id="an empty line"),
        pytest.param(b"\xff\xfe\xfd", id="no UTF-8"),
        pytest.param(b"[1]", id="a list"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"error": "text"}', id="an error that is text"),
        pytest.param(b'{"error": {"class": "x"}}', id="an error without a description"),
        pytest.param(b'{"error": {"desc": ""}}', id="an empty description"),
        pytest.param(b'{"event": "MIGRATION"}', id="an event without data"),
        pytest.param(b'{"event": "MIGRATION", "data": []}', id="an event with other data"),
        pytest.param(b'{"event": "BLOCK_IO_ERROR", "data": {"action": "stop"}}', id="no disk"),
        pytest.param(b"[" * 60000, id="deeply nested"),
    ],
)
def test_invalid_message_is_an_error_and_later_messages_are_handled(
    qemu: Qemu, line: bytes
) -> None:
    reported: list[str] = []
    qemu.monitor.on_error = reported.append
    qemu.send(line + b'\n{"event": "MIGRATION", "data": {"status": "failed"}}\n')
    assert (qemu.monitor.error, reported) == (INVALID, [INVALID])
    assert qemu.monitor.migration == "failed"


def test_message_without_an_end_is_an_error_and_is_not_collected(qemu: Qemu) -> None:
    for _ in range(20):
        qemu.send(b"x" * (1 << 16))
        if qemu.monitor.error:
            break
    assert qemu.monitor.error == INVALID
    qemu.send(b"further text\n")
    assert qemu.connection.recv(100, socket.MSG_DONTWAIT) == b"further text\n"


@pytest.mark.parametrize("rest", [b"", b'{"retu'], ids=["at a message's end", "in a message"])
def test_closed_connection_is_no_error_and_is_not_read_again(qemu: Qemu, rest: bytes) -> None:
    qemu.send(*filter(None, [rest]))
    qemu.end.close()
    qemu.run_loop()
    assert (qemu.monitor.error, qemu.monitor.migration) == ("", "")
    calls = [0]

    def count() -> bool:
        calls[0] += 1
        return False

    qemu.loop.run(count, 0.02)
    assert calls[0] < 5, "the loop is busy with a closed connection"


def test_connection_that_qemu_has_reset_is_no_error(qemu: Qemu) -> None:
    qemu.end.close()  # with the first request unread: ECONNRESET
    qemu.run_loop()
    assert qemu.monitor.error == ""


def test_commands_for_a_qemu_that_has_ended_are_dropped(qemu: Qemu) -> None:
    qemu.end.close()
    descriptor = os.open(os.devnull, os.O_WRONLY)
    qemu.monitor.execute("cont")
    qemu.monitor.start_saving(descriptor)
    qemu.monitor.start_loading(descriptor)
    os.close(descriptor)
    qemu.run_loop()
    assert qemu.monitor.error == ""


def test_monitor_may_be_closed_twice_and_reads_nothing_afterwards(qemu: Qemu) -> None:
    qemu.monitor.close()
    qemu.monitor.close()
    qemu.send(b'{"error": {"desc": "unread"}}\n')
    assert qemu.monitor.error == ""
