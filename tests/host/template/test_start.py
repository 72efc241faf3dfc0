"""Start a machine from a saved one, with a program in the place of QEMU."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.machine.launch import Launch
from initrd.host.machine.run import PHASE_LOAD, PHASE_RESUME, BootObserver, HostStreams
from initrd.host.qemu.argv import Disk, plugged_devices
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled, Limit, Loop
from initrd.host.template import memory, start
from initrd.host.template.start import TemplateError, start_from_template
from initrd.options import Share
from tests.host.template.fake_qemu import STATE
from tests.host.template.machines import MEMORY, behave, requests_of_qemu, words_of_qemu

STREAMS = HostStreams()
LONG_TIME = 60.0  # seconds


@pytest.fixture
def memory_file() -> Iterator[int]:
    descriptor = memory.create(MEMORY)
    yield descriptor
    os.close(descriptor)


def start_and_end(launch: Launch, memory_file: int, streams: HostStreams = STREAMS) -> None:
    """Start a machine, and end it as soon as it runs."""
    with start_from_template(launch, Loop(), streams, memory_file, lambda: STATE) as machine:
        machine.loop.set_timer(0.01, lambda: None)  # the file is looked at again
        folder = Path(launch.kernel).parent
        assert machine.loop.run(lambda: ("cont", {}) in requests_of_qemu(folder), LONG_TIME)
        assert not machine.is_off


def test_devices_are_plugged_in_before_the_machine_continues(
    launch: Launch, memory_file: int, tmp_path: Path
) -> None:
    disk = tmp_path / "disk, 1.img"
    disk.write_bytes(bytes(1024 + 0x38) + b"\x53\xef")  # as of ext4
    launch = launch.replace(setup=launch.setup.replace(disks=(Disk(str(disk), overlay=True),)))
    start_and_end(launch, memory_file)
    requests = requests_of_qemu(tmp_path)
    assert [name for name, _ in requests] == [
        "qmp_capabilities",
        "migrate-set-capabilities",
        "migrate-incoming",
        "device_add",
        "device_add",
        "cont",
    ]
    first, last = plugged_devices(launch.setup)
    assert [arguments for name, arguments in requests if name == "device_add"] == [
        last.arguments(),
        first.arguments(),  # function 0 comes last
    ]


def test_machine_waits_with_the_memory_for_the_state(
    launch: Launch, memory_file: int, tmp_path: Path
) -> None:
    start_and_end(launch, memory_file)
    (words,) = words_of_qemu(tmp_path)
    assert words[-3:] == ["-S", "-incoming", "defer"]
    assert f"mem-path=/proc/self/fd/{memory_file}," in " ".join(words)


def test_memory_is_loaded_after_qemu_has_started(launch: Launch, memory_file: int) -> None:
    events: list[str] = []

    class Observer(BootObserver):
        def phase_started(self, name: str) -> None:
            events.append(name)

    def load() -> bytes:
        events.append("load")
        return STATE

    streams = STREAMS.replace(observer=Observer())
    with start_from_template(launch, Loop(), streams, memory_file, load):
        pass
    assert events == [PHASE_LOAD, "load", PHASE_RESUME]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("exit at once", "qemu ended with exit status 1: no such device"),
        ("error in migrate-set-capabilities", "it is not possible"),
        ("error in migrate-incoming", "it is not possible"),
        ("end while loading", "qemu ended with exit status 1: load of migration failed"),
        ("loading fails", "QEMU refuses it"),
    ],
)
def test_template_that_qemu_refuses_is_an_error(
    launch: Launch, memory_file: int, tmp_path: Path, behaviour: str, why: str
) -> None:
    behave(tmp_path, behaviour)
    with pytest.raises(TemplateError) as raised:
        start_and_end(launch, memory_file)
    assert raised.value.why == why
    assert raised.value.what == "cannot start from a template"


@pytest.mark.parametrize("command", ["device_add", "cont"])
def test_machine_whose_devices_cannot_be_added_ends_with_an_error(
    launch: Launch, memory_file: int, tmp_path: Path, command: str
) -> None:
    behave(tmp_path, f"error in {command}")
    with start_from_template(launch, Loop(), STREAMS, memory_file, lambda: STATE) as machine:
        assert machine.wait(LONG_TIME)
        with pytest.raises(HostError, match="cannot plug in a device: it is not possible"):
            machine.ending()


def test_disk_that_cannot_be_plugged_in_is_an_error_before_the_machine_runs(
    launch: Launch, memory_file: int, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"data")
    launch = launch.replace(setup=launch.setup.replace(disks=(Disk(str(disk)),)))
    behave(tmp_path, "error in device_add")
    with pytest.raises(HostError, match="cannot plug in a device") as raised:
        start_and_end(launch, memory_file)
    assert not isinstance(raised.value, TemplateError)
    assert "cont" not in [name for name, _ in requests_of_qemu(tmp_path)]


def test_error_of_load_is_passed_on(launch: Launch, memory_file: int) -> None:
    def load() -> bytes:
        raise TemplateError("a", "b")

    with (
        pytest.raises(TemplateError, match="a: b"),
        start_from_template(launch, Loop(), STREAMS, memory_file, load),
    ):
        pass


def test_state_of_any_size_reaches_qemu_or_fails(launch: Launch, memory_file: int) -> None:
    with (
        pytest.raises(TemplateError),
        start_from_template(launch, Loop(), STREAMS, memory_file, lambda: bytes(5 << 20)),
    ):
        pass


def test_directory_that_cannot_be_shared_is_no_fault_of_the_template(
    launch: Launch, memory_file: int, tmp_path: Path
) -> None:
    setup = launch.setup.replace(shares=(Share("rootfs", source=f"{tmp_path}/gone"),))
    with pytest.raises(HostError, match="cannot share") as raised:
        start_and_end(launch.replace(setup=setup), memory_file)
    assert not isinstance(raised.value, TemplateError)


def test_slow_loading_is_an_error(
    launch: Launch, memory_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(tmp_path, "hang while loading")
    monkeypatch.setattr(start, "_LOAD_TIMEOUT", 0.3)
    with pytest.raises(TemplateError, match="QEMU refuses it"):
        start_and_end(launch, memory_file)


@pytest.mark.parametrize(
    "limit", [Limit(0.0), Limit(None, lambda: True)], ids=["no time", "cancelled"]
)
def test_caller_that_does_not_wait_any_longer_gets_cancelled(
    launch: Launch, memory_file: int, tmp_path: Path, limit: Limit
) -> None:
    behave(tmp_path, "hang while loading")
    with pytest.raises(Cancelled):
        start_and_end(launch, memory_file, STREAMS.replace(limit=limit))


def test_large_state_that_qemu_does_not_read_is_not_waited_for_without_end(
    launch: Launch, memory_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(tmp_path, "hang before loading")
    monkeypatch.setattr(start, "_LOAD_TIMEOUT", 0.3)
    with (
        pytest.raises(TemplateError, match="QEMU refuses it"),
        start_from_template(launch, Loop(), STREAMS, memory_file, lambda: bytes(5 << 20)),
    ):
        pass


def test_error_inside_the_with_ends_the_machine(launch: Launch, memory_file: int) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        start_from_template(launch, Loop(), STREAMS, memory_file, lambda: STATE),
    ):
        raise KeyboardInterrupt
