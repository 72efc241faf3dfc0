"""QEMU's command line: what the machine is, in; a list of words, out. Pure.

One function for each group of options. The machine is lean: what no guest of ours uses is off,
because firmware and kernel spend time on every device. A `stream` is what a -chardev connects to:
`descriptor(N)`, `path(FILE)`, or the words of QEMU's manual.

Source: qemu-system(1), `qemu-system-x86_64 -device help`.
"""

from initrd.host.qemu.arch import Arch
from initrd.record import Record

_FIRST_SLOT, _FUNCTIONS = 2, 8  # of PCI bus 0; slot 0 is the host bridge, 1 is left for a display


class Hardware(Record):
    """The machine itself."""

    arch: Arch
    accelerator: str = "tcg"
    memory: int = 1 << 30  # bytes
    cpus: int = 1
    machine: str = ""  # value of -machine; empty: the architecture's


class Boot(Record):
    """What the machine starts."""

    kernel: str
    initrd: str
    cmdline: str
    firmware: str = ""  # a file; empty: QEMU's own


class Filesystem(Record):
    """A virtiofs share: its tag, and what is connected to virtiofsd."""

    tag: str
    stream: str


class Console(Record):
    """The first serial port."""

    stream: str
    menu: bool = False  # Ctrl-A is QEMU's: X ends it, C is its monitor


class Port(Record):
    """A virtio-serial port, by its name in the guest."""

    name: str
    stream: str


class Disk(Record):
    """A raw disk image; the guest sees the first one as /dev/vda."""

    path: str


class Setup(Record):
    """Everything that QEMU is told."""

    program: str
    hardware: Hardware
    boot: Boot
    console: Console
    filesystems: tuple[Filesystem, ...] = ()
    ports: tuple[Port, ...] = ()
    disks: tuple[Disk, ...] = ()
    network: bool = False
    monitor: str = ""  # a stream that speaks QMP
    extra: tuple[str, ...] = ()


def descriptor(number: int) -> str:
    """Return the stream that is a socket which QEMU inherits."""
    return f"socket,fd={number}"


def path(name: str) -> str:
    """Return the stream that is the socket at this path, on which somebody listens."""
    return f"socket,path={escape(name)}"


def command(setup: Setup) -> tuple[str, ...]:
    """Return the command that runs the machine."""
    slots = _Slots(setup.hardware.arch.transport)
    return (
        setup.program,
        *_basics(),
        *_machine(setup.hardware),
        *_boot(setup.boot),
        *_console(setup.console),
        *(word for share in enumerate(setup.filesystems) for word in _filesystem(*share, slots)),
        *_ports(setup.ports, slots),
        *(word for disk in enumerate(setup.disks) for word in _disk(*disk, slots)),
        *(_network(slots) if setup.network else ()),
        *(_monitor(setup.monitor) if setup.monitor else ()),
        *setup.extra,
    )


def escape(value: str) -> str:
    """Return a value as QEMU's comma-separated options take it."""
    return value.replace(",", ",,")


class _Slots:
    """Hands out devices' names and their places on PCI bus 0: eight to a slot, 240 in all."""

    def __init__(self, transport: str) -> None:
        self._transport = transport
        self._used = 0

    def device(self, model: str) -> str:
        """Return the start of a -device value for the next device."""
        if self._transport != "pci":
            return f"{model}-{self._transport}"
        slot, function = divmod(self._used, _FUNCTIONS)
        self._used += 1
        several = "" if function else ",multifunction=on"
        return f"{model}-pci,addr={_FIRST_SLOT + slot:02x}.{function}{several}"


def _basics() -> tuple[str, ...]:
    return ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none")


def _machine(hardware: Hardware) -> tuple[str, ...]:
    arch, size = hardware.arch, hardware.memory
    cpu = "host" if hardware.accelerator == "kvm" else arch.cpu
    memory = f"memory-backend-memfd,id=memory,size={size},share=on"  # virtiofsd maps it too
    return (
        *("-machine", f"{hardware.machine or arch.machine},memory-backend=memory"),
        *("-accel", hardware.accelerator),
        *("-cpu", cpu),
        *("-smp", f"{hardware.cpus}"),
        *("-m", f"size={size}B"),
        *("-object", memory),
    )


def _boot(boot: Boot) -> tuple[str, ...]:
    firmware = ("-bios", boot.firmware) if boot.firmware else ()
    return (*firmware, "-kernel", boot.kernel, "-initrd", boot.initrd, "-append", boot.cmdline)


def _chardev(name: str, stream: str, options: str = "") -> tuple[str, str]:
    backend, comma, rest = stream.partition(",")
    return ("-chardev", f"{backend},id={name}{comma}{rest}{options}")


def _console(console: Console) -> tuple[str, ...]:
    serial = ("-serial", "chardev:console")
    if not console.menu:
        return (*_chardev("console", console.stream), *serial)
    menu = ("-mon", "chardev=console,mode=readline")
    return (*_chardev("console", console.stream, ",mux=on"), *serial, *menu)


def _filesystem(number: int, share: Filesystem, slots: _Slots) -> tuple[str, ...]:
    name = f"share{number}"
    device = f"{slots.device('vhost-user-fs')},chardev={name},tag={escape(share.tag)}"
    return (*_chardev(name, share.stream), "-device", device)


def _ports(ports: tuple[Port, ...], slots: _Slots) -> tuple[str, ...]:
    if not ports:
        return ()
    words = ["-device", f"{slots.device('virtio-serial')},max_ports={len(ports) + 1}"]
    for number, port in enumerate(ports, 1):  # port 0 is kept for a console
        words += _chardev(port.name, port.stream)
        words += ["-device", f"virtserialport,nr={number},chardev={port.name},name={port.name}"]
    return tuple(words)


def _disk(number: int, disk: Disk, slots: _Slots) -> tuple[str, ...]:
    drive = f"if=none,id=disk{number},format=raw,discard=unmap,file={escape(disk.path)}"
    return ("-drive", drive, "-device", f"{slots.device('virtio-blk')},drive=disk{number}")


def _network(slots: _Slots) -> tuple[str, ...]:
    # romfile: no option ROM, which firmware would spend time on.
    device = f"{slots.device('virtio-net')},netdev=net,romfile="
    return ("-netdev", "user,id=net", "-device", device)


def _monitor(stream: str) -> tuple[str, ...]:
    return (*_chardev("qmp", stream), "-mon", "chardev=qmp,mode=control")
