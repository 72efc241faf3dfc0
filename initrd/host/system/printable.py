r"""Make text of others safe to print on a terminal: file names, what a guest sends. Pure.

Control characters move the cursor or begin a new line, and others change the direction of text.
Printed as they are, they could make a name look like a line of chrootvm.

An escape of the form `\x1b` is a byte: an ASCII control character, or a byte that is not UTF-8. One
of the form `\u202e` is any other character. A backslash stays as it is, so that text which is
escaped twice does not change.

Sources: Unicode Standard Annex #44, the categories of str.isprintable(); ECMA-48, the C1 controls.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MESSAGE = 10_000  # characters of a part of a message: two of the longest paths fit in
_BREAKS = str.maketrans("", "", "\n\t")


def printable(text: str) -> str:
    """Return `text` in one line, with each character that is not printable escaped. Idempotent."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def is_utf8(text: str) -> bool:
    """Return whether `text` has no bytes that are not UTF-8: PEP 383."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shorten(text: str) -> str:
    """Return the beginning of a text that is too long for a part of a message."""
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"


def printable_lines(text: str) -> str:
    """Return the output of a program: as `printable`, but line breaks and tabs stay."""
    if text.translate(_BREAKS).isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _escape(char) for char in text)


def join_command(words: "Iterable[str]") -> str:
    """Return a command in one line, quoted for a shell."""
    return " ".join(map(quote, words))


def quote(word: str) -> str:
    r"""Return a word quoted for a shell; with $'\033' where it is not printable.

    Source: POSIX.1-2024, Shell & Utilities, 2.2.4 Dollar-Single-Quotes.
    """
    from shlex import quote as quote_printable  # noqa: PLC0415 - only when commands are shown

    if word.isprintable():
        return quote_printable(word)
    return f"$'{''.join(map(_quote_char, word))}'"


def _quote_char(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\{byte:03o}" for byte in char.encode(errors="surrogateescape"))


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8: PEP 383
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return char.encode("unicode_escape").decode()
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
