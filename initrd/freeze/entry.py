"""The `__main__` module of /init.

Python is initialised only in part here (see python.c): only built-in and frozen modules work. The
rest of the initialisation runs when one of the objects that it creates is first used (open, print,
sys.stdout and the like), so no other module has to request it. It takes as long as the first part.
"""

import builtins
import sys

from initrd.guest import _freeze

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

_original_print, _original_excepthook = builtins.print, sys.excepthook


def complete() -> None:
    """Remove the replacements made by this module, and finish the initialisation of Python."""
    vars(builtins).pop("open", None)
    builtins.print = _original_print
    vars(sys).pop("__getattr__", None)
    sys.excepthook = sys.__excepthook__ = _original_excepthook
    _freeze.complete()


def completing(name: str) -> "Callable[..., Any]":
    """Return a replacement for a built-in function: it calls `complete`, then the function."""

    def call(*args: "Any", **kwargs: "Any") -> "Any":
        complete()
        return getattr(builtins, name)(*args, **kwargs)

    return call


def sys_getattr(name: str) -> "Any":
    """Return an attribute that `sys` lacks before `complete`: sys.stdout, sys.path and the like."""
    if name.startswith("_"):  # read by the import system, which works without them
        raise AttributeError(name)
    complete()
    return getattr(sys, name)


def excepthook(
    kind: type[BaseException], error: BaseException, trace: "TracebackType | None"
) -> None:
    """Print an exception with its traceback."""
    complete()
    _original_excepthook(kind, error, trace)


if not hasattr(builtins, "open"):
    builtins.open = completing("open")
    builtins.print = completing("print")
    vars(sys)["__getattr__"] = sys_getattr
    sys.excepthook = sys.__excepthook__ = excepthook

from initrd.init import main  # noqa: E402 - after the replacements above

sys.exit(main(sys.argv[1:]))
