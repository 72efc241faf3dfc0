"""The guest's console output: keep the end of it, read from it how the guest ended, save it.

A guest reports the exit status of its target, or why the boot failed, on the console only: in
messages of `/init` and of the kernel. `parse_ending` reads them; the `explain_` functions turn them
into messages for the user, with options of chrootvm to try; the `keep_` functions save the output
and add the path of the file to an error.

Root in the guest writes to the console what it wants. So each function takes time in proportion to
the text: a pattern matches a prefix, a literal, or a bounded number of characters, and what is
returned for the user is short.
"""

import re

from initrd.host.system.hosterror import HostError
from initrd.host.system.log_file import save_log
from initrd.host.system.printable import printable
from initrd.record import Record

_LOG_SIZE = 1 << 20  # bytes that are kept; the reason of a failed boot is at the end
# Bytes: a kernel that resets a machine with less memory probably had too little of it.
_LITTLE_MEMORY = 256 << 20
_BOOT_FAILED = "the boot failed"
_RESET = "the machine reset itself before its kernel printed anything"
_POWERING_OFF = "powering off"
_PANICKED = "the guest's kernel panicked"
_FAILED_BY_PANIC = "the kernel panicked: "
_SILENT_RESET = "the machine reset itself, and its kernel printed no reason"
_REPORT_LENGTH = 60  # lines of a kernel's report that are shown
_MAX_LINE = 1000  # characters of a line that are shown; the kernel's have less than 200
_MAX_HINTS = 20  # lines of a failure of /init that are shown; there are two or three
_MAX_KILLED = 5  # names of killed processes that are shown

# Patterns are text: most machines end without a use for them, and compiling takes milliseconds.
TIMESTAMP = r"\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "  # the second part: CONFIG_PRINTK_CALLER
# Messages of /init, on the console or by way of the kernel log:
_INIT_LINE = rf"(?:{TIMESTAMP})?initrd: (.*)"
_INIT_FAILURE = r"(?:boot failed|cannot start): "
# Messages of the kernel:
PANIC_BEGIN = "Kernel panic - not syncing: "
_PANIC = PANIC_BEGIN + "(.*)"
_REPORT_START = (
    r"BUG: |Unable to handle kernel |Oops|general protection fault|Kernel panic - "
    r"|-{12}\[ cut here \]"
)
_REPORT_END = r"---\[ end (?:trace|Kernel panic)"
_SHUTDOWN = r"reboot: (?:Power down|Restarting system|System halted)|sysrq: (?:Resetting|Power Off)"
_KERNEL_LINE = rf"{TIMESTAMP}|{_SHUTDOWN}"  # some kernels print no timestamps
# A process has a name of at most 15 bytes (TASK_COMM_LEN).
_KILLED_BY_OOM = r"Out of memory: Killed process \d{1,10} \(([^\n]{0,15}?)\)"
_INIT_EXITED = r"Attempted to kill init! exitcode=0x([0-9a-f]{8})"
# Reasons of a failed boot for which chrootvm has a hint:
_NO_MEMORY = (
    r"System is deadlocked on memory|Out of memory and no killable|too little memory"
    r"|Initramfs unpacking failed"
)
_NO_MODULE = r"no module \w+ in the image"
_NO_INITRAMFS = r"Unable to mount root fs|No working init found"
_NO_TARGET = r"set init=PATH"  # in the hint of /init


class KernelPanic(HostError):
    """The kernel of the guest panicked while the command ran.

    `report`: the last lines of the kernel, from the beginning of its report; at most 60.
    `console`: path of the file that has the whole console, or "" if that could not be written.
    """

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.report, self.console = "", ""

    def __str__(self) -> str:
        """Return the message, safe to print, and the report below it."""
        kept = f" (the whole console is kept in {self.console})" if self.console else ""
        message = HostError(self.what, f"{self.why}{kept}", self.hint)
        return "\n".join((str(message), *map(printable, filter(None, self.report.split("\n")))))


class Ending(Record):
    """How a guest ended: the exit status of its target, or why the boot failed."""

    status: int = 0  # exit status of the target; -N after signal N
    failure: str = ""  # why the boot failed; empty: it did not
    target_ended: bool = False  # the kernel panicked because its init, the target, ended


