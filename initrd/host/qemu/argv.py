"""QEMU's command line: the machine and its connections in, a list of words out. Pure.

One function for each group of options. Devices that the guests do not use are off, because firmware
and kernel spend time on every device. A `stream` is what a -chardev connects to: `fd_stream(N)`,
`path_stream(FILE)`, or the words of QEMU's manual.

Source: qemu-system(1), `qemu-system-x86_64 -device help`.
"""

from initrd.host.qemu.arch import Arch
from initrd.host.qemu.seccomp import SANDBOX
from initrd.host.system.files import OpenFile
from initrd.options import Share
from initrd.record import Record

_FIRST_SLOT, _FUNCTIONS = 2, 8  # of PCI bus 0; slot 0 is the host bridge, 1 is left for a display
# A template: a port in whose slot devices are plugged in at the start, and its PCI address.
_PORT, PORT_ADDRESS = "hotplug0", "0000:00:03.0"
MAX_PLUGGED = _FUNCTIONS  # devices in the slot of a template


class Hardware(Record):
    """Processors and memory."""

    arch: Arch
    accelerator: str  # `kvm` or `tcg`
    memory: int  # bytes
    cpus: int
    machine: str = ""  # value of -machine; empty: the architecture's


class Disk(Record):
    """A virtio disk: a raw image, or a block device."""

    path: str  # absolute
    writable: bool = True
    overlay: bool = False  # holds the overlay of the root; the image is made when it is missing


class PublishedPort(Record):
    """A TCP port of the guest that is reached by a port of the host."""

    address: str  # IPv4 address of the host
    host_port: int
    guest_port: int

    @property
    def name(self) -> str:
        """The host's address and port."""
        return f"{self.address}:{self.host_port}"

    @property
    def rule(self) -> str:
        """The value of `hostfwd`, which QEMU repeats in its error messages."""
        return f"tcp:{self.name}-:{self.guest_port}"


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
    disks: tuple[Disk, ...] = ()  # the guest sees the first as /dev/vda
    network: bool = False
    reaches_loopback: bool = False  # the network reaches the services on the host's loopback
    published: tuple[PublishedPort, ...] = ()  # of the network
    mac: str = ""  # of the network device; empty: QEMU's default, which all machines share
    generation: str = ""  # a UUID; a machine that starts from a template has a new one
    sandbox: bool = False  # QEMU has a system call filter
    extra: tuple[str, ...] = ()  # further words of the command line

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that QEMU inherits; the caller closes them when QEMU has them."""
        return tuple(file.descriptor for file in (self.kernel, self.initrd) if file.is_open)

    @property
    def needs_monitor(self) -> bool:
        """Whether errors of a disk have to be noticed by QMP: they stop the machine."""
        return any(disk.writable for disk in self.disks)

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
    gdb: str = ""  # a listening socket; the machine waits until gdb continues it. Empty: none


# Standard input and output. Keys such as Ctrl-C are the guest's.
STDIO_STREAM = "stdio,signal=off"
# A terminal, with keys for QEMU: Ctrl-A X ends the machine.
TERMINAL_STREAM = f"{STDIO_STREAM},mux=on"


def fd_stream(number: int) -> str:
    """Return the stream that is a socket which QEMU inherits; -1: one without another end."""
    return f"socket,fd={number}" if number >= 0 else "null"


def path_stream(name: str) -> str:
    """Return the stream that is a listening socket at this path."""
    return f"socket,path={escape(name)}"


def escape(value: str) -> str:
    """Return a value as QEMU's comma-separated options take it."""
    return value.replace(",", ",,")


class Device(Record):
    """A value of -device, or the arguments of the QMP command device_add."""

    driver: str
    properties: "tuple[tuple[str, str | bool], ...]" = ()

    def words(self) -> tuple[str, str]:
        """Return the words of the command line."""
        return ("-device", ",".join((self.driver, *(_format(*pair) for pair in self.properties))))

    def arguments(self) -> "dict[str, str | bool]":
        """Return the arguments of device_add."""
        return {"driver": self.driver, **dict(self.properties)}


def command(setup: Setup, connections: Connections) -> tuple[str, ...]:
    """Return the command that runs the machine."""
    slots = _Slots(setup.hardware.arch.transport)
    return (
        setup.program,
        *_basics(setup),
        *_machine(setup.hardware),
        *_memory(setup.hardware, ""),
        *_boot(setup),
        *_console(connections.console),
        *_share_backends(connections.shares),
        *_words(_share_devices(setup.shares, slots)),
        *_ports(setup.ports, connections.ports, slots),
        *_disk_backends(setup.disks),
        *_words(_disk_devices(len(setup.disks), slots)),
        *(_network_backend(setup.published) if setup.network else ()),
        *_words(_network_devices(setup, slots)),
        *(_monitor(connections.monitor) if connections.monitor else ()),
        *(_gdb(connections.gdb) if connections.gdb else ()),
        *setup.extra,
    )


