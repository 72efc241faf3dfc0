"""The options of chrootvm as keywords of a Python call: from `memory="2G"` to `--memory 2G`. Pure.

There is no list of them here: what chrootvm understands is understood, in the same way.
"""

import os

from initrd.host.arguments import OPTIONS, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Word = str | int | float | os.PathLike[str]
    Value = bool | Word | Iterable[Word] | Mapping[str, Word] | None

# These are for whoever sits at a terminal.
_FOR_PEOPLE = {"--help", "--version", "--doctor", "--dry-run", "--verbose", "--timeout"}
KEYWORDS = {
    option.name.removeprefix("--").replace("-", "_"): option
    for option in OPTIONS
    if option.name not in _FOR_PEOPLE
}
NAMES = {option.name for option in KEYWORDS.values()}


def words(options: "Mapping[str, Value]") -> list[str]:
    """Return the words of a command line for these keywords. Raises TypeError for unknown ones.

    True is an option without a value; False and None leave it out. One that may be given more than
    once takes a list; those of names and values, such as `env` and `mount`, a dictionary.
    """
    unknown = sorted(options.keys() - KEYWORDS.keys())
    if unknown:
        known = ", ".join(sorted(KEYWORDS))
        raise TypeError(f"unknown option {unknown[0]!r} of a virtual machine; there are {known}")
    return [word for name, value in options.items() for word in _words(KEYWORDS[name], value)]


def _words(option: Option, value: "Value") -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [option.name]
    if isinstance(value, (str, int, float, os.PathLike)):
        return [f"{option.name}={_text(value)}"]
    if not hasattr(value, "items"):
        return [word for one in value for word in _words(option, one)]
    if len(option.values) == 2:
        pairs = ([option.name, name, _text(one)] for name, one in value.items())
        return [word for pair in pairs for word in pair]
    return [f"{option.name}={name}={_text(one)}" for name, one in value.items()]


def _text(word: "Word") -> str:
    return os.fspath(word) if isinstance(word, (str, os.PathLike)) else str(word)
