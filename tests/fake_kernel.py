"""A fake of `initrd.guest.kernel.Kernel` that records calls and raises errors set by a test."""

import errno
import os
from collections.abc import Callable
from typing import Any

Call = tuple[Any, ...]


class FakeKernel:
    """A system in memory, in the place of `Kernel`.

    `files` maps paths to their text; the directories of these files exist, and `directories` too.
    `links` maps symbolic links to their targets. `errors` maps the name of a call, or a tuple of
    its name and first arguments, to the errno that it raises. A list of errnos holds one for each
    call in turn, with 0 for success; calls after the last succeed. `fail_call` is the index of the
    one call that raises EIO.
    """

    def __init__(
        self,
        *,
        files: dict[str, str] | None = None,
        directories: tuple[str, ...] = (),
        links: dict[str, str] | None = None,
        errors: dict[str | Call, int | list[int]] | None = None,
        fail_call: int | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.written: list[tuple[int, bytes]] = []
        self.files = dict(files or {})
        self.directories = set(directories)
        self.links = dict(links or {})
        self.errors = dict(errors or {})
        self.fail_call = fail_call
        self.clock = 0.0
        self.after_sleep: Callable[[float], None] = lambda _clock: None  # called with the clock
        self.filesystem = 0x858458F6  # ramfs
        self.process = 1
        self.ports: dict[str, int] = {}  # device paths to the descriptors that open_port returns
        self.opened = 0
        self.opened_paths: dict[int, str] = {}  # descriptors of open_to_write to paths
        self.closed: list[int] = []
        self.devices: dict[int, int] = {}  # descriptors to device numbers; by default all differ

    # Calls that change the system: recorded.

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        self._call("mount", source, target, fstype, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        self._call("unmount", target, flags)

    def load_module(self, path: str, params: str, flags: int) -> None:
        self._call("load_module", path, params, flags)

    def make_directory(self, path: str) -> None:
        self._call("make_directory", path)
        self.directories.add(path)

    def make_node(self, path: str, mode: int, major: int, minor: int) -> None:
        self._call("make_node", path, mode, major, minor)

    def symlink(self, to: str, path: str) -> None:
        self._call("symlink", to, path)

    def chroot(self, path: str) -> None:
        self._call("chroot", path)

    def chdir(self, path: str) -> None:
        self._call("chdir", path)

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        del self.files[path]

    def interface_up(self, name: str) -> None:
        self._call("interface_up", name)

    def set_hostname(self, name: str) -> None:
        self._call("set_hostname", name)

    def reset_signals(self) -> None:
        self._call("reset_signals")

    def execute(self, path: str, argv: list[bytes], environ: dict[bytes, bytes]) -> None:
        self._call("execute", path, argv, environ)

    def sync(self) -> None:
        self._call("sync")

    def power_off(self) -> None:
        self._call("power_off")

    def exit(self, status: int) -> None:
        self._call("exit", status)
        raise SystemExit(status)

    def open_to_write(self, path: str) -> int:
        self._call("open_to_write", path)
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.opened += 1
        self.opened_paths[self.opened] = path
        return self.opened

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        self._call("write_at", self.opened_paths[fd], data, offset)

    def add_entropy(self, fd: int, seed: bytes) -> None:
        self._call("add_entropy", self.opened_paths[fd], seed)

    def set_realtime(self, microseconds: int) -> None:
        self._call("set_realtime", microseconds)

    def populate_memory(self) -> None:
        self._call("populate_memory")

    def write_file(self, path: str, text: str) -> None:
        self._call("write_file", path, text)
        self.files[path] = text

    # Calls that read the system: most are not recorded.

    def exists(self, path: str) -> bool:
        return path in self.files or self.is_directory(path)

    def is_directory(self, path: str) -> bool:
        prefix = path.rstrip("/") + "/"
        return path in self.directories or any(
            other.startswith(prefix) for other in (*self.files, *self.directories)
        )

    def list_directory(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        names = (*self.files, *self.directories)
        return sorted({n[len(prefix) :].split("/")[0] for n in names if n.startswith(prefix)})

    def read(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.files[path]

    def read_link(self, path: str) -> str:
        return self.links.get(path, "")

    def resolve(self, path: str) -> str:
        return self.links.get(path, path)

    def read_bytes(self, path: str) -> bytes:
        return self.read(path).encode("utf-8", "surrogateescape")

    def open_port(self, path: str) -> int:
        self._call("open_port", path)
        return self.ports[path]

    def open_directory(self, path: str) -> int:
        self.opened += 1
        return self.opened

    def close(self, fd: int) -> None:
        self.closed.append(fd)

    def device(self, fd: int) -> int:
        return self.devices.get(fd, fd)

    def empty(self, fd: int) -> None:
        self._call("empty", fd)

    def filesystem_type(self, fd: int) -> int:
        return self.filesystem

    def pid(self) -> int:
        return self.process

    def monotonic(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.after_sleep(self.clock)

    def open_log(self) -> int:
        return 99

    def read_log(self) -> list[bytes]:
        return [line.encode() for line in self.read("/dev/kmsg").splitlines()]

    def write(self, fd: int, data: bytes) -> None:
        self.written.append((fd, data))

    # Methods for assertions.

    @property
    def output(self) -> str:
        """The text of all `write` calls, in order."""
        return b"".join(data for _, data in self.written).decode(errors="surrogateescape")

    def calls_named(self, *names: str) -> list[Call]:
        """The recorded calls with these names, in order."""
        return [call for call in self.calls if call[0] in names]

    def _call(self, *call: Any) -> None:
        if self.fail_call == len(self.calls):
            self.fail_call = None
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        number = self._error_for(call)
        if number:
            raise OSError(number, os.strerror(number))
        self.calls.append(call)

    def _error_for(self, call: Call) -> int:
        for key, planned in self.errors.items():
            if key == call[0] or (isinstance(key, tuple) and call[: len(key)] == key):
                if isinstance(planned, list):
                    return planned.pop(0) if planned else 0
                return planned
        return 0


class FaultyKernel:
    """A kernel whose calls fail, reading ones included: the one with the index `fail_at`.

    `failed` is that call. An OSError names the path of the call, as those of Python do, but not
    where the system call gets a descriptor. Calls that cannot fail, and those by which a failed
    boot ends, are neither counted nor fail.
    """

    _NEVER_FAIL = frozenset(
        ("power_off", "exit", "write", "monotonic", "sleep", "pid", "execute", "close", "open_log")
    ) | {"read_link", "has_acls"}

    _BY_DESCRIPTOR = frozenset(("read_at", "write_file", "load_module"))

    def __init__(self, kernel: FakeKernel, fail_at: int = -1, error: int = errno.EIO) -> None:
        self._kernel, self._fail_at, self._error = kernel, fail_at, error
        self.count = 0
        self.failed: Call = ()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._kernel, name)
        if name in self._NEVER_FAIL or not callable(method):
            return method

        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count - 1 == self._fail_at:
                self.failed = (name, *arguments)
                path = () if name in self._BY_DESCRIPTOR else self.path
                raise OSError(self._error, os.strerror(self._error), *path)
            return method(*arguments)

        return call

    @property
    def path(self) -> tuple[str, ...]:
        """The path of the call that failed, which a message has to name; empty for `/`, or none."""
        if self.failed[:1] == ("start_daemon",):
            return (os.fsdecode(self.failed[2][0]).lstrip("@"),)
        position = 2 if self.failed[:1] == ("mount",) else 1
        return tuple(
            each for each in self.failed[position:][:1] if isinstance(each, str) and each != "/"
        )


class BootEnded(BaseException):
    """The fake machine has been powered off, or has executed a program."""


class EndingKernel(FakeKernel):
    """A fake kernel whose power_off and execute do not return: they raise BootEnded."""

    def power_off(self) -> None:
        super().power_off()
        raise BootEnded

    def execute(self, path: str, argv: list[bytes], environ: dict[bytes, bytes]) -> None:
        super().execute(path, argv, environ)
        raise BootEnded