def template_command(setup: Setup, connections: Connections, memory: str) -> tuple[str, ...]:
    """Return the command that boots a template of the machine.

    In place of its disks there are empty ones, and no port is published. `memory`: path of the file
    that is the memory.
    """
    disks = (word for number in range(len(setup.disks)) for word in _empty_disk_backend(number))
    return (
        *_template_machine(setup, connections, memory),
        *("-initrd", setup.initrd.inherited_path, "-append", setup.cmdline),
        *_share_backends(connections.shares),
        *disks,
        *(_network_backend(()) if setup.network else ()),
        *_words(plugged_devices(setup)),
    )


def start_command(setup: Setup, connections: Connections, memory: str) -> tuple[str, ...]:
    """Return the command that waits for the state of a template.

    `plugged_devices` have to be added, and the machine has to be continued, by QMP. `memory`: path
    of a file with the memory of the template.
    """
    return (
        *_template_machine(setup, connections, memory),
        *_share_backends(connections.shares),
        *_disk_backends(setup.disks),
        *(_network_backend(setup.published) if setup.network else ()),
        *("-S", "-incoming", "defer"),
    )


def plugged_devices(setup: Setup) -> tuple[Device, ...]:
    """Return the devices in the slot of a template; the first is function 0."""
    slots = _PluggedSlots()
    return (
        *_share_devices(setup.shares, slots),
        *_disk_devices(len(setup.disks), slots),
        *_network_devices(setup, slots),
    )