class ConsoleLog:
    """The end of the guest's console output: from _LOG_SIZE to twice as many bytes of it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.size = 0  # bytes appended so far

    def append(self, data: bytes) -> None:
        """Append console output."""
        self._data += data
        self.size += len(data)
        if len(self._data) > 2 * _LOG_SIZE:
            del self._data[:-_LOG_SIZE]

    @property
    def text(self) -> str:
        """Return the log as text, without carriage returns."""
        return self.text_after(0)

    def text_after(self, size: int) -> str:
        """Return what was appended after the first `size` bytes, as far as it is kept."""
        kept = min(self.size - size, len(self._data))
        data = self._data[len(self._data) - kept :]
        return data.decode(errors="replace").replace("\r", "")


def parse_ending(text: str) -> Ending:
    """Return how the guest ended whose console output is `text`."""
    if not text:  # when a machine powers off, its kernel prints at least that
        return Ending(failure=_RESET)
    lines = [line for line in text.split("\n") if line.strip()]
    failure = find_boot_failure(lines)
    if failure:
        return Ending(failure=failure)
    _, panic, rest = text.rpartition(PANIC_BEGIN)
    if not panic or re.search(_SHUTDOWN, rest):  # a target that printed the text of a panic
        return Ending()
    message = rest[:_MAX_LINE].partition("\n")[0].removesuffix(" ]---")
    exited = re.search(_INIT_EXITED, message)
    if not exited:
        return Ending(failure=f"{_FAILED_BY_PANIC}{message}")
    return Ending(_exit_code(int(exited[1], 16)), target_ended=True)


def find_boot_failure(lines: list[str]) -> str:
    """Return the message with which `/init` ended the boot; empty when there is none.

    Only lines of the kernel may follow the message. When a target prints the same text, its own
    output follows.
    """
    message: list[str] = []  # the last line first
    for line in reversed(lines):
        init_line = re.fullmatch(_INIT_LINE, line)
        if init_line:
            message += [init_line[1][:_MAX_LINE]] if init_line[1] != _POWERING_OFF else []
        elif message or not re.match(_KERNEL_LINE, line):
            break
        if init_line and re.match(_INIT_FAILURE, init_line[1]):
            first, *hints = reversed(message[-_MAX_HINTS:])
            return "\n".join([first.partition(": ")[2], *hints])
    return ""


def split_hint(text: str) -> tuple[str, str]:
    """Return the reason and the hint of a failure of /init; the hint is on the lines after it."""
    why, _, hint = text.partition("\n")
    return why, hint.removeprefix("try: ").replace("\n", "; ")


def explain_boot_failure(why: str, memory: int, kernel: str) -> HostError:
    """Return the error for a failed boot, with a hint that names options of chrootvm.

    `why` is the reason, with the hint of /init on the lines after the first; `memory` that of the
    guest, in bytes; `kernel` the path of its kernel.
    """
    message, hint = split_hint(why.removeprefix("boot failed: "))
    if re.search(_NO_MEMORY, why) or (why == _RESET and memory < _LITTLE_MEMORY):
        return HostError(
            f"{_BOOT_FAILED}: out of memory at {format_megabytes(memory)}",
            message,
            f"--memory {format_megabytes(2 * memory)}",
        )
    if why == _RESET:
        hint = f"another kernel: {kernel} is damaged, or not for this machine"
    if re.search(_NO_MODULE, why):
        hint = f"--modules DIR, the lib/modules/VERSION of {kernel}"
    if re.search(_NO_INITRAMFS, why):
        hint = f"another kernel: {kernel} does not start an initramfs (CONFIG_BLK_DEV_INITRD)"
    if re.search(_NO_TARGET, hint):
        hint = "a program of the root: chrootvm ROOTFS INIT"
    return HostError(_BOOT_FAILED, message, hint)


def explain_failure_of_init(why: str, memory: int, kernel: str) -> HostError:
    """Return the error for a failed boot, or for a panic while INIT ran; as `explain_boot_failure`.

    A panic that is not known as a cause of failed boots may have come at any time.
    """
    error = explain_boot_failure(why, memory, kernel)
    panic = why.removeprefix(_FAILED_BY_PANIC)
    return error if error.hint or panic == why else HostError(_PANICKED, panic)


def find_panic(text: str, memory: int) -> KernelPanic | None:
    """Return the error for a machine that has ended by itself while the command ran.

    `text` is the console's output, `memory` that of the guest, in bytes. Returns None when the
    kernel has shut the machine down; any panic in `text` is then of the command's making. A machine
    whose kernel has printed neither that nor a panic was reset, as by a triple fault.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    matches = [(at, re.search(_PANIC, line)) for at, line in enumerate(lines)]
    panics = [(at, found[1]) for at, found in matches if found and _is_first(lines[at])]
    last, why = panics[-1] if panics else (len(lines), _SILENT_RESET)
    if any(re.search(_SHUTDOWN, line) for line in lines[last if panics else 0 :]):
        return None
    is_shortage = re.search(_NO_MEMORY, why)
    hint = f"--memory {format_megabytes(2 * memory)}" if is_shortage else ""
    error = KernelPanic(_PANICKED, why[:_MAX_LINE], hint)
    error.report = "\n".join(_shorten(_last_report(lines, last)))
    return error


