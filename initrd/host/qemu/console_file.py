"""Keep the console of a machine that failed in a file of the user's state directory."""

import os
import time

from initrd.errors import reason
from initrd.host.qemu.console import KernelPanic
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, is_number

_FILES_KEPT = 10
_TIME = "%Y-%m-%dt%H-%M-%S"  # names sort by time
_TIME_FORM = "0000-00-00t00-00-00-"  # of a formatted time, with 0 for each digit
_TEMPORARY_MAX_AGE = 3600.0  # seconds; an older temporary file was left by a crash


def keep_console(error: HostError, folder: str, text: str) -> HostError:
    """Save console output to a file in `folder`; return the error with the path of the file.

    If it cannot be saved, the returned error has the reason in place of the path.
    """
    if not text:
        return error
    try:
        where = f" (the guest's console is kept in {save_console(folder, text)})"
    except HostError as failure:
        where = _not_kept(failure)
    return HostError(error.what, error.why + where, error.hint)


def keep_panic(panic: KernelPanic, folder: str, text: str) -> None:
    """Save the console output of a panic, and note its path in the error, or why there is none."""
    try:
        panic.console = save_console(folder, text)
    except HostError as failure:
        panic.why += _not_kept(failure)


def save_console(folder: str, text: str, now: float | None = None) -> str:
    """Save console output to a new file in `folder`; return its path. Raises HostError.

    The _FILES_KEPT newest files are kept. `now`: seconds since the epoch.
    """
    timestamp = time.strftime(_TIME, time.localtime(now))
    name = f"{timestamp}-{os.urandom(3).hex()}.log"
    try:
        with PrivateFolder.open(folder, create=True, readable=True) as opened:
            content = text.encode(errors="surrogateescape")
            opened.write_file(name, content, durable=True)
            _remove_oldest(opened)
    except OSError as error:
        raise HostError(f"cannot write to the directory {folder}", reason(error)) from error
    return os.path.join(folder, name)


def _remove_oldest(folder: PrivateFolder) -> None:
    folder.remove_stale_temporaries(_TEMPORARY_MAX_AGE)
    names = sorted(name for name, _ in folder.entries() if _is_log_name(name))
    for name in names[:-_FILES_KEPT]:
        folder.remove(name)


def _is_log_name(name: str) -> bool:
    digits = str.maketrans("123456789", "000000000")
    size = len(_TIME_FORM)
    return name[:size].translate(digits) == _TIME_FORM and is_number(name[size:], 6, ".log")


def _not_kept(failure: HostError) -> str:
    return f" (the guest's console is not kept: {failure.what}: {failure.why})"
