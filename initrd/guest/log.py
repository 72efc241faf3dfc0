"""Write messages to the kernel log and to the console.

Errors and warnings go to the kernel log, which the kernel prints on the console as `quiet` and
`loglevel=` allow. A message that the kernel does not print is also written to the console. Progress
(`debug`) goes to the console alone: the kernel drops messages to /dev/kmsg above a rate limit.
"""

from initrd.text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

PREFIX = "initrd: "
CONSOLE = 2  # standard error; the kernel opened /dev/console there
ERROR, WARNING = 3, 4  # levels of syslog(2)
_FACILITY_USER = 1 << 3


class Log:
    """Messages of /init. Progress lines are kept until `debug` is known to be set or not."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._kmsg = -1
        self._console_level = 0  # the kernel's console log level; 0: not read yet
        self._pending: list[str] = []  # progress before set_verbose
        self.verbose: bool | None = None  # None: not known yet

    def open(self) -> None:
        """Open the kernel log; /dev must be mounted."""
        try:
            self._kmsg = self._kernel.open_log()
        except OSError:  # a kernel without CONFIG_PRINTK has no log: messages go to the console
            self._kmsg = -1

    def set_verbose(self, verbose: bool) -> None:
        """Print pending and later progress lines, or drop them."""
        self.verbose = verbose
        pending, self._pending = self._pending, []
        for line in pending:
            self.progress(line)

    def progress(self, line: str) -> None:
        """Print a line of progress when `debug` is set."""
        if self.verbose is None:
            self._pending.append(line)
        elif self.verbose:
            self._write_console(line)

    def warn(self, text: str) -> None:
        """Report an error after which the boot continues."""
        self._report(WARNING, text)

    def fail(self, text: str) -> None:
        """Report an error that ends the boot."""
        self._report(ERROR, text)

    def _report(self, level: int, text: str) -> None:
        for line in text.splitlines():
            is_logged = self._write_kmsg(level, line)
            if not (is_logged and self._kernel_prints(level)):
                self._write_console(line)

    def _write_kmsg(self, level: int, line: str) -> bool:
        """Write a line to the kernel log; return whether that succeeded."""
        try:
            # The kernel holds back a record without a line break: more text may follow.
            self._kernel.write(self._kmsg, _encode(f"<{_FACILITY_USER | level}>{PREFIX}{line}\n"))
        except OSError:  # /dev/kmsg is not open: the message goes to the console
            return False
        return True

    def _kernel_prints(self, level: int) -> bool:
        """Return whether the kernel prints messages of `level` on the console."""
        try:
            if not self._console_level:
                # Read once: after the switch of the root, /proc may be unmounted.
                self._console_level = int(self._kernel.read("/proc/sys/kernel/printk").split()[0])
        except (OSError, ValueError):  # /proc is not mounted yet
            return False
        return level < self._console_level

    def _write_console(self, line: str) -> None:
        try:
            self._kernel.write(CONSOLE, _encode(f"{PREFIX}{line}\n"))
        except OSError:  # a kernel without a console
            pass


def _encode(line: str) -> bytes:
    """Return the bytes of a line. Raises nothing, whatever an error message contains."""
    try:
        return encode(line)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return line.encode("utf-8", "backslashreplace")