def _is_first(line: str) -> bool:
    """Return whether a line about a panic is not the last one of its report, which repeats it."""
    return not re.search(_REPORT_END, line)


def _last_report(lines: list[str], panic: int) -> list[str]:
    """Return the lines of the kernel's last report, and all after it. `panic`: the line of a panic.

    A report before it, as that of a warning, ends with its trace.
    """
    ends = [at for at, line in enumerate(lines[:panic]) if re.search(_REPORT_END, line)]
    earliest = ends[-2] + 1 if len(ends) > 1 else 0
    starts = (at for at in range(earliest, len(lines)) if re.search(_REPORT_START, lines[at]))
    return lines[next(starts, len(lines)) :]


def _shorten(lines: list[str]) -> list[str]:
    """Return the first and the last lines of a long report: registers are in its middle."""
    if len(lines) <= _REPORT_LENGTH:
        return [line[:_MAX_LINE] for line in lines]
    first, last = lines[: _REPORT_LENGTH // 2], lines[1 - _REPORT_LENGTH // 2 :]
    left_out = f"[{len(lines) - len(first) - len(last)} lines are left out]"
    return [line[:_MAX_LINE] for line in (*first, left_out, *last)]


def explain_refusal(text: str) -> HostError:
    """Return the error for a message of /init that COMMAND cannot run: no such user or directory.

    Names in the message are the user's and may contain line breaks.
    """
    what, _, why = text.partition(": ")
    return HostError(what, why)


def explain_oom_kill(console: str, memory: int) -> str:
    """Return the message that the guest ran out of memory; empty when its kernel killed nothing.

    `console` is the console output, `memory` that of the guest, in bytes.
    """
    killed = re.findall(_KILLED_BY_OOM, console)
    if not killed:
        return ""
    size, more = format_megabytes(memory), format_megabytes(2 * memory)
    others = len(killed) - _MAX_KILLED
    names = ", ".join(killed[:_MAX_KILLED]) + (f" and {others} others" if others > 0 else "")
    return f"the guest ran out of memory at {size} and killed {names}; try --memory {more}"


def keep_console(error: HostError, folder: str, text: str) -> HostError:
    """Save console output to a file in `folder`; return the error with the path of the file.

    If it cannot be saved, the returned error has the reason in place of the path.
    """
    if not text:
        return error
    try:
        where = f" (the guest's console is kept in {save_log(folder, text)})"
    except HostError as failure:
        where = _not_kept(failure)
    return HostError(error.what, error.why + where, error.hint)


def keep_panic(panic: KernelPanic, folder: str, text: str) -> None:
    """Save the console output of a panic, and note its path in the error, or why there is none."""
    try:
        panic.console = save_log(folder, text)
    except HostError as failure:
        panic.why += _not_kept(failure)


def _not_kept(failure: HostError) -> str:
    return f" (the guest's console is not kept: {failure.what}: {failure.why})"


def format_megabytes(size: int) -> str:
    """Return a size in bytes as a value of --memory."""
    return f"{size >> 20}M"


def _exit_code(wait_status: int) -> int:
    """Return the exit status, or -N after signal N, from a status of wait(2)."""
    signal = wait_status & 0x7F
    return -signal if signal else wait_status >> 8 & 0xFF
