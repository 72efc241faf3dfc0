"""Start a machine warm: from the template that fits it, which is made where it is missing."""

import errno
import os
from contextlib import ExitStack, contextmanager
from threading import Thread

from initrd.cmdline import parse
from initrd.errors import reason
from initrd.host.machine.launch import Launch
from initrd.host.machine.rootfs import version_key
from initrd.host.machine.run import HostStreams, RunningMachine
from initrd.host.qemu.argv import MAX_PLUGGED, plugged_devices
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from initrd.host.system.printable import is_utf8
from initrd.host.template import memory
from initrd.host.template.key import template_key, warm_of
from initrd.host.template.make import Snapshot, make_snapshot
from initrd.host.template.start import TemplateError, start_from_template
from initrd.host.template.store import Store, StoredTemplate
from initrd.options import CmdlineError
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# From this version on the kernel discards all random numbers made in advance when it is reseeded.
_OLDEST_KERNEL = "5.18"
_CANNOT_START = "cannot start from a template"


class Requirements(Record):
    """What decides whether a machine can start from a template."""

    arch: str  # name of the architecture
    release: str  # of the kernel; empty: unknown
    devices: int  # shares, disks and network devices
    tags: tuple[str, ...] = ()  # of the shares
    qemu_arguments: tuple[str, ...] = ()
    gdb: bool = False


def requirements_of(launch: Launch) -> Requirements:
    """Return what decides whether the machine of a launch can start from a template."""
    setup, devices = launch.setup, len(plugged_devices(launch.setup))
    arch = setup.hardware.arch.name
    tags = tuple(share.tag for share in setup.shares)
    release, gdb = warm_of(launch).release, launch.gdb is not None
    return Requirements(arch, release, devices, tags, setup.extra, gdb)


def find_obstacle(needed: Requirements) -> str:
    """Return why a machine cannot start from a template; empty when it can."""
    obstacles = (
        (needed.arch != "x86_64", f"there are no templates for {needed.arch}"),
        (bool(needed.qemu_arguments), "--qemu-arg may add what cannot be saved"),
        (needed.gdb, "--gdb waits before the kernel starts"),
        (
            needed.devices > MAX_PLUGGED,
            f"there are more than {MAX_PLUGGED} shares, disks and network devices",
        ),
        (
            not all(map(is_utf8, needed.tags)),
            "the tag of a share is not UTF-8, which QEMU's machine protocol requires",
        ),
        (
            version_key(needed.release) < version_key(_OLDEST_KERNEL),
            f"the kernel is older than {_OLDEST_KERNEL}: it cannot renew its random numbers",
        ),
    )
    return next((text for applies, text in obstacles if applies), "")


@contextmanager
def start_warm(launch: Launch, loop: Loop, streams: HostStreams) -> "Iterator[RunningMachine]":
    """Start the machine of `launch` from a template. Raises HostError when that is not possible.

    Raises Cancelled when the limit is reached before the machine runs.
    """
    warm = warm_of(launch)
    obstacle = find_obstacle(requirements_of(launch))
    if obstacle:
        raise TemplateError(_CANNOT_START, obstacle)
    try:
        parse(warm.cmdline)
    except CmdlineError as error:  # a word of --append needs one that a template does not have
        raise TemplateError(_CANNOT_START, str(error)) from error
    store, key = Store(warm.folder, warm.limit), template_key(launch)
    failure = store.find_failure(key)
    if failure:
        raise TemplateError(_CANNOT_START, f"it failed a short time ago: {failure}")
    with ExitStack() as stack:
        with ExitStack() as files, _explain_os_errors():  # QEMU has files of its own afterwards
            source = _find(store, key, launch, files)
            if source is None:
                snapshot = _make(store, key, launch, loop, streams)
                files.callback(os.close, snapshot.memory)
                source = snapshot.memory, lambda: snapshot.state
            with _remember_failure(store, key, streams):
                machine = stack.enter_context(start_from_template(launch, loop, streams, *source))
        yield machine


def _find(
    store: Store, key: str, launch: Launch, files: ExitStack
) -> "tuple[int, Callable[[], bytes]] | None":
    """Return a new memory and what loads the stored template into it; None without a template.

    The descriptors are open as long as `files`.
    """
    stored = store.find(key)
    if stored is None:
        return None
    files.callback(stored.close)
    memory_file = memory.create(launch.setup.hardware.memory)
    files.callback(os.close, memory_file)
    loading = _Loading(stored, memory_file)
    files.callback(loading.wait)
    return memory_file, loading.result


class _Loading:
    """Loads a template in a thread, because QEMU and virtiofsd take as long to start."""

    def __init__(self, stored: StoredTemplate, memory_file: int) -> None:
        self._stored, self._memory_file = stored, memory_file
        self._state, self._error = b"", ""
        self._thread = Thread(target=self._run)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the descriptors are no longer in use."""
        self._thread.join()

    def result(self) -> bytes:
        """Wait, and return the state of the devices. Raises TemplateError."""
        self.wait()
        if self._error:
            raise TemplateError(_CANNOT_START, f"cannot read it: {self._error}")
        return self._state

    def _run(self) -> None:
        try:
            self._state = self._stored.load(self._memory_file)
        except OSError as error:
            self._error = reason(error)


def _make(store: Store, key: str, launch: Launch, loop: Loop, streams: HostStreams) -> Snapshot:
    """Make a template and save it. A template that cannot be saved is used once."""
    with store.lock() as is_locked:
        if not is_locked:
            raise TemplateError(_CANNOT_START, "another process is making one")
        with _remember_failure(store, key, streams):
            snapshot = make_snapshot(launch, loop, streams)
        try:
            store.save(key, snapshot)
        except OSError as error:
            why = f"cannot save the template: {reason(error)}"
            streams.on_note(why)
            if error.errno == errno.EDQUOT:  # it is too large, and will be each time
                _note_failure(store, key, why, streams)
        except BaseException:
            os.close(snapshot.memory)
            raise
    return snapshot


@contextmanager
def _remember_failure(store: Store, key: str, streams: HostStreams) -> "Iterator[None]":
    """Note a TemplateError, so that the next starts do not meet it again."""
    try:
        yield
    except TemplateError as failure:
        _note_failure(store, key, failure.why, streams)
        raise


def _note_failure(store: Store, key: str, why: str, streams: HostStreams) -> None:
    try:
        store.save_failure(key, why)
    except OSError as error:
        streams.on_note(f"cannot note that the template failed: {reason(error)}")


@contextmanager
def _explain_os_errors() -> "Iterator[None]":
    """Raise a HostError in place of an OSError: a machine that boots may not meet it."""
    try:
        yield
    except OSError as error:
        raise HostError(_CANNOT_START, reason(error)) from error
