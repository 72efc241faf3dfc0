"""The kernel command line: the tables of its options, and the parser to `BootOptions`. Pure.

`/init` parses the command line, and `mkvirtinitrd` derives the modules of an image from it.
`initrd.host.machine.cmdline` writes it by the same tables. This module imports little, because
every import makes `/init` slower.

Sources: the kernel's `Documentation/admin-guide/kernel-parameters.rst` and `lib/cmdline.c`
(`next_arg`) for quoting, and for `-` and `_` being the same in a parameter's name.
"""

from initrd.options import (
    BLOCK,
    DEVICE_PREFIXES,
    ON_FAILURE,
    TMPFS,
    UNIONS,
    VIRTIOFS,
    BootOptions,
    CmdlineError,
    Root,
    Share,
)
from initrd.record import Record
from initrd.text import decode, encode, parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# White space of the kernel's lib/ctype.c (Latin-1), translated to NUL, which no command line has.
_SPACES_TO_NUL = bytes.maketrans(b" \t\n\v\f\r\xa0", bytes(7))
_MAX_MODULE_TAGS = 2
_MAX_TAG = 36  # bytes: struct virtio_fs_config of the kernel's uapi/linux/virtio_fs.h

# --- words and their quoting ---------------------------------------------------------------------


class Word(Record):
    """One word of the command line. `value` is None when there is no `=`."""

    name: str
    value: str | None = None

    def __init__(self, name: str, value: str | None = None) -> None:
        super().__init__(name, value)
        # The name in its canonical form: the kernel takes `-` and `_` as the same.
        self.key: str
        self.__dict__["key"] = name.replace("-", "_")  # once: it is compared for every option

    def is_flag(self, *names: str) -> bool:
        """Return whether this is one of these names, without a value."""
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
    """Split into words, quotes included, by bytes: the kernel has no text encoding."""
    parts = encode(text).split(b'"')
    parts[::2] = [part.translate(_SPACES_TO_NUL) for part in parts[::2]]  # the unquoted parts
    words = b'"'.join(parts).split(b"\0")
    return [decode(word) for word in words if word]


def _parse_word(raw: str) -> Word:
    if raw.startswith('"'):
        raw = raw[1:].removesuffix('"')
    name, equals, value = raw.partition("=")
    if not equals or not name:  # the kernel does not take a leading `=` as a separator either
        return Word(raw)
    if value.startswith('"'):
        value = value[1:].removesuffix('"')
    return Word(name, value)


# --- values --------------------------------------------------------------------------------------


def require_value(word: Word) -> str:
    """Return the value of a word that must have one."""
    if not word.value:
        raise CmdlineError(f"{word}: a value is missing; write {word.name}=VALUE")
    return word.value


def parse_tag(word: Word, tag: str) -> str:
    """Return the virtiofs tag that is the value, or a part of it."""
    if not tag or "/" in tag or tag in (".", ".."):
        raise CmdlineError(f"{word}: {tag!r} cannot be a tag; a tag is a name without slashes")
    if len(encode(tag)) > _MAX_TAG:
        raise CmdlineError(
            f"{word}: the tag is longer than the {_MAX_TAG} bytes that virtiofs has for it"
        )
    return tag


def parse_path(word: Word, path: str) -> str:
    """Return the absolute path that is the value, or a part of it."""
    if not path.startswith("/") or path.strip("/") == "":
        raise CmdlineError(f"{word}: {path!r} is not an absolute path below /")
    if ".." in path.split("/"):
        raise CmdlineError(f"{word}: a path with '..' is not accepted; write where it leads to")
    return path


def parse_size(word: Word) -> str:
    """Return a size as tmpfs takes it: percent of the memory, or bytes (k, m, g)."""
    size = require_value(word)
    unit = size[-1].lower()
    number = parse_natural(size if unit.isdigit() else size[:-1])
    if not number or not (unit.isdigit() or unit in "%kmg") or (unit == "%" and number > 100):
        raise CmdlineError(f"{word}: not a size; write 10%, 512m or 2g")
    return size


