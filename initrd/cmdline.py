"""The kernel command line: text to `BootOptions`, and back.

The one module that both sides share: `/init` parses with it, `chrootvm` writes with it. It is pure
and imports next to nothing, because `/init` pays for every import (`itertools` would be half a
million instructions).

Sources: the kernel's `Documentation/admin-guide/kernel-parameters.rst` and `lib/cmdline.c`
(`next_arg`) for quoting, and for `-` and `_` being the same in a parameter's name.
"""

from initrd.record import Record

DEFAULT_TAG = "rootfs"
DEFAULT_INIT = "/bin/sh"
DEFAULT_TIMEOUT = 10.0  # seconds
DEFAULT_OVERLAY_SIZE = "50%"
COMMAND_FILE = "/initrd.command"  # in the initramfs: see initrd.command
ON_FAILURE = ("poweroff", "panic", "shell")
UNIONS = ("overlay", "fuse-overlayfs", "unionfs-fuse")
DEVICE_PREFIXES = ("/dev/", "UUID=", "LABEL=", "PARTUUID=")
# Words of ours that the kernel does not know: it hands them to init as environment variables.
OUR_WORDS = ("rootfs", "rootfstype", "rootflags", "mount", "mount-ro", "overlay_root", "ip")

# White space as the kernel's lib/ctype.c has it (Latin-1), each to a byte that no command line has.
_SEPARATED = bytes.maketrans(b" \t\n\v\f\r\xa0", bytes(7))
MOST_ARGUMENTS = 32  # CONFIG_INIT_ENV_ARG_LIMIT: with more of them the kernel panics


class CmdlineError(ValueError):
    """An option that cannot be understood. The text names it, says why and what to write."""


class Root(Record):
    """What becomes `/`: `kind` is `virtiofs` (source is a tag), `block` or `tmpfs`."""

    kind: str = "virtiofs"
    source: str = DEFAULT_TAG
    fstype: str = ""  # empty: probe (block devices)
    flags: str = ""  # `rootflags=`, handed to mount(2)
    writable: bool = False


class Share(Record):
    """A further virtiofs tag. Without a path it is mounted at `/run/mnt/TAG`."""

    tag: str
    path: str = ""  # absolute, in the new root
    writable: bool = True

    @property
    def target(self) -> str:
        """Where the share is mounted, as the target program sees it."""
        return self.path or f"/run/mnt/{self.tag}"


class BootOptions(Record):
    """Everything `/init` does that depends on the kernel command line."""

    root: Root = Root()
    shares: tuple[Share, ...] = ()
    init: str = DEFAULT_INIT
    debug: bool = False
    overlay: str = ""  # empty: none; `ram`; or the name of a block device below /dev
    overlay_size: str = DEFAULT_OVERLAY_SIZE
    union: str = ""  # empty: not asked for, which means the kernel's overlayfs
    bundles: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()  # each in the syntax of the kernel's nfsroot.rst
    timeout: float = DEFAULT_TIMEOUT  # seconds
    onfail: str = ON_FAILURE[0]
    module_params: tuple[tuple[str, str], ...] = ()  # (module, "param=value")


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
    for raw in _split_raw(text):
        word = _parse_word(raw)
        if word.is_flag("--"):
            break
        words.append(word)
    return words


def _split_raw(text: str) -> list[str]:
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


def parse(text: str) -> BootOptions:
    """Return the options in `text`. Unknown words are not ours and are ignored.

    Raises CmdlineError for an option of ours that cannot be understood.
    """
    words = split(text)
    root = _parse_root(words)
    return BootOptions(
        root=root,
        shares=_parse_shares(words, root),
        init=_parse_init(words),
        debug=any(word.is_flag("debug") for word in words),
        overlay=_parse_overlay(words),
        overlay_size=_parse_size(words),
        union=_parse_union(words),
        bundles=tuple(_absolute(word) for word in words if word.key == "initrd.bundle"),
        ip=tuple(_value(word) for word in words if word.key == "ip"),
        timeout=_parse_timeout(words),
        onfail=_parse_choice(words, "initrd.onfail", ON_FAILURE, ON_FAILURE[0]),
        module_params=tuple(_module_params(words)),
    )


def onfail_of(text: str) -> str:
    """Return what a failed boot shall do, even when the rest of the command line is unusable."""
    try:
        return _parse_choice(split(text), "initrd.onfail", ON_FAILURE, ON_FAILURE[0])
    except CmdlineError:
        return ON_FAILURE[0]


def _last(words: list[Word], key: str) -> Word | None:
    found = [word for word in words if word.key == key]
    return found[-1] if found else None


def _value(word: Word) -> str:
    if not word.value:
        raise CmdlineError(f"{word}: a value is missing; write {word.name}=VALUE")
    return word.value


