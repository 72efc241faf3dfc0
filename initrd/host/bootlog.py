"""What the console of failed boots said, kept for whoever wants to know more: the last few."""

import os
import time

from initrd.host.atomic import replace_file

_KEPT = 10


def keep(folder: str, text: str, now: float | None = None) -> str:
    """Keep a console's text in `folder`; return where, or nothing if that cannot be.

    `now`: seconds since the epoch. The names sort by time.
    """
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
    path = os.path.join(folder, f"{moment}-{os.urandom(3).hex()}.log")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        replace_file(path, text.encode(errors="surrogateescape"), 0o600)
        for old in sorted(name for name in os.listdir(folder) if name.endswith(".log"))[:-_KEPT]:
            os.unlink(os.path.join(folder, old))
    except FileNotFoundError:  # another one has removed the oldest just now
        pass
    except OSError:  # no home, or a full one: the reason is told all the same
        return ""
    return path