def parse_seconds(word: Word) -> float:
    """Return a number of seconds."""
    text = require_value(word)
    if not (text.isascii() and text.replace(".", "", 1).isdigit()):
        raise CmdlineError(f"{word}: not a number of seconds; write {word.name}=10")
    return float(text)


def _parse_choice(word: Word, choices: tuple[str, ...]) -> str:
    if word.value not in choices:
        raise CmdlineError(f"{word}: choose one of {', '.join(choices)}")
    return word.value


def _parse_onfail(word: Word) -> str:
    return _parse_choice(word, ON_FAILURE)


def _parse_union(word: Word) -> str:
    return _parse_choice(word, UNIONS)


def _parse_modules(word: Word) -> tuple[str, ...]:
    tags = tuple(parse_tag(word, tag) for tag in require_value(word).split(":"))
    if len(tags) > _MAX_MODULE_TAGS:
        raise CmdlineError(f"{word}: write initrd.modules=TAG or initrd.modules=TAG:BUILD")
    return tags


def _parse_bundle(word: Word) -> str:
    return parse_path(word, require_value(word))


def _parse_overlay(word: Word) -> str:
    name = require_value(word).removeprefix("/dev/")
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise CmdlineError(f"{word}: write overlay_root=ram or overlay_root=NAME of /dev/NAME")
    return name


def _parse_init(word: Word) -> str:
    if not require_value(word).startswith("/"):
        raise CmdlineError(f"{word}: not an absolute path; write init=/{word.value}")
    return require_value(word)


# --- the tables of options -----------------------------------------------------------------------

# Options with one value: name, field of BootOptions, how the value is read, how it is written.
# The last word of a name counts.
OPTIONS: "tuple[tuple[str, str, Callable[[Word], Any], Callable[[Any], str]], ...]" = (
    ("overlay_root", "overlay", _parse_overlay, str),
    ("initrd.overlay_size", "overlay_size", parse_size, str),
    ("initrd.union", "union", _parse_union, str),
    ("initrd.modules", "modules", _parse_modules, ":".join),
    ("initrd.timeout", "timeout", parse_seconds, "{:g}".format),
    ("initrd.onfail", "onfail", _parse_onfail, str),
    ("init", "init", _parse_init, str),
)
# Options that may be given more than once: name, field of BootOptions, how a value is read.
LISTS: "tuple[tuple[str, str, Callable[[Word], str]], ...]" = (
    ("initrd.bundle", "bundles", _parse_bundle),
    ("ip", "ip", require_value),
)


# --- from text to options ------------------------------------------------------------------------


def parse(text: str) -> BootOptions:
    """Return the options in `text`. Unknown words are ignored.

    Raises CmdlineError for an option that cannot be understood.
    """
    words = split(text)
    last = {word.key: word for word in words}
    has_other_root = "rootfs" in last and ("root" in last or "rootfstype" in last)
    warnings = _drop_other_root(last) if has_other_root else ()
    root = _parse_root(words, last)
    options = BootOptions(
        root=root,
        shares=_parse_shares(words, root),
        debug=any(word.is_flag("debug") for word in words),
        module_params=tuple(_module_params(words)),
        warnings=warnings,
        **_parse_tables(words, last),
    )
    if options.union and not options.overlay:
        raise CmdlineError(
            f"initrd.union={options.union}: there is no layer to merge; add overlay_root=ram or "
            "NAME"
        )
    return options


def _parse_tables(words: list[Word], last: dict[str, Word]) -> "dict[str, Any]":
    """Return the fields of BootOptions that the two tables have an option for."""
    values = {field: parse(last[name]) for name, field, parse, _ in OPTIONS if name in last}
    for name, field, parse in LISTS:
        if name in last:
            values[field] = tuple(parse(word) for word in words if word.key == name)
    return values


def onfail_of(text: str) -> str:
    """Return the action of `initrd.onfail=`, also when the rest of the command line is invalid."""
    last = {word.key: word.value for word in split(text)}
    action = last.get("initrd.onfail")
    return action if action in ON_FAILURE else BootOptions.onfail


