"""Keep a text in a new file of the user's state directory, such as the console of a failed boot."""

import os
import time

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, is_number

_FILES_KEPT = 10
_TIME = "%Y-%m-%dt%H-%M-%S"  # names sort by time
_TIME_FORM = "0000-00-00t00-00-00-"  # of a formatted time, with 0 for each digit


def save_log(folder: str, text: str, now: float | None = None) -> str:
    """Save a text to a new file in `folder`; return its path. Raises HostError.

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
    folder.remove_stale_temporaries()
    names = sorted(name for name, _ in folder.entries() if _is_log_name(name))
    for name in names[:-_FILES_KEPT]:
        folder.remove(name)


def _is_log_name(name: str) -> bool:
    digits = str.maketrans("123456789", "000000000")
    size = len(_TIME_FORM)
    return name[:size].translate(digits) == _TIME_FORM and is_number(name[size:], 6, ".log")
