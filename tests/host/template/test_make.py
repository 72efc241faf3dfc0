"""Make a template with a program in the place of QEMU."""

import os
import time
from pathlib import Path

import pytest

from initrd.host.machine.launch import Launch
from initrd.host.machine.run import PHASE_TEMPLATE, BootObserver, HostStreams
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled, Limit, Loop
from initrd.host.template import make
from initrd.host.template.make import make_snapshot
from initrd.host.template.start import TemplateError
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share
from tests.host.conftest import write_program
from tests.host.template.fake_qemu import STATE
from tests.host.template.machines import MEMORY, behave, requests_of_qemu, words_of_qemu

STREAMS = HostStreams()


class Phases(BootObserver):
    def __init__(self) -> None:
        self.names: list[str] = []

    def phase_started(self, name: str) -> None:
        self.names.append(name)


def test_snapshot_has_the_state_and_the_memory_of_the_machine(launch: Launch) -> None:
    phases = Phases()
    snapshot = make_snapshot(launch, Loop(), STREAMS.replace(observer=phases))
    assert snapshot.state == STATE
    assert os.pread(snapshot.memory, 30, 0) == b"memory of the template".ljust(30, b"\0")
    assert os.fstat(snapshot.memory).st_size == MEMORY
    os.close(snapshot.memory)
    assert phases.names == [PHASE_TEMPLATE]


def test_template_boots_with_its_own_command_line_and_all_ports(
    launch: Launch, tmp_path: Path
) -> None:
    os.close(make_snapshot(launch, Loop(), STREAMS).memory)
    (words,) = words_of_qemu(tmp_path)
    assert words[words.index("-append") + 1] == "console=ttyS0 quiet"
    assert "true" not in words[words.index("-initrd") + 1]
    ports = [word for word in words if word.startswith("virtserialport,")]
    assert [port.rpartition("initrd.")[2] for port in ports] == [
        "control",
        "stdin",
        "stdout",
        "stderr",
        "tty",
    ]
    assert [word for word in words if word.startswith("null,id=initrd.")] == [
        f"null,id=initrd.{name}" for name in ("stdin", "stdout", "stderr", "tty")
    ]


def test_template_is_saved_after_it_has_booted(launch: Launch, tmp_path: Path) -> None:
    os.close(make_snapshot(launch, Loop(), STREAMS).memory)
    assert [name for name, _ in requests_of_qemu(tmp_path)] == [
        "qmp_capabilities",
        "migrate-set-capabilities",
        "getfd",
        "migrate",
    ]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("exit at once", "qemu ended with exit status 1: no such device"),
        ("power off", "before its kernel printed anything"),
        ("refuse", "refused no driver"),
        ("error in migrate-set-capabilities", "it is not possible"),
        ("error in getfd", "it is not possible"),
        ("error in migrate", "it is not possible"),
        ("end while saving", "qemu ended with exit status 1"),
        ("saving fails", "QEMU cannot save this machine"),
        ("no state", "QEMU cannot save this machine"),
    ],
)
def test_template_that_cannot_be_made_is_an_error(
    launch: Launch, tmp_path: Path, behaviour: str, why: str
) -> None:
    behave(tmp_path, behaviour)
    with pytest.raises(TemplateError) as raised:
        make_snapshot(launch, Loop(), STREAMS)
    assert why in raised.value.why
    assert raised.value.what == "cannot make a template"


def test_state_beyond_all_sizes_is_an_error(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "_MAX_STATE", len(STATE) - 1)
    with pytest.raises(TemplateError, match="cannot save this machine"):
        make_snapshot(launch, Loop(), STREAMS)


def test_directory_that_cannot_be_shared_is_no_fault_of_the_template(
    launch: Launch, tmp_path: Path
) -> None:
    setup = launch.setup.replace(shares=(Share("rootfs", source=f"{tmp_path}/gone"),))
    with pytest.raises(HostError, match="cannot share") as raised:
        make_snapshot(launch.replace(setup=setup), Loop(), STREAMS)
    assert not isinstance(raised.value, TemplateError)


def test_slow_boot_is_an_error(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(tmp_path, "hang while booting")
    monkeypatch.setattr(make, "_BOOT_TIMEOUT", 0.0)
    with pytest.raises(TemplateError, match="its boot has not ended after 0 s"):
        make_snapshot(launch, Loop(), STREAMS)


def test_slow_saving_is_an_error(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(tmp_path, "hang while saving")
    monkeypatch.setattr(make, "_SAVE_TIMEOUT", 0.3)
    with pytest.raises(TemplateError, match="cannot save this machine"):
        make_snapshot(launch, Loop(), STREAMS)


@pytest.mark.parametrize("behaviour", ["hang while booting", "hang while saving"])
def test_caller_that_cancels_does_not_wait(launch: Launch, tmp_path: Path, behaviour: str) -> None:
    behave(tmp_path, behaviour)
    loop, began = Loop(), time.monotonic()
    loop.set_timer(0.05, lambda: None)  # as a signal would, it makes the loop look
    limit = Limit(None, lambda: time.monotonic() > began + 0.3)
    with pytest.raises(Cancelled):
        make_snapshot(launch, loop, STREAMS.replace(limit=limit))


@pytest.mark.parametrize("behaviour", ["hang while booting", "hang while saving"])
def test_time_of_the_caller_ends_the_making(launch: Launch, tmp_path: Path, behaviour: str) -> None:
    behave(tmp_path, behaviour)
    with pytest.raises(Cancelled):
        make_snapshot(launch, Loop(), STREAMS.replace(limit=Limit(0.3)))


def test_memory_that_cannot_be_made_leaves_no_descriptor_open(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> int:
        raise OSError(27, "File too large")

    monkeypatch.setattr(make.memory, "create", fail)
    with pytest.raises(OSError, match="too large"):
        make_snapshot(launch, Loop(), STREAMS)


def test_failure_of_a_virtiofsd_is_no_fault_of_the_template(launch: Launch, tmp_path: Path) -> None:
    behave(tmp_path, "end after virtiofsd")
    virtiofsd = Virtiofsd(write_program(tmp_path / "virtiofsd", "exit 3"), "c")
    share = Share("rootfs", source=str(tmp_path), writable=True)
    setup = launch.setup.replace(shares=(share,))
    with pytest.raises(HostError, match="cannot go on sharing rootfs") as raised:
        make_snapshot(launch.replace(setup=setup, virtiofsd=virtiofsd), Loop(), STREAMS)
    assert not isinstance(raised.value, TemplateError)
