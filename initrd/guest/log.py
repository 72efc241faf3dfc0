"""What the user gets to read: the console and the kernel log.

Each message goes to the kernel log, which prints it on the console by its own rules (`quiet`,
`loglevel=`); where those would keep it from the console, it is written there directly. Progress,
with `debug`, goes to the console alone: /dev/kmsg drops what comes too fast.
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
    """Says things. Holds progress back until it is known whether anybody wants to read it."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._kmsg = -1
        self._console_level = 0  # loglevel= as the kernel has it; 0: not known yet
        self._held: list[str] = []
        self.verbose: bool | None = None  # None: not known yet

    def open(self) -> None:
        """Start to write to the kernel log; /dev must be mounted."""
        try:
            self._kmsg = self._kernel.open_log()
        except OSError:  # a kernel without CONFIG_PRINTK has none: the console has to do
            self._kmsg = -1

    def set_verbose(self, verbose: bool) -> None:
        """Print progress from now on, and what was held back; or drop both."""
        self.verbose = verbose
        held, self._held = self._held, []
        for line in held:
            self.progress(line)

    def progress(self, line: str) -> None:
        """Say a step that went well, when `debug` asks for it."""
        if self.verbose is None:
            self._held.append(line)
        elif self.verbose:
            self._print(line)

    def warn(self, text: str) -> None:
        """Say what went wrong though the boot goes on."""
        self._say(WARNING, text)

    def fail(self, text: str) -> None:
        """Say why the boot cannot go on."""
        self._say(ERROR, text)

    def _say(self, level: int, text: str) -> None:
        for line in text.splitlines():
            logged = self._log(level, line)
            if not (logged and self._kernel_prints(level)):
                self._print(line)

    def _log(self, level: int, line: str) -> bool:
        try:
            # Without the line break the kernel keeps it back, in case the line goes on.
            self._kernel.write(self._kmsg, encode(f"<{_FACILITY_USER | level}>{PREFIX}{line}\n"))
        except OSError:  # not open yet, or gone: the console has to do
            return False
        return True

    def _kernel_prints(self, level: int) -> bool:
        """Tell whether the kernel itself brings messages of `level` to the console."""
        try:
            if not self._console_level:
                self._console_level = int(self._kernel.read("/proc/sys/kernel/printk").split()[0])
        except (OSError, ValueError):  # no /proc yet; or not any more, and so it is remembered
            return False
        return level < self._console_level

    def _print(self, line: str) -> None:
        try:
            self._kernel.write(CONSOLE, encode(f"{PREFIX}{line}\n"))
        except OSError:  # a kernel without a console: nobody can read this
            pass
