"""The words of a kernel command line, quoted as the kernel has it. Pure.

Sources: the kernel's `Documentation/admin-guide/kernel-parameters.rst` and `lib/cmdline.c`
(`next_arg`) for quoting, and for `-` and `_` being the same in a parameter's name.
"""

from initrd.record import Record

# White space as the kernel's lib/ctype.c has it (Latin-1), each to a byte that no command line has.
_SEPARATED = bytes.maketrans(b" \t\n\v\f\r\xa0", bytes(7))


class Word(Record):
    """One word of the command line. `value` is None when there is no `=`."""

    name: str
    value: str | None = None

    def __init__(self, name: str, value: str | None = None) -> None:
        super().__init__(name, value)
        # The name in its canonical form: the kernel takes `-` and `_` as the same.
        self.key: str
        self.__dict__["key"] = name.replace("-", "_")  # once: every option looks at every word

    def is_flag(self, *names: str) -> bool:
        """Tell whether this is one of these names, without a value."""
        return self.value is None and self.name in names

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def split(text: str) -> list[Word]:
    """Split a command line up to `--` into words, as the kernel does."""
    words = []
    for raw in split_raw(text):
        word = _parse_word(raw)
        if word.is_flag("--"):
            break
        words.append(word)
    return words


def split_raw(text: str) -> list[str]:
    """Split into words, quotes included, by bytes: the kernel knows no encoding."""
    parts = text.encode("utf-8", "surrogateescape").split(b'"')
    parts[::2] = [part.translate(_SEPARATED) for part in parts[::2]]  # what is not quoted
    words = b'"'.join(parts).split(b"\0")
    return [word.decode("utf-8", "surrogateescape") for word in words if word]


def _parse_word(raw: str) -> Word:
    if raw.startswith('"'):
        raw = raw[1:].removesuffix('"')
    name, equals, value = raw.partition("=")
    if not equals or not name:  # the kernel does not take a leading `=` as a separator either
        return Word(raw)
    if value.startswith('"'):
        value = value[1:].removesuffix('"')
    return Word(name, value)
