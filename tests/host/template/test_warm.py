"""Start a machine warm: what is tried, in which order, and what is remembered and left behind."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from initrd.host.command.protocol import LocalStreams
from initrd.host.command.session import start_session
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Disk
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled, Loop
from initrd.host.template import memory, store, warm
from initrd.host.template.make import Snapshot
from initrd.host.template.start import TemplateError
from initrd.host.template.store import Store
from initrd.host.template.warm import find_obstacle, requirements_of, start_warm
from initrd.options import Share
from tests.host.template.fake_qemu import STATE
from tests.host.template.machines import MEMORY, behave, words_of_qemu

CONTENT = b"memory of the template"


class Machines:
    """Stands for making and starting machines: records what is done, and fails on request."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.events: list[str] = []
        self.notes: list[str] = []
        self.failure: dict[str, BaseException] = {}  # what an event raises
        self.streams = HostStreams(on_note=self.notes.append)

    def make(self, launch: Launch, loop: Loop, streams: HostStreams) -> Snapshot:
        self._happen("make")
        descriptor = memory.create(MEMORY)
        os.pwrite(descriptor, CONTENT, 0)
        return Snapshot(STATE, descriptor)

    @contextmanager
    def start(
        self, launch: Launch, loop: Loop, streams: HostStreams, memory_file: int, load: Any
    ) -> Iterator[str]:
        self._happen("start")
        assert load() == STATE
        assert os.pread(memory_file, len(CONTENT), 0) == CONTENT
        self._happen("run")
        try:
            yield "machine"
        finally:
            self.events.append("end")

    def _happen(self, event: str) -> None:
        self.events.append(event)
        if event in self.failure:
            raise self.failure[event]

    def start_warm(self) -> list[str]:
        """Start a machine and end it; return what has been done."""
        self.events.clear()
        with start_warm(self.launch, Loop(), self.streams) as machine:
            assert machine == "machine"
        return self.events

    def fail_to_start(self, error: type[BaseException] = TemplateError) -> BaseException:
        self.events.clear()
        with pytest.raises(error) as raised:
            self.start_warm()
        return raised.value


