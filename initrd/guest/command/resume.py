"""Wait in a template: a machine that is saved while it waits here, and started many times.

The host saves the machine once it has received `template`. Each machine that starts from it goes on
in `wait_for_start` and receives there what it is to do. Until then nothing in it is its own: the
random numbers, the clock and the devices are those of the template.
"""

import posix as os

from initrd.command import CommandError
from initrd.errors import reason
from initrd.guest._syscalls import POLLIN, poll
from initrd.guest.command.control import parse_time
from initrd.guest.command.hotplug import Slot
from initrd.guest.failure import BootError
from initrd.guest.frozen import add_network
from initrd.guest.switchroot import is_ram_filesystem
from initrd.template import END, Start, load_start, load_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_PIECE = 1 << 16  # bytes


def wait_for_start(template: bytes, control: int, kernel: "Kernel") -> Start:
    """Wait until a machine starts from this one; return what it is to do. Raises BootError.

    `template`: the content of the command file; `control`: descriptor of the control port. The
    random numbers, the clock and the devices are those of the new machine then.
    """
    try:
        settings = load_template(template)
        devices = Slot(settings.slot, kernel)
        if settings.network:
            _import_network()
        _free_initramfs(kernel)
        devices.unplug()
        _populate_memory(kernel)
        random = kernel.open_to_write("/dev/random")
        kernel.write(control, b"template\n")
        start = _receive_start(control)
        kernel.add_entropy(random, start.seed)
        kernel.close(random)
        devices.restore()
        _set_clock(control, kernel)
    except CommandError as error:
        raise BootError("cannot understand what to start", str(error)) from error
    except OSError as error:  # with the random numbers of another machine nothing may go on
        raise BootError("cannot start from a template", reason(error)) from error
    return start


def _import_network() -> None:
    """Import what `ip=` needs: its files are deleted with the initramfs."""
    add_network()
    import initrd.guest.network.configure  # noqa: PLC0415 - with a network only
    import initrd.guest.network.resolv  # noqa: F401, PLC0415 - for those who import it later
    from initrd.guest.network.netlink import import_all  # noqa: PLC0415 - with a network only

    import_all()


def _free_initramfs(kernel: "Kernel") -> None:
    """Delete the files of the image: less memory is saved, and no machine has to do it.

    As `switchroot.free_initramfs`, but of a root directory that is still in use.
    """
    root = kernel.open_directory("/")
    try:
        if not is_ram_filesystem(root, kernel):
            raise BootError("cannot free the initramfs", "/ is no initramfs; nothing deleted")
        kernel.empty(root)
    finally:
        kernel.close(root)


def _populate_memory(kernel: "Kernel") -> None:
    """Avoid page faults later; only the speed depends on it."""
    try:
        kernel.populate_memory()
    except OSError:  # not enough memory
        pass


def _receive_start(control: int) -> Start:
    return load_start(_read_to(END, control))


def _set_clock(control: int, kernel: "Kernel") -> None:
    """Ask the host for its time, and set the clock to it.

    The answer is taken to be as old as the exchange of the two messages: the host gets `awake` at
    once, and nearly all of the time passes until the guest reads the answer.
    """
    asked = kernel.monotonic()
    kernel.write(control, b"awake\n")
    answer = _read_to(b"\n", control)
    age = kernel.monotonic() - asked
    microseconds = parse_time(answer.decode("latin-1").removesuffix("\n").split(" "))
    if microseconds is None:
        raise BootError("cannot set the clock", f"the host has sent {answer[:40]!r}")
    kernel.set_realtime(microseconds + int(age * 1e6))


def _read_to(end: bytes, fd: int) -> bytes:
    """Return what a non-blocking descriptor delivers until `end` is in it. Raises BootError.

    The host sends nothing after `end` until the next message to it.
    """
    data = b""
    while end not in data[-_PIECE - len(end) :]:
        poll([(fd, POLLIN)], -1)
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            continue
        if not piece:
            raise BootError("cannot wait for a start", "the host has disconnected")
        data += piece
    return data
