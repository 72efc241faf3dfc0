"""What /init runs: frozen as `__main__`.

Python is half initialised here (see python.c): built-in and frozen modules work, and nothing else
does. What is missing is made when it is first asked for, so that no other module needs to know;
it only costs as much as the rest of the start once more.
"""

import builtins
import sys

from initrd.guest import _freeze

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

_print, _show = builtins.print, sys.excepthook


def complete() -> None:
    """Finish the initialisation of Python."""
    vars(builtins).pop("open", None)
    builtins.print = _print
    vars(sys).pop("__getattr__", None)
    sys.excepthook = sys.__excepthook__ = _show
    _freeze.complete()


def completing(name: str) -> "Callable[..., Any]":
    """Return a function that completes Python, then calls the one that it stood in for."""

    def call(*args: "Any", **kwargs: "Any") -> "Any":
        complete()
        return getattr(builtins, name)(*args, **kwargs)

    return call


def missing(name: str) -> "Any":
    """Return what `sys` does not have yet: sys.stdout, sys.path and the like."""
    if name.startswith("_"):  # asked for by the import system, which does without
        raise AttributeError(name)
    complete()
    return getattr(sys, name)


def show(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """Print an exception with its traceback."""
    complete()
    _show(kind, error, trace)


if not hasattr(builtins, "open"):
    builtins.open = completing("open")
    builtins.print = completing("print")
    vars(sys)["__getattr__"] = missing
    sys.excepthook = sys.__excepthook__ = show

from initrd.init import main  # noqa: E402 - it shall find what was made here

sys.exit(main(sys.argv[1:]))
