"""The kernel command line, parsed: from text to `BootOptions`.

Both sides share it: `/init` boots by it, `mkvirtinitrd` finds out what an image needs. It is pure
and imports next to nothing, because `/init` pays for every import (`itertools` would be half a
million instructions).
"""

from initrd.options import (
    DEFAULT_INIT,
    DEFAULT_OVERLAY_SIZE,
    DEFAULT_TIMEOUT,
    DEVICE_PREFIXES,
    ON_FAILURE,
    UNIONS,
    BootOptions,
    CmdlineError,
    Root,
    Share,
)
from initrd.record import Record
from initrd.text import parse_natural

# White space as the kernel's lib/ctype.c has it (Latin-1), each to a byte that no command line has.
_SEPARATED = bytes.maketrans(b" \t\n\v\f\r\xa0", bytes(7))
_LONGEST_TAG = 36  # bytes: struct virtio_fs_config of the kernel's uapi/linux/virtio_fs.h
MOST_ARGUMENTS = 32  # CONFIG_INIT_ENV_ARG_LIMIT: with more of them the kernel panics


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


def last_word(words: list[Word], key: str) -> Word | None:
    """Return the last word of this name, which is the one that counts."""
    found = [word for word in words if word.key == key]
    return found[-1] if found else None


def require_value(word: Word) -> str:
    """Return a value that must be there."""
    if not word.value:
        raise CmdlineError(f"{word}: a value is missing; write {word.name}=VALUE")
    return word.value


def parse_choice(words: list[Word], key: str, choices: tuple[str, ...], default: str) -> str:
    """Return the value of the last word of this name, which must be one of `choices`."""
    word = last_word(words, key)
    if word is None:
        return default
    if word.value not in choices:
        raise CmdlineError(f"{word}: choose one of {', '.join(choices)}")
    return word.value