def _drop_other_root(last: dict[str, Word]) -> tuple[str, ...]:
    """Drop root= and rootfstype= that differ from rootfs=; return a warning that names them.

    A distribution's own command line has them, and osbuild's initrd reads rootfs= alone.
    """
    rootfs, fstype = last["rootfs"], last.get("rootfstype")
    other = last.get("root", rootfs)
    is_virtiofs = fstype.value == "virtiofs" if fstype else other is rootfs
    if is_virtiofs and other.value == rootfs.value:
        return ()
    words = [str(last.pop(name)) for name in ("root", "rootfstype", "rootflags") if name in last]
    return (f"{' '.join(words)}: not used, because {rootfs} is the root",)


def _parse_root(words: list[Word], last: dict[str, Word]) -> Root:
    sources = [word for word in words if word.key in ("root", "rootfs") and word.key in last]
    candidates = [_root_source(word, last) for word in sources]
    root = candidates[-1] if candidates else _default_root(last)
    for other in candidates:
        if other != root:
            raise CmdlineError(
                f"two different roots asked for, {other.source} ({other.kind.name}) and "
                f"{root.source} ({root.kind.name}); keep one of rootfs= and root="
            )
    flags = last.get("rootflags")
    access = [word.key for word in words if word.is_flag("ro", "rw")][-1:]
    return root.replace(
        flags=(flags.value or "") if flags else "",
        writable=access == ["rw"] if access else root.kind.writable,
    )


def _default_root(last: dict[str, Word]) -> Root:
    fstype = last.get("rootfstype")
    if fstype and require_value(fstype) != "virtiofs":
        raise CmdlineError(f"{fstype}: of what? write root=/dev/NAME too")
    return Root()


def _root_source(word: Word, last: dict[str, Word]) -> Root:
    source = require_value(word)
    fstype_word = last.get("rootfstype")
    fstype = require_value(fstype_word) if fstype_word else ""
    if word.key == "rootfs" or fstype == "virtiofs":
        return Root(VIRTIOFS, parse_tag(word, source))
    if source == "tmpfs":
        if fstype not in ("", "tmpfs"):
            raise CmdlineError(f"{word}, but rootfstype={fstype}; leave rootfstype= out")
        return Root(TMPFS, source)
    if source.startswith(DEVICE_PREFIXES):
        if source in DEVICE_PREFIXES or ".." in source.split("/"):
            raise CmdlineError(f"{word}: not a device; write root=/dev/NAME or root=UUID=…")
        return Root(BLOCK, source, fstype)
    raise CmdlineError(
        f"{word}: neither a device (/dev/NAME, UUID=, LABEL=, PARTUUID=) nor tmpfs; "
        "for a virtiofs tag add rootfstype=virtiofs"
    )


def _parse_shares(words: list[Word], root: Root) -> tuple[Share, ...]:
    shares = tuple(_parse_share(word) for word in words if word.key in ("mount", "mount_ro"))
    readonly = {share.tag for share in shares if not share.writable}
    if root.kind.is_share and not root.writable:
        readonly.add(root.source)
    found: dict[str, Share] = {}  # by mount point
    for share in shares:
        target = "/".join(part for part in share.target.split("/") if part not in ("", "."))
        earlier = found.setdefault(target, share)  # a later mount would hide an earlier one
        if (earlier.tag, earlier.writable) != (share.tag, share.writable):
            raise CmdlineError(f"mount={share.tag}: another share is at {share.target} already")
        if share.writable and share.tag in readonly:  # the two mounts of a tag are one file system
            raise CmdlineError(
                f"mount={share.tag}: the tag is mounted read-only elsewhere, and would be here "
                "too; use mount-ro="
            )
    return tuple(found.values())


def _parse_share(word: Word) -> Share:
    tag, colon, path = require_value(word).partition(":")
    parse_tag(word, tag)
    return Share(tag, parse_path(word, path) if colon else "", writable=word.key == "mount")


def _module_params(words: list[Word]) -> list[tuple[str, str]]:
    params = []
    for word in words:
        module, dot, param = word.key.partition(".")
        if dot and param and module not in ("", "initrd"):
            params.append((module, param if word.value is None else f"{param}={word.value}"))
    return params
