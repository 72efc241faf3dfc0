"""A fake machine that is a template: a PCI Express port with virtio devices, and a control port."""

import os
from collections.abc import Callable
from typing import Any

from initrd.command import Command
from initrd.template import SEED_SIZE, Start
from tests.guest.test_init import BootKernel

PORT = "0000:00:03.0"
DEVICES = f"/sys/bus/pci/devices/{PORT}"
DRIVERS = "/sys/bus/virtio/drivers"
SEED = bytes(range(SEED_SIZE))
START = Start("rootfs=new", Command((b"true",), user=b"eve"), SEED)


def config_space(*parts: tuple[int, bytes]) -> str:
    """Return a PCI configuration space with each part at its offset, as the text of a file."""
    data = bytearray(256)
    for at, part in parts:
        data[at : at + len(part)] = part
    return os.fsdecode(bytes(data))


# Capabilities: power management at 0x40, then PCI Express at 0x54; its Slot Control is 0xf8c3.
PORT_CONFIG = config_space(
    (0x34, b"\x40"), (0x40, b"\x01\x54"), (0x54, b"\x10\x00"), (0x6C, b"\xc3\xf8")
)


def function_files(number: int, driver: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files and the links of a function in the slot, whose device has a driver."""
    function, device = f"{DEVICES}/0000:01:00.{number}", f"virtio{number + 3}"
    registers = (0x04, bytes((7, number))), (0x10, bytes(range(16 * number + 1, 16 * number + 25)))
    files = {f"{function}/config": config_space(*registers), f"{function}/{device}/status": ""}
    files |= {f"{DRIVERS}/{driver}/{name}": "" for name in ("bind", "unbind")}
    return files, {f"{function}/{device}/driver": f"../../../../bus/virtio/drivers/{driver}"}


class TemplateKernel(BootKernel):
    """A fake kernel with a slot.

    `on_write` is called after a write to the real port `control`, and `on_failure` when the message
    of a failed boot has been printed, before it is sent to the host.
    """

    def __init__(
        self, *drivers: str, cmdline: str = "", config: str = PORT_CONFIG, **kwargs: Any
    ) -> None:
        files = {"/dev/random": "", f"{DEVICES}/config": config}
        files[f"{DEVICES}/{PORT}:pcie001/device"] = ""  # a service of the port, and no function
        links: dict[str, str] = {}
        for number, driver in enumerate(drivers):
            more_files, more_links = function_files(number, driver)
            files |= more_files
            links |= more_links
        files |= kwargs.pop("files", {})
        super().__init__(cmdline, files=files, links=links, **kwargs)
        self.opened = 1000  # so that no descriptor of the fake has the number of a real one
        self.control = -1
        self.on_write: Callable[[bytes], object] = lambda _data: None
        self.on_failure: Callable[[], object] = lambda: None

    def write(self, fd: int, data: bytes) -> None:
        if fd == self.control:
            self._call("write", "control", data)
            os.write(fd, data)
            self.on_write(data)
        elif fd in self.opened_paths:
            self._call("write", self.opened_paths[fd], data)
        else:
            super().write(fd, data)
            if b"boot failed: " in data or b"cannot run the command" in data:
                self.on_failure()

    @property
    def left_open(self) -> set[int]:
        """The descriptors that were opened and not closed."""
        return set(range(1001, self.opened + 1)) - set(self.closed)

    @property
    def bound(self) -> list[bytes]:
        """The devices to which a driver was bound again."""
        return [call[2] for call in self.calls_named("write") if call[1].endswith("/bind")]