def parse_tag(word: Word, tag: str) -> str:
    """Return the virtiofs tag that is the value, or a part of it."""
    if not tag or "/" in tag or tag in (".", ".."):
        raise CmdlineError(f"{word}: {tag!r} cannot be a tag; a tag is a name without slashes")
    if len(tag.encode(errors="surrogateescape")) > _LONGEST_TAG:
        raise CmdlineError(
            f"{word}: the tag is longer than the {_LONGEST_TAG} bytes that virtiofs has for it"
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
    """Return a size as tmpfs takes it: of its memory in percent, or in bytes (k, m, g)."""
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


def parse(text: str) -> BootOptions:
    """Return the options in `text`. Unknown words are not ours and are ignored.

    Raises CmdlineError for an option of ours that cannot be understood.
    """
    words = split(text)
    root = _parse_root(words)
    size, timeout = last_word(words, "initrd.overlay_size"), last_word(words, "initrd.timeout")
    return BootOptions(
        root=root,
        shares=_parse_shares(words, root),
        init=_parse_init(words),
        debug=any(word.is_flag("debug") for word in words),
        overlay=_parse_overlay(words),
        overlay_size=parse_size(size) if size else DEFAULT_OVERLAY_SIZE,
        union=_parse_union(words),
        bundles=tuple(
            parse_path(word, require_value(word)) for word in words if word.key == "initrd.bundle"
        ),
        ip=tuple(require_value(word) for word in words if word.key == "ip"),
        timeout=parse_seconds(timeout) if timeout else DEFAULT_TIMEOUT,
        onfail=parse_choice(words, "initrd.onfail", ON_FAILURE, ON_FAILURE[0]),
        module_params=tuple(_module_params(words)),
    )


def onfail_of(text: str) -> str:
    """Return what a failed boot shall do, even when the rest of the command line is unusable."""
    try:
        return parse_choice(split(text), "initrd.onfail", ON_FAILURE, ON_FAILURE[0])
    except CmdlineError:
        return ON_FAILURE[0]


def _parse_root(words: list[Word]) -> Root:
    candidates = [_root_source(word, words) for word in words if word.key in ("root", "rootfs")]
    for word, other in zip(candidates, candidates[1:], strict=False):  # noqa: RUF007 - see above
        if word != other:
            raise CmdlineError(
                f"two different roots asked for, {word.source} ({word.kind}) and "
                f"{other.source} ({other.kind}); keep one of rootfs= and root="
            )
    root = candidates[-1] if candidates else _default_root(words)
    flags = last_word(words, "rootflags")
    access = [word.key for word in words if word.is_flag("ro", "rw")][-1:]
    return root.replace(
        flags=(flags.value or "") if flags else "",
        # What was the initramfs can be written to, as the initramfs can; all else has to be asked.
        writable=access == ["rw"] or (root.kind == "tmpfs" and not access),
    )


def _default_root(words: list[Word]) -> Root:
    fstype = last_word(words, "rootfstype")
    if fstype and require_value(fstype) != "virtiofs":
        raise CmdlineError(f"{fstype}: of what? write root=/dev/NAME too")
    return Root()


def _root_source(word: Word, words: list[Word]) -> Root:
    source = require_value(word)
    fstype_word = last_word(words, "rootfstype")
    fstype = require_value(fstype_word) if fstype_word else ""
    if word.key == "rootfs":
        if fstype not in ("", "virtiofs"):
            raise CmdlineError(f"{word} is a virtiofs tag, but rootfstype={fstype}; use root=")
        return Root("virtiofs", parse_tag(word, source))
    if fstype == "virtiofs":
        return Root("virtiofs", parse_tag(word, source))
    if source == "tmpfs":
        if fstype not in ("", "tmpfs"):
            raise CmdlineError(f"{word}, but rootfstype={fstype}; leave rootfstype= out")
        return Root("tmpfs", "tmpfs", "tmpfs")
    if source.startswith(DEVICE_PREFIXES):
        if source in DEVICE_PREFIXES or ".." in source.split("/"):
            raise CmdlineError(f"{word}: not a device; write root=/dev/NAME or root=UUID=…")
        return Root("block", source, fstype)
    raise CmdlineError(
        f"{word}: neither a device (/dev/NAME, UUID=, LABEL=, PARTUUID=) nor tmpfs; "
        "for a virtiofs tag add rootfstype=virtiofs"
    )


def _parse_shares(words: list[Word], root: Root) -> tuple[Share, ...]:
    shares = tuple(_parse_share(word) for word in words if word.key in ("mount", "mount_ro"))
    readonly = {share.tag for share in shares if not share.writable}
    if root.kind == "virtiofs" and not root.writable:
        readonly.add(root.source)
    places: set[str] = set()
    for share in shares:
        place = "/".join(part for part in share.target.split("/") if part not in ("", "."))
        if place in places:  # the one below would be hidden without a word
            raise CmdlineError(f"mount={share.tag}: another share is at {share.target} already")
        places.add(place)
        if share.writable and share.tag in readonly:  # a tag is one file system, which is either
            raise CmdlineError(
                f"mount={share.tag}: the tag is mounted read-only elsewhere, and would be here "
                "too; use mount-ro="
            )
    return shares


def _parse_share(word: Word) -> Share:
    tag, colon, path = require_value(word).partition(":")
    parse_tag(word, tag)
    return Share(tag, parse_path(word, path) if colon else "", writable=word.key == "mount")


def _parse_init(words: list[Word]) -> str:
    word = last_word(words, "init")
    if word is None:
        return DEFAULT_INIT
    if not require_value(word).startswith("/"):
        raise CmdlineError(f"{word}: not an absolute path; write init=/{word.value}")
    return require_value(word)


def _parse_overlay(words: list[Word]) -> str:
    word = last_word(words, "overlay_root")
    if word is None:
        return ""
    name = require_value(word).removeprefix("/dev/")
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise CmdlineError(f"{word}: write overlay_root=ram or overlay_root=NAME of /dev/NAME")
    return name


def _parse_union(words: list[Word]) -> str:
    union = parse_choice(words, "initrd.union", UNIONS, "")
    if union and last_word(words, "overlay_root") is None:
        raise CmdlineError(
            f"initrd.union={union}: there is no layer to merge; add overlay_root=ram or NAME"
        )
    return union


def _module_params(words: list[Word]) -> list[tuple[str, str]]:
    params = []
    for word in words:
        module, dot, param = word.key.partition(".")
        if dot and param and module not in ("", "initrd"):
            params.append((module, param if word.value is None else f"{param}={word.value}"))
    return params


def render(options: BootOptions, args: tuple[str, ...] = ()) -> str:
    """Return the command line that `parse` turns into `options`; `args` go to the target init.

    `init=` comes right before `--`: the kernel drops what it collected for init's arguments
    when it meets `init=`. Raises CmdlineError for what a command line cannot hold.
    """
    _check_arguments(args)
    words = [*_render_root(options.root), *(_render_share(share) for share in options.shares)]
    words += ["debug"] if options.debug else []
    words += [f"overlay_root={options.overlay}"] if options.overlay else []
    if options.overlay_size != DEFAULT_OVERLAY_SIZE:
        words.append(f"initrd.overlay_size={options.overlay_size}")
    words += [f"initrd.union={options.union}"] if options.union else []
    words += [f"initrd.bundle={path}" for path in options.bundles]
    words += [f"ip={ip}" for ip in options.ip]
    if options.timeout != DEFAULT_TIMEOUT:
        words.append(f"initrd.timeout={options.timeout:g}")
    words += [f"initrd.onfail={options.onfail}"] if options.onfail != ON_FAILURE[0] else []
    words += [f"{module}.{param}" for module, param in options.module_params]
    words.append(f"init={options.init}")
    words += ["--", *args] if args else []
    return " ".join(quote(word) for word in words)


def _check_arguments(args: tuple[str, ...]) -> None:
    if len(args) > MOST_ARGUMENTS:
        raise CmdlineError(
            f"{len(args)} arguments for init: the kernel passes on no more than {MOST_ARGUMENTS}"
        )
    if "--" in args:
        raise CmdlineError("--: the kernel drops this and all further arguments for init")


def _render_root(root: Root) -> list[str]:
    words = [f"rootfs={root.source}" if root.kind == "virtiofs" else f"root={root.source}"]
    if root.fstype and root.kind == "block":
        words.append(f"rootfstype={root.fstype}")
    words += [f"rootflags={root.flags}"] if root.flags else []
    if root.writable != (root.kind == "tmpfs"):
        words.append("rw" if root.writable else "ro")
    return words


def _render_share(share: Share) -> str:
    name = "mount" if share.writable else "mount-ro"
    return f"{name}={share.tag}:{share.path}" if share.path else f"{name}={share.tag}"


def quote(word: str) -> str:
    """Return `word` so that the kernel reads it back as one word.

    Raises CmdlineError for a double quote, a line break or a NUL: the kernel cannot escape them.
    """
    if any(char in word for char in '"\n\0'):
        raise CmdlineError(f"{word!r}: the kernel command line cannot hold quotes or line breaks")
    if split_raw(word) == [word]:
        return word
    name, equals, value = word.partition("=")
    return f'{name}="{value}"' if equals and split_raw(name) == [name] else f'"{word}"'