@pytest.fixture
def machines(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Machines:
    machines = Machines(launch)
    monkeypatch.setattr(warm, "make_snapshot", machines.make)
    monkeypatch.setattr(warm, "start_from_template", machines.start)
    return machines


def stored(launch: Launch, suffix: str = ".template") -> list[Path]:
    assert launch.warm is not None
    return list(Path(launch.warm.folder).glob(f"*{suffix}"))


def test_first_start_makes_a_template_and_saves_it(machines: Machines) -> None:
    assert machines.start_warm() == ["make", "start", "run", "end"]
    assert len(stored(machines.launch)) == 1
    assert machines.notes == []


def test_later_start_uses_the_saved_template(machines: Machines) -> None:
    machines.start_warm()
    for _ in range(2):
        assert machines.start_warm() == ["start", "run", "end"]


def test_start_with_another_key_makes_another_template(machines: Machines) -> None:
    machines.start_warm()
    setup = machines.launch.setup
    hardware = setup.hardware.replace(cpus=2)
    machines.launch = machines.launch.replace(setup=setup.replace(hardware=hardware))
    assert machines.start_warm() == ["make", "start", "run", "end"]
    assert len(stored(machines.launch)) == 2


def test_template_is_saved_before_a_machine_starts_from_it(machines: Machines) -> None:
    machines.failure["start"] = KeyboardInterrupt()
    machines.fail_to_start(KeyboardInterrupt)
    assert len(stored(machines.launch)) == 1


def test_descriptors_are_closed_while_the_machine_runs(machines: Machines) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in ("made", "found"):
        with start_warm(machines.launch, Loop(), machines.streams):
            assert os.listdir("/proc/self/fd") == before


def test_error_inside_the_with_is_no_failure_of_the_template(machines: Machines) -> None:
    for error in (TemplateError("a", "b"), OSError(errno.EIO, "c"), KeyboardInterrupt()):
        with (
            pytest.raises(type(error)) as raised,
            start_warm(machines.launch, Loop(), machines.streams),
        ):
            raise error
        assert raised.value is error
    assert machines.start_warm() == ["start", "run", "end"]
    assert stored(machines.launch, ".failure") == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "Read-only")]
)
def test_template_that_cannot_be_saved_is_used_once(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(memory, "save", fail)
    for _ in range(2):
        machines.notes.clear()
        assert machines.start_warm() == ["make", "start", "run", "end"]
        assert machines.notes == [f"cannot save the template: {error.strerror}"]
    assert stored(machines.launch) == stored(machines.launch, ".failure") == []


def test_template_above_the_limit_is_used_once_and_not_made_again_soon(machines: Machines) -> None:
    warm = machines.launch.warm
    assert warm
    machines.launch = machines.launch.replace(warm=warm.replace(limit=1))
    assert machines.start_warm() == ["make", "start", "run", "end"]
    assert "more than --cache-limit" in machines.notes[0]
    machines.events.clear()
    with pytest.raises(TemplateError, match="more than --cache-limit"):
        machines.start_warm()
    assert machines.events == []


def test_saving_that_is_interrupted_leaves_no_descriptor_open(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "save", interrupt)
    machines.fail_to_start(KeyboardInterrupt)
    assert machines.events == ["make"]


def test_damaged_template_is_made_again(machines: Machines) -> None:
    machines.start_warm()
    (path,) = stored(machines.launch)
    path.write_bytes(b"damaged")
    assert machines.start_warm() == ["make", "start", "run", "end"]
    assert machines.start_warm() == ["start", "run", "end"]


def test_template_that_another_process_makes_is_not_waited_for(machines: Machines) -> None:
    assert machines.launch.warm is not None
    with Store(machines.launch.warm.folder, 1).lock() as is_locked:
        assert is_locked
        error = machines.fail_to_start()
    assert "another process is making one" in str(error)
    assert machines.events == []
    assert stored(machines.launch, ".failure") == []
    assert machines.start_warm() == ["make", "start", "run", "end"]


def test_saved_template_is_used_while_another_process_makes_one(machines: Machines) -> None:
    machines.start_warm()
    assert machines.launch.warm is not None
    with Store(machines.launch.warm.folder, 1).lock():
        assert machines.start_warm() == ["start", "run", "end"]


@pytest.mark.parametrize("step", ["make", "start"])
def test_failure_of_a_template_is_remembered(machines: Machines, step: str) -> None:
    if step == "start":
        machines.start_warm()
    machines.failure[step] = TemplateError("what", "the reason")
    assert machines.fail_to_start() is machines.failure[step]
    assert stored(machines.launch) == []
    assert len(stored(machines.launch, ".failure")) == 1
    machines.failure.clear()
    error = machines.fail_to_start()
    assert "it failed a short time ago: the reason" in str(error)
    assert machines.events == []


def test_failure_is_remembered_for_one_key_only(machines: Machines) -> None:
    machines.failure["make"] = TemplateError("what", "the reason")
    machines.fail_to_start()
    machines.failure.clear()
    setup = machines.launch.setup
    machines.launch = machines.launch.replace(setup=setup.replace(network=not setup.network))
    assert machines.start_warm() == ["make", "start", "run", "end"]


@pytest.mark.parametrize("step", ["make", "start"])
@pytest.mark.parametrize("error", [HostError("cannot share /srv", "it is gone"), Cancelled()])
def test_failure_of_something_else_is_not_remembered(
    machines: Machines, step: str, error: Exception
) -> None:
    machines.failure[step] = error
    assert machines.fail_to_start(type(error)) is error
    assert stored(machines.launch, ".failure") == []
    machines.failure.clear()
    assert machines.start_warm()[-3:] == ["start", "run", "end"]


@pytest.mark.parametrize("step", ["make", "start"])
def test_failure_that_cannot_be_noted_is_reported_all_the_same(
    machines: Machines, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "save_failure", fail)
    machines.failure[step] = TemplateError("what", "the reason")
    assert machines.fail_to_start() is machines.failure[step]
    assert machines.notes == ["cannot note that the template failed: No space left on device"]


def test_template_that_is_truncated_after_the_check_is_an_error(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.start_warm()
    read = store._read

    def read_and_truncate(file: int, key: str) -> store.StoredTemplate:
        template = read(file, key)
        os.truncate(stored(machines.launch)[0], 100)
        return template

    monkeypatch.setattr(store, "_read", read_and_truncate)
    assert "cannot read it: the file is truncated" in str(machines.fail_to_start())
    assert stored(machines.launch) == []


@pytest.mark.parametrize("is_stored", [True, False])
def test_shortage_is_a_host_error_and_not_remembered(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    if is_stored:
        machines.start_warm()

    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(memory, "create", fail)
    error = machines.fail_to_start(HostError)
    assert str(error) == "cannot start from a template: Too many open files"
    assert stored(machines.launch, ".failure") == []


def test_unsafe_directory_is_an_error_before_a_machine_starts(machines: Machines) -> None:
    machines.start_warm()
    assert machines.launch.warm is not None
    Path(machines.launch.warm.folder).chmod(0o770)
    assert "its mode is 0770" in str(machines.fail_to_start(HostError))
    assert machines.events == []


def test_launch_without_a_template_is_an_error_of_the_caller(machines: Machines) -> None:
    machines.launch = machines.launch.replace(warm=None)
    machines.fail_to_start(ValueError)


# --- obstacles -----------------------------------------------------------------------------------


def test_no_obstacle(launch: Launch) -> None:
    assert find_obstacle(requirements_of(launch)) == ""


@pytest.mark.parametrize("name", ["aarch64", "riscv64", "s390x", "ppc64le"])
def test_other_architecture_is_an_obstacle(launch: Launch, name: str) -> None:
    hardware = launch.setup.hardware.replace(arch=find_arch(name))
    launch = launch.replace(setup=launch.setup.replace(hardware=hardware))
    assert find_obstacle(requirements_of(launch)) == f"there are no templates for {name}"


def test_words_for_qemu_are_an_obstacle(launch: Launch) -> None:
    launch = launch.replace(setup=launch.setup.replace(extra=("-s",)))
    assert "--qemu-arg" in find_obstacle(requirements_of(launch))


def test_gdb_is_an_obstacle(launch: Launch) -> None:
    assert find_obstacle(requirements_of(launch.replace(gdb=0))) == (
        "--gdb waits before the kernel starts"
    )


@pytest.mark.parametrize(
    ("shares", "disks", "network", "fits"),
    [
        (8, 0, False, True),
        (7, 0, True, True),
        (6, 1, True, True),
        (0, 0, False, True),
        (9, 0, False, False),
        (8, 0, True, False),
        (8, 1, False, False),
    ],
)
def test_more_devices_than_functions_of_a_slot_are_an_obstacle(
    launch: Launch, shares: int, disks: int, network: bool, fits: bool
) -> None:
    setup = launch.setup.replace(
        shares=tuple(Share(f"tag{number}") for number in range(shares)),
        disks=(Disk("/disk"),) * disks,
        network=network,
    )
    obstacle = find_obstacle(requirements_of(launch.replace(setup=setup)))
    assert obstacle == ("" if fits else "there are more than 8 shares, disks and network devices")


@pytest.mark.parametrize(("tag", "fits"), [("tag, é", True), ("tag\udcff", False)])
def test_tag_that_is_not_utf8_is_an_obstacle(launch: Launch, tag: str, *, fits: bool) -> None:
    shares = (Share("rootfs", source="/"), Share(tag, source="/"))
    obstacle = find_obstacle(
        requirements_of(launch.replace(setup=launch.setup.replace(shares=shares)))
    )
    assert ("UTF-8" in obstacle) is not fits


@pytest.mark.parametrize(
    ("release", "fits"),
    [
        ("5.18", True),
        ("5.18.0-1-amd64", True),
        ("5.18.19", True),
        ("6.1.0-9-amd64", True),
        ("10.0", True),
        ("5.17.99", False),
        ("5.18-rc7", False),
        ("5.4.0", False),
        ("4.19", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_kernel_that_cannot_renew_its_random_numbers_is_an_obstacle(
    launch: Launch, release: str, fits: bool
) -> None:
    assert launch.warm is not None
    obstacle = find_obstacle(
        requirements_of(launch.replace(warm=launch.warm.replace(release=release)))
    )
    assert bool(obstacle) is not fits
    assert not obstacle or "older than 5.18" in obstacle


def test_obstacle_is_an_error_and_starts_nothing(machines: Machines) -> None:
    machines.launch = machines.launch.replace(setup=machines.launch.setup.replace(extra=("-s",)))
    assert "--qemu-arg" in str(machines.fail_to_start())
    assert machines.events == []
    assert not stored(machines.launch)


# --- with a program in the place of QEMU ---------------------------------------------------------


def start_and_end(launch: Launch) -> None:
    with start_warm(launch, Loop(), HostStreams()) as machine:
        assert not machine.is_off


def is_start(words: list[str]) -> bool:
    return "-incoming" in words


def test_qemu_runs_twice_at_the_first_start_and_then_once(launch: Launch, tmp_path: Path) -> None:
    start_and_end(launch)
    start_and_end(launch)
    assert list(map(is_start, words_of_qemu(tmp_path))) == [False, True, True]


@pytest.mark.parametrize(
    "behaviour", ["exit at once", "refuse", "error in migrate", "saving fails"]
)
def test_qemu_that_makes_no_template_is_not_tried_again(
    launch: Launch, tmp_path: Path, behaviour: str
) -> None:
    behave(tmp_path, behaviour)
    with pytest.raises(TemplateError) as first:
        start_and_end(launch)
    with pytest.raises(TemplateError, match=re.escape(first.value.why)):
        start_and_end(launch)
    assert list(map(is_start, words_of_qemu(tmp_path))) == [False]


@pytest.mark.parametrize("behaviour", ["end while loading", "loading fails"])
def test_qemu_that_refuses_a_template_is_not_tried_again(
    launch: Launch, tmp_path: Path, behaviour: str
) -> None:
    start_and_end(launch)
    behave(tmp_path, behaviour)
    with pytest.raises(TemplateError):
        start_and_end(launch)
    assert stored(launch) == []
    with pytest.raises(TemplateError, match="a short time ago"):
        start_and_end(launch)
    assert list(map(is_start, words_of_qemu(tmp_path))) == [False, True, True]


def test_disk_that_another_machine_uses_is_not_remembered(launch: Launch, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1024 + 0x38) + b"\x53\xef")  # as of ext4
    launch = launch.replace(setup=launch.setup.replace(disks=(Disk(str(disk), overlay=True),)))
    with disk.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HostError, match="another chrootvm is using it"):
            start_and_end(launch)
    start_and_end(launch)


def test_note_about_an_unsafe_directory_names_it(launch: Launch) -> None:
    assert launch.warm is not None
    folder = Path(launch.warm.folder)
    folder.mkdir()
    folder.chmod(0o755)
    notes: list[str] = []
    streams = HostStreams(on_note=notes.append)
    with start_session(launch, LocalStreams(), Loop(), streams):
        pass
    why = f"cannot use the directory {folder}: its mode is 0755, not 0700"
    assert notes == [f"booting without a template: {why}"]
