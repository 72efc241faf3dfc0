"""What the words of a kernel command line may have as their value. Pure.

Where it may not, CmdlineError names the word, says why and what to write.
"""

from initrd.options import CmdlineError
from initrd.quoting import Word

_LONGEST_TAG = 36  # bytes: struct virtio_fs_config of the kernel's uapi/linux/virtio_fs.h
_MOST_DIGITS = 18  # a number of 64 bits holds that many; int() itself raises for thousands


def last(words: list[Word], key: str) -> Word | None:
    """Return the last word of this name, which is the one that counts."""
    found = [word for word in words if word.key == key]
    return found[-1] if found else None


def value_of(word: Word) -> str:
    """Return a value that must be there."""
    if not word.value:
        raise CmdlineError(f"{word}: a value is missing; write {word.name}=VALUE")
    return word.value


def choice(words: list[Word], key: str, choices: tuple[str, ...], default: str) -> str:
    """Return the value of the last word of this name, which must be one of `choices`."""
    word = last(words, key)
    if word is None:
        return default
    if word.value not in choices:
        raise CmdlineError(f"{word}: choose one of {', '.join(choices)}")
    return word.value


def tag_of(word: Word, tag: str) -> str:
    """Return the virtiofs tag that is the value, or a part of it."""
    if not tag or "/" in tag or tag in (".", ".."):
        raise CmdlineError(f"{word}: {tag!r} cannot be a tag; a tag is a name without slashes")
    if len(tag.encode(errors="surrogateescape")) > _LONGEST_TAG:
        raise CmdlineError(
            f"{word}: the tag is longer than the {_LONGEST_TAG} bytes that virtiofs has for it"
        )
    return tag


def path_of(word: Word, path: str) -> str:
    """Return the absolute path that is the value, or a part of it."""
    if not path.startswith("/") or path.strip("/") == "":
        raise CmdlineError(f"{word}: {path!r} is not an absolute path below /")
    if ".." in path.split("/"):
        raise CmdlineError(f"{word}: a path with '..' is not accepted; write where it leads to")
    return path


def size_of(word: Word) -> str:
    """Return a size as tmpfs takes it: of its memory in percent, or in bytes (k, m, g)."""
    size = value_of(word)
    unit = size[-1].lower()
    number = natural(size if unit.isdigit() else size[:-1])
    if not number or not (unit.isdigit() or unit in "%kmg") or (unit == "%" and number > 100):
        raise CmdlineError(f"{word}: not a size; write 10%, 512m or 2g")
    return size


def seconds_of(word: Word) -> float:
    """Return a number of seconds."""
    text = value_of(word)
    if not (text.isascii() and text.replace(".", "", 1).isdigit()):
        raise CmdlineError(f"{word}: not a number of seconds; write {word.name}=10")
    return float(text)


def natural(text: str) -> int | None:
    """Return the number that `text` is in decimal digits; None for all else. Raises nothing."""
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return int(text)
    return None
