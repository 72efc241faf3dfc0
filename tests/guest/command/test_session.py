"""A boot with a command in its image: order of the steps, reports to the host and the console."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from initrd.command import Command, dump
from initrd.init import Boot
from initrd.options import COMMAND_FILE
from tests.fake_kernel import FakeKernel
from tests.guest.test_init import BootKernel, boot

# The fake root has no user "eve": the boot fails when it is about to start the command.
COMMAND = Command((b"true",), user=b"eve")
NAMES = ("control", "stdin", "stdout", "stderr")
CLASS = "/sys/class/virtio-ports"


class ControlLine:
    """Both ends of the control port. The host has sent `bye` before the boot."""

    def __init__(self) -> None:
        self.host, self.guest = socket.socketpair()
        self.guest.setblocking(False)
        self.host.sendall(b"bye\n")

    def read_messages(self) -> list[str]:
        self.host.setblocking(False)
        try:
            return self.host.recv(1 << 16).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def line() -> Iterator[ControlLine]:
    line = ControlLine()
    yield line
    line.host.close()
    line.guest.close()


def kernel_with_command(line: ControlLine, **kwargs: object) -> FakeKernel:
    files = {f"{CLASS}/vport0p{at}/name": f"initrd.{name}\n" for at, name in enumerate(NAMES)}
    files[COMMAND_FILE] = os.fsdecode(dump(COMMAND))
    kernel = BootKernel("", files=files, **kwargs)
    kernel.ports = {f"/dev/vport0p{at}": line.guest.fileno() for at in range(len(NAMES))}
    return kernel


def test_session_is_prepared_before_the_root_is_mounted(line: ControlLine) -> None:
    kernel = kernel_with_command(line)
    boot(kernel)
    calls = [call[:2] for call in kernel.calls]
    order = [("open_port", "/dev/vport0p0"), ("unlink", COMMAND_FILE), ("interface_up", "lo")]
    order += [("mount", "rootfs"), ("empty", 1), ("set_hostname", "localhost"), ("power_off",)]
    assert [call for call in calls if call in order] == order
    assert ("mount", "cgroup2") in calls


def test_boot_with_a_command_does_not_execute_the_target(line: ControlLine) -> None:
    kernel = kernel_with_command(line)
    boot(kernel)
    assert kernel.calls_named("execute") == []


def test_boot_without_a_command_opens_no_port_and_sets_no_host_name() -> None:
    kernel = BootKernel()
    boot(kernel)
    assert kernel.calls_named("open_port", "unlink", "interface_up", "set_hostname") == []


def test_missing_user_is_reported_to_the_host_and_on_the_console(line: ControlLine) -> None:
    kernel = kernel_with_command(line)
    boot(kernel)
    messages = line.read_messages()
    assert messages[0] == "ready"
    assert messages[-1].startswith("refused cannot run the command as eve: there is no user")
    assert "cannot run the command as eve" in kernel.output


@pytest.mark.parametrize("seconds", [0, 0.25])
def test_clock_is_set_to_the_time_of_the_host_and_what_has_passed_since(
    line: ControlLine, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_with_command(line)
    line.host.sendall(b"time 1700000000000000\n")
    real_mount = kernel.mount

    def mount(*arguments: Any) -> None:
        kernel.clock += seconds if arguments[1] == "/sysroot" else 0
        real_mount(*arguments)

    monkeypatch.setattr(kernel, "mount", mount)
    boot(kernel)
    assert kernel.calls_named("set_realtime") == [
        ("set_realtime", 1_700_000_000_000_000 + int(seconds * 1e6))
    ]


@pytest.mark.parametrize(
    "message",
    ["", "time", "time x", "time -1", "time 1 2", "time 9007199254740993", f"time {'9' * 3000}"],
)
def test_clock_is_not_set_without_a_valid_time(line: ControlLine, message: str) -> None:
    kernel = kernel_with_command(line)
    line.host.sendall(f"{message}\n".encode())
    boot(kernel)
    assert kernel.calls_named("set_realtime") == []
    assert line.read_messages()[-1].startswith("refused cannot run the command as eve")


def test_clock_that_cannot_be_set_only_gives_a_warning(line: ControlLine) -> None:
    kernel = kernel_with_command(line, errors={"set_realtime": errno.EPERM})
    line.host.sendall(b"time 1700000000000000\n")
    boot(kernel)
    assert "cannot set the clock: Operation not permitted" in kernel.output
    assert line.read_messages()[-1].startswith("refused cannot run the command as eve")


def count_calls_of_a_boot() -> int:
    line = ControlLine()
    kernel = kernel_with_command(line)
    boot(kernel)
    line.host.close()
    line.guest.close()
    return len(kernel.calls) - 1  # without the power-off


@pytest.mark.parametrize("at", range(count_calls_of_a_boot()))
def test_boot_reports_any_failed_call_and_powers_off(line: ControlLine, at: int) -> None:
    kernel = kernel_with_command(line, fail_call=at)
    boot(kernel)
    assert kernel.calls[-1] == ("power_off",)
    assert "Traceback" not in kernel.output
    messages = line.read_messages()
    if messages:
        assert messages[-1].startswith(
            ("failed boot failed: ", "refused cannot run the command as")
        )
    else:
        assert "boot failed: " in kernel.output


@pytest.mark.parametrize("content", ["", "nonsense", "initrd-command 2\0end\0"])
def test_invalid_command_file_is_reported_as_a_failure(line: ControlLine, content: str) -> None:
    kernel = kernel_with_command(line)
    kernel.files[COMMAND_FILE] = content
    boot(kernel)
    assert "cannot understand the command" in line.read_messages()[-1]


def test_machine_powers_off_when_the_host_has_disconnected(line: ControlLine) -> None:
    line.host.shutdown(socket.SHUT_RDWR)
    kernel = kernel_with_command(line)
    boot(kernel)
    assert kernel.calls[-1] == ("power_off",)
    assert "cannot run the command as eve" in kernel.output


def test_optional_setup_that_fails_only_gives_a_warning(line: ControlLine) -> None:
    errors = {("mount", "cgroup2"): 19, "interface_up": 19, "set_hostname": 1}
    kernel = kernel_with_command(line, errors=errors)
    boot(kernel)
    for words in ("cgroup2", "bring up lo", "set the host name"):
        assert words in kernel.output
    assert line.read_messages()[-1].startswith("refused cannot run the command as eve")


def test_dangling_links_in_etc_are_treated_as_missing_files(
    line: ControlLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_with_command(line)
    exists = kernel.exists
    monkeypatch.setattr(kernel, "exists", lambda path: path.startswith("/etc/") or exists(path))
    boot(kernel)
    assert ("set_hostname", "localhost") in kernel.calls
    assert "there is no user eve" in line.read_messages()[-1]


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/group"])
def test_directory_in_the_place_of_a_file_with_users_is_named(
    path: str, line: ControlLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_with_command(line)
    read_bytes = kernel.read_bytes

    def read(name: str) -> bytes:
        if name == path:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))  # as read(2)
        return read_bytes(name)

    monkeypatch.setattr(kernel, "read_bytes", read)
    boot(kernel)
    expected = f"refused cannot read {path} of the root: Is a directory"
    assert line.read_messages()[-1] == expected


def test_onfail_panic_takes_effect_after_the_report_to_the_host(line: ControlLine) -> None:
    kernel = kernel_with_command(line)
    kernel.files["/proc/cmdline"] = "initrd.onfail=panic"
    with pytest.raises(SystemExit):
        Boot(kernel, []).run()  # type: ignore[arg-type]
    assert line.read_messages()[-1].startswith("refused ")