def _template_machine(setup: Setup, connections: Connections, memory: str) -> tuple[str, ...]:
    """Return the words that a template and the machines started from it have in common.

    Linux is not to manage the slot: QEMU describes it neither by ACPI nor as one that sends events
    to the kernel (`pcie_ports=compat`).
    """
    port = (("id", _PORT), ("chassis", "1"), ("slot", "1"), ("addr", PORT_ADDRESS[-4:]))
    return (
        setup.program,
        *_basics(setup),
        *_machine(setup.hardware),
        *("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
        *_memory(setup.hardware, memory),
        *(("-bios", setup.firmware) if setup.firmware else ()),
        *("-kernel", setup.kernel.inherited_path),
        *_console(connections.console),
        *_ports(setup.ports, connections.ports, _Slots(setup.hardware.arch.transport)),
        *Device("pcie-root-port", port).words(),
        *_generation(setup),
        *_monitor(connections.monitor),
    )


def find_disk(drive: str, disks: tuple[Disk, ...]) -> Disk | None:
    """Return the disk of a back end of the machine; None for one of another name."""
    return {_drive(number): disk for number, disk in enumerate(disks)}.get(drive)


class _Slots:
    """Assigns devices to functions of PCI bus 0: eight functions a slot, 240 in all."""

    def __init__(self, transport: str) -> None:
        self._transport = transport
        self._used = 0

    def device(self, model: str, *properties: tuple[str, str]) -> Device:
        """Return the next device."""
        if self._transport != "pci":
            return Device(f"{model}-{self._transport}", properties)
        slot, function = divmod(self._used, _FUNCTIONS)
        self._used += 1
        several = () if function else (("multifunction", True),)
        address = (("addr", f"{_FIRST_SLOT + slot:02x}.{function}"), *several)
        return Device(f"{model}-pci", (*address, *properties))


class _PluggedSlots(_Slots):
    """Assigns devices to the functions of the slot of a template."""

    def __init__(self) -> None:
        super().__init__("pci")

    def device(self, model: str, *properties: tuple[str, str]) -> Device:
        """Return the next device."""
        address = (("bus", _PORT), ("addr", f"0.{self._used:x}"), ("multifunction", True))
        self._used += 1
        return Device(f"{model}-pci", (*address, *properties))


def _format(name: str, value: "str | bool") -> str:
    if isinstance(value, bool):
        return f"{name}={'on' if value else 'off'}"
    return f"{name}={escape(value)}"


def _words(devices: tuple[Device, ...]) -> tuple[str, ...]:
    return tuple(word for device in devices for word in device.words())


def _basics(setup: Setup) -> tuple[str, ...]:
    """Return the words of every machine.

    A -sandbox of the user takes the place of this one: QEMU would use both, and so deny what only
    one of them denies.
    """
    return (
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
        *(SANDBOX if setup.sandbox and SANDBOX[0] not in setup.extra else ()),
    )


def _machine(hardware: Hardware) -> tuple[str, ...]:
    arch = hardware.arch
    cpu = "host" if hardware.accelerator == "kvm" else arch.cpu
    return (
        *("-machine", f"{hardware.machine or arch.machine},memory-backend=memory"),
        *("-accel", hardware.accelerator),
        *("-cpu", cpu),
        *("-smp", f"{hardware.cpus}"),
        *("-m", f"size={hardware.memory}B"),
    )


def _memory(hardware: Hardware, path: str) -> tuple[str, str]:
    """Return the memory, which virtiofsd maps, too: the file at `path`, or QEMU's own file."""
    backend = f"memory-backend-file,mem-path={escape(path)}" if path else "memory-backend-memfd"
    return ("-object", f"{backend},id=memory,size={hardware.memory},share=on")


def _boot(setup: Setup) -> tuple[str, ...]:
    firmware = ("-bios", setup.firmware) if setup.firmware else ()
    kernel, initrd = setup.kernel.inherited_path, setup.initrd.inherited_path
    return (*firmware, "-kernel", kernel, "-initrd", initrd, "-append", setup.cmdline)


def _chardev(name: str, stream: str, options: str = "") -> tuple[str, str]:
    backend, comma, rest = stream.partition(",")
    return ("-chardev", f"{backend},id={name}{comma}{rest}{options}")


def _console(stream: str) -> tuple[str, ...]:
    """Return the serial port. The monitor is never on it.

    The guest can have a terminal type what it sends, and the monitor executes programs.
    """
    return (*_chardev("console", stream), "-serial", "chardev:console")


def _share_backends(streams: tuple[str, ...]) -> tuple[str, ...]:
    numbered = enumerate(streams)
    return tuple(word for number, stream in numbered for word in _chardev(f"share{number}", stream))


def _share_devices(shares: tuple[Share, ...], slots: _Slots) -> tuple[Device, ...]:
    return tuple(
        slots.device("vhost-user-fs", ("chardev", f"share{number}"), ("tag", share.tag))
        for number, share in enumerate(shares)
    )


def _ports(names: tuple[str, ...], streams: tuple[str, ...], slots: _Slots) -> tuple[str, ...]:
    if not names:
        return ()
    words = [*slots.device("virtio-serial", ("max_ports", f"{len(names) + 1}")).words()]
    for number, (name, stream) in enumerate(zip(names, streams, strict=True), 1):
        words += _chardev(name, stream)  # port 0 is kept for a console
        words += ["-device", f"virtserialport,nr={number},chardev={name},name={name}"]
    return tuple(words)


def _disk_backends(disks: tuple[Disk, ...]) -> tuple[str, ...]:
    numbered = enumerate(disks)
    return tuple(word for number, disk in numbered for word in _disk_backend(number, disk))


def _disk_backend(number: int, disk: Disk) -> tuple[str, str]:
    """Return a raw disk. Its format is never probed: the guest could write another one to it.

    After an error of writing the machine stops, and the monitor reports the error.
    """
    access = "discard=unmap,werror=stop" if disk.writable else "readonly=on"
    return ("-drive", f"if=none,id={_drive(number)},format=raw,{access},file={escape(disk.path)}")


def _empty_disk_backend(number: int) -> tuple[str, str]:
    return ("-drive", f"if=none,id={_drive(number)},driver=null-co,read-zeroes=on,size=1M")


def _drive(number: int) -> str:
    return f"disk{number}"


def _disk_devices(count: int, slots: _Slots) -> tuple[Device, ...]:
    return tuple(slots.device("virtio-blk", ("drive", _drive(number))) for number in range(count))


def _network_backend(published: tuple[PublishedPort, ...]) -> tuple[str, str]:
    rules = (f"hostfwd={port.rule}" for port in published)
    return ("-netdev", ",".join(("user,id=net", *rules)))


def _network_devices(setup: Setup, slots: _Slots) -> tuple[Device, ...]:
    """Return the network device. It has no option ROM, which firmware would spend time on."""
    if not setup.network:
        return ()
    mac = (("mac", setup.mac),) if setup.mac else ()
    return (slots.device("virtio-net", *mac, ("netdev", "net"), ("romfile", "")),)


def _generation(setup: Setup) -> tuple[str, ...]:
    """Return the device by which a kernel notices that it was copied (CONFIG_VMGENID).

    qboot cannot set it up: it stops at the commands of the ACPI tables that the device needs.
    """
    return () if setup.firmware else Device("vmgenid", (("guid", setup.generation),)).words()


def _monitor(stream: str) -> tuple[str, ...]:
    return (*_chardev("qmp", stream), "-mon", "chardev=qmp,mode=control")


def _gdb(stream: str) -> tuple[str, ...]:
    return (*_chardev("gdb", stream, ",server=on,wait=off"), "-gdb", "chardev:gdb", "-S")
