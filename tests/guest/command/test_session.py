"""A boot with a command in its image: wherever it breaks, the host and the console are told."""

import os
import socket
from collections.abc import Iterator

import pytest

from initrd.command import Command, dump
from initrd.init import Boot
from initrd.options import COMMAND_FILE
from tests.fake_kernel import FakeKernel
from tests.guest.test_init import BootKernel, boot

# Nobody by that name: the boot gets as far as the start of the command, and no further.
COMMAND = Command((b"true",), user=b"eve")
NAMES = ("control", "stdin", "stdout", "stderr")
CLASS = "/sys/class/virtio-ports"


class Line:
    """Both ends of the control port; what is told to the host can be read after the boot."""

    def __init__(self) -> None:
        self.host, self.guest = socket.socketpair()
        self.guest.setblocking(False)
        self.host.sendall(b"bye\n")

    def told(self) -> list[str]:
        self.host.setblocking(False)
        try:
            return self.host.recv(1 << 16).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.host.close()
    line.guest.close()


def kernel_with(line: Line, **kwargs: object) -> FakeKernel:
    files = {f"{CLASS}/vport0p{at}/name": f"initrd.{name}\n" for at, name in enumerate(NAMES)}
    files[COMMAND_FILE] = os.fsdecode(dump(COMMAND))
    kernel = BootKernel("", files=files, **kwargs)
    kernel.ports = {f"/dev/vport0p{at}": line.guest.fileno() for at in range(len(NAMES))}
    return kernel


def test_the_command_is_got_ready_before_the_root_is_mounted(line: Line) -> None:
    kernel = kernel_with(line)
    boot(kernel)
    calls = [call[:2] for call in kernel.calls]
    order = [("open_port", "/dev/vport0p0"), ("unlink", COMMAND_FILE), ("interface_up", "lo")]
    order += [("mount", "rootfs"), ("empty", 1), ("set_hostname", "localhost"), ("power_off",)]
    assert [call for call in calls if call in order] == order
    assert ("mount", "cgroup2") in calls


def test_the_target_is_not_executed(line: Line) -> None:
    kernel = kernel_with(line)
    boot(kernel)
    assert kernel.named("execute") == []


def test_an_image_without_a_command_has_nothing_of_it() -> None:
    kernel = BootKernel()
    boot(kernel)
    assert kernel.named("open_port", "unlink", "interface_up", "set_hostname") == []


def test_the_reason_is_told_to_the_host_and_on_the_console(line: Line) -> None:
    kernel = kernel_with(line)
    boot(kernel)
    told = line.told()
    assert told[0] == "ready"
    assert told[-1].startswith("refused cannot run the command as eve: there is no user")
    assert "cannot run the command as eve" in kernel.said


def calls_of_a_boot() -> int:
    line = Line()
    kernel = kernel_with(line)
    boot(kernel)
    line.host.close()
    line.guest.close()
    return len(kernel.calls) - 1  # without the power-off


@pytest.mark.parametrize("at", range(calls_of_a_boot()))
def test_whichever_call_fails_it_ends_with_a_reason_and_a_power_off(line: Line, at: int) -> None:
    kernel = kernel_with(line, fail_call=at)
    boot(kernel)
    assert kernel.calls[-1] == ("power_off",)
    assert "Traceback" not in kernel.said
    told = line.told()
    if told:
        assert told[-1].startswith(("failed boot failed: ", "refused cannot run the command as"))
    else:
        assert "boot failed: " in kernel.said


@pytest.mark.parametrize("content", ["", "nonsense", "initrd-command 2\0end\0"])
def test_a_command_that_is_not_understood_is_a_failure(line: Line, content: str) -> None:
    kernel = kernel_with(line)
    kernel.files[COMMAND_FILE] = content
    boot(kernel)
    assert "cannot understand the command" in line.told()[-1]


def test_a_host_that_is_gone_does_not_stop_the_power_off(line: Line) -> None:
    line.host.shutdown(socket.SHUT_RDWR)
    kernel = kernel_with(line)
    boot(kernel)
    assert kernel.calls[-1] == ("power_off",)
    assert "cannot run the command as eve" in kernel.said


def test_what_a_command_can_do_without_is_only_warned_about(line: Line) -> None:
    errors = {("mount", "cgroup2"): 19, "interface_up": 19, "set_hostname": 1}
    kernel = kernel_with(line, errors=errors)
    boot(kernel)
    for words in ("cgroup2", "bring up lo", "set the host name"):
        assert words in kernel.said
    assert line.told()[-1].startswith("refused cannot run the command as eve")


def test_a_link_that_leads_nowhere_counts_as_no_file(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_with(line)
    there = kernel.exists
    monkeypatch.setattr(kernel, "exists", lambda path: path.startswith("/etc/") or there(path))
    boot(kernel)
    assert ("set_hostname", "localhost") in kernel.calls
    assert "there is no user eve" in line.told()[-1]


def test_panic_is_heeded_after_the_host_was_told(line: Line) -> None:
    kernel = kernel_with(line)
    kernel.files["/proc/cmdline"] = "initrd.onfail=panic"
    with pytest.raises(SystemExit):
        Boot(kernel, []).run()  # type: ignore[arg-type]
    assert line.told()[-1].startswith("refused ")