def _parse_root(words: list[Word]) -> Root:
    candidates = [_root_source(word, words) for word in words if word.key in ("root", "rootfs")]
    for word, other in zip(candidates, candidates[1:], strict=False):  # noqa: RUF007 - see above
        if word != other:
            raise CmdlineError(
                f"two different roots asked for, {word.source} ({word.kind}) and "
                f"{other.source} ({other.kind}); keep one of rootfs= and root="
            )
    root = candidates[-1] if candidates else _default_root(words)
    flags = _last(words, "rootflags")
    access = [word.key for word in words if word.is_flag("ro", "rw")][-1:]
    return root.replace(
        flags=(flags.value or "") if flags else "",
        # What was the initramfs can be written to, as the initramfs can; all else has to be asked.
        writable=access == ["rw"] or (root.kind == "tmpfs" and not access),
    )


def _default_root(words: list[Word]) -> Root:
    fstype = _last(words, "rootfstype")
    if fstype and _value(fstype) != "virtiofs":
        raise CmdlineError(f"{fstype}: of what? write root=/dev/NAME too")
    return Root()


def _root_source(word: Word, words: list[Word]) -> Root:
    source = _value(word)
    fstype_word = _last(words, "rootfstype")
    fstype = _value(fstype_word) if fstype_word else ""
    if word.key == "rootfs":
        if fstype not in ("", "virtiofs"):
            raise CmdlineError(f"{word} is a virtiofs tag, but rootfstype={fstype}; use root=")
        return Root("virtiofs", _tag(word, source))
    if fstype == "virtiofs":
        return Root("virtiofs", _tag(word, source))
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


def _tag(word: Word, tag: str) -> str:
    if not tag or "/" in tag or tag in (".", ".."):
        raise CmdlineError(f"{word}: {tag!r} cannot be a tag; a tag is a name without slashes")
    if len(tag.encode(errors="surrogateescape")) > 36:
        raise CmdlineError(f"{word}: the tag is longer than the 36 bytes that virtiofs has for it")
    return tag


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
    tag, colon, path = _value(word).partition(":")
    _tag(word, tag)
    if colon:
        _check_path(word, path)
    return Share(tag, path, writable=word.key == "mount")


def _check_path(word: Word, path: str) -> None:
    if not path.startswith("/") or path.strip("/") == "":
        raise CmdlineError(f"{word}: {path!r} is not an absolute path below /")
    if ".." in path.split("/"):
        raise CmdlineError(f"{word}: a path with '..' is not accepted; write where it leads to")


def _absolute(word: Word) -> str:
    path = _value(word)
    _check_path(word, path)
    return path


def _parse_init(words: list[Word]) -> str:
    word = _last(words, "init")
    if word is None:
        return DEFAULT_INIT
    if not _value(word).startswith("/"):
        raise CmdlineError(f"{word}: not an absolute path; write init=/{word.value}")
    return _value(word)


def _parse_overlay(words: list[Word]) -> str:
    word = _last(words, "overlay_root")
    if word is None:
        return ""
    name = _value(word).removeprefix("/dev/")
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise CmdlineError(f"{word}: write overlay_root=ram or overlay_root=NAME of /dev/NAME")
    return name


def _parse_union(words: list[Word]) -> str:
    union = _parse_choice(words, "initrd.union", UNIONS, "")
    if union and _last(words, "overlay_root") is None:
        raise CmdlineError(
            f"initrd.union={union}: there is no layer to merge; add overlay_root=ram or NAME"
        )
    return union


def _parse_size(words: list[Word]) -> str:
    word = _last(words, "initrd.overlay_size")
    if word is None:
        return DEFAULT_OVERLAY_SIZE
    size = _value(word)
    number, unit = size[:-1], size[-1].lower()
    if size.isascii() and size.isdigit():
        number, unit = size, ""
    good = number.isascii() and number.isdigit() and unit in ("", *"%kmg")
    good = good and len(number) < 20 and int(number) > 0  # int() raises for thousands of digits
    if not good or (unit == "%" and int(number) > 100):
        raise CmdlineError(f"{word}: not a size; write 10%, 512m or 2g")
    return size


def _parse_timeout(words: list[Word]) -> float:
    word = _last(words, "initrd.timeout")
    if word is None:
        return DEFAULT_TIMEOUT
    text = _value(word)
    if not (text.isascii() and text.replace(".", "", 1).isdigit()):
        raise CmdlineError(f"{word}: not a number of seconds; write initrd.timeout=10")
    return float(text)


def _parse_choice(words: list[Word], key: str, choices: tuple[str, ...], default: str) -> str:
    word = _last(words, key)
    if word is None:
        return default
    if word.value not in choices:
        raise CmdlineError(f"{word}: choose one of {', '.join(choices)}")
    return word.value


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
    if _split_raw(word) == [word]:
        return word
    name, equals, value = word.partition("=")
    return f'{name}="{value}"' if equals and _split_raw(name) == [name] else f'"{word}"'
