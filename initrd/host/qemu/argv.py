"""QEMU's command line: the machine and its connections in, a list of words out. Pure.

One function for each group of options. Devices that the guests do not use are off, because firmware
and kernel spend time on every device. A `stream` is what a -chardev connects to: `fd_stream(N)`,
`path_stream(FILE)`, or the words of QEMU's manual.

Source: qemu-system(1), `qemu-system-x86_64 -device help`.
"""

from initrd.host.qemu.arch import Arch
from initrd.host.system.files import OpenFile
from initrd.options import Share
from initrd.record import Record

_FIRST_SLOT, _FUNCTIONS = 2, 8  # of PCI bus 0; slot 0 is the host bridge, 1 is left for a display


class Hardware(Record):
    """Processors and memory."""

    arch: Arch
    accelerator: str  # `kvm` or `tcg`
    memory: int  # bytes
    cpus: int
    machine: str = ""  # value of -machine; empty: the architecture's


class Setup(Record):
    """A machine: everything on its command line but its connections."""

    program: str
    hardware: Hardware
    kernel: OpenFile
    initrd: OpenFile
    cmdline: str
    firmware: str = ""  # path of a file; empty: QEMU's default
    shares: tuple[Share, ...] = ()
    ports: tuple[str, ...] = ()  # names of virtio-serial ports
    disks: tuple[str, ...] = ()  # paths of raw images; the guest sees the first as /dev/vda
    network: bool = False
    extra: tuple[str, ...] = ()  # further words of the command line

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that QEMU inherits; the caller closes them when QEMU has them."""
        return tuple(file.descriptor for file in (self.kernel, self.initrd) if file.is_open)

    def by_path(self) -> "Setup":
        """Return the same machine with its files named by path, for printing its command."""
        kernel, initrd = self.kernel.replace(descriptor=-1), self.initrd.replace(descriptor=-1)
        return self.replace(kernel=kernel, initrd=initrd)


class Connections(Record):
    """The streams that a machine's character devices are connected to."""

    console: str
    shares: tuple[str, ...] = ()  # to virtiofsd, in the order of Setup.shares
    ports: tuple[str, ...] = ()  # in the order of Setup.ports
    monitor: str = ""  # for QMP; empty: none
    menu: bool = False  # Ctrl-A on the console is QEMU's: X ends the machine, C is the monitor


def fd_stream(number: int) -> str:
    """Return the stream that is a socket which QEMU inherits."""
    return f"socket,fd={number}"


def path_stream(name: str) -> str:
    """Return the stream that is a listening socket at this path."""
    return f"socket,path={escape(name)}"


def escape(value: str) -> str:
    """Return a value as QEMU's comma-separated options take it."""
    return value.replace(",", ",,")


def command(setup: Setup, connections: Connections) -> tuple[str, ...]:
    """Return the command that runs the machine."""
    slots = _Slots(setup.hardware.arch.transport)
    return (
        setup.program,
        *_basics(),
        *_machine(setup.hardware),
        *_boot(setup),
        *_console(connections),
        *_shares(setup.shares, connections.shares, slots),
        *_ports(setup.ports, connections.ports, slots),
        *(word for disk in enumerate(setup.disks) for word in _disk(*disk, slots)),
        *(_network(slots) if setup.network else ()),
        *(_monitor(connections.monitor) if connections.monitor else ()),
        *setup.extra,
    )


class _Slots:
    """Assigns devices to functions of PCI bus 0: eight functions a slot, 240 in all."""

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


def _boot(setup: Setup) -> tuple[str, ...]:
    firmware = ("-bios", setup.firmware) if setup.firmware else ()
    kernel, initrd = setup.kernel.inherited_path, setup.initrd.inherited_path
    return (*firmware, "-kernel", kernel, "-initrd", initrd, "-append", setup.cmdline)


def _chardev(name: str, stream: str, options: str = "") -> tuple[str, str]:
    backend, comma, rest = stream.partition(",")
    return ("-chardev", f"{backend},id={name}{comma}{rest}{options}")


def _console(connections: Connections) -> tuple[str, ...]:
    serial = ("-serial", "chardev:console")
    if not connections.menu:
        return (*_chardev("console", connections.console), *serial)
    menu = ("-mon", "chardev=console,mode=readline")
    return (*_chardev("console", connections.console, ",mux=on"), *serial, *menu)


def _shares(shares: tuple[Share, ...], streams: tuple[str, ...], slots: _Slots) -> tuple[str, ...]:
    words: tuple[str, ...] = ()
    for number, (share, stream) in enumerate(zip(shares, streams, strict=True)):
        name = f"share{number}"
        device = f"{slots.device('vhost-user-fs')},chardev={name},tag={escape(share.tag)}"
        words += (*_chardev(name, stream), "-device", device)
    return words


def _ports(names: tuple[str, ...], streams: tuple[str, ...], slots: _Slots) -> tuple[str, ...]:
    if not names:
        return ()
    words = ["-device", f"{slots.device('virtio-serial')},max_ports={len(names) + 1}"]
    for number, (name, stream) in enumerate(zip(names, streams, strict=True), 1):
        words += _chardev(name, stream)  # port 0 is kept for a console
        words += ["-device", f"virtserialport,nr={number},chardev={name},name={name}"]
    return tuple(words)


def _disk(number: int, path: str, slots: _Slots) -> tuple[str, ...]:
    drive = f"if=none,id=disk{number},format=raw,discard=unmap,file={escape(path)}"
    return ("-drive", drive, "-device", f"{slots.device('virtio-blk')},drive=disk{number}")


def _network(slots: _Slots) -> tuple[str, ...]:
    # romfile: no option ROM, which firmware would spend time on.
    device = f"{slots.device('virtio-net')},netdev=net,romfile="
    return ("-netdev", "user,id=net", "-device", device)


def _monitor(stream: str) -> tuple[str, ...]:
    return (*_chardev("qmp", stream), "-mon", "chardev=qmp,mode=control")
