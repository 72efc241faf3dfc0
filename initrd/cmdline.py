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
from initrd.quoting import Word, split
from initrd.values import choice, last, path_of, seconds_of, size_of, tag_of, value_of


def parse(text: str) -> BootOptions:
    """Return the options in `text`. Unknown words are not ours and are ignored.

    Raises CmdlineError for an option of ours that cannot be understood.
    """
    words = split(text)
    root = _parse_root(words)
    size, timeout = last(words, "initrd.overlay_size"), last(words, "initrd.timeout")
    return BootOptions(
        root=root,
        shares=_parse_shares(words, root),
        init=_parse_init(words),
        debug=any(word.is_flag("debug") for word in words),
        overlay=_parse_overlay(words),
        overlay_size=size_of(size) if size else DEFAULT_OVERLAY_SIZE,
        union=_parse_union(words),
        bundles=tuple(
            path_of(word, value_of(word)) for word in words if word.key == "initrd.bundle"
        ),
        ip=tuple(value_of(word) for word in words if word.key == "ip"),
        timeout=seconds_of(timeout) if timeout else DEFAULT_TIMEOUT,
        onfail=choice(words, "initrd.onfail", ON_FAILURE, ON_FAILURE[0]),
        module_params=tuple(_module_params(words)),
    )


def onfail_of(text: str) -> str:
    """Return what a failed boot shall do, even when the rest of the command line is unusable."""
    try:
        return choice(split(text), "initrd.onfail", ON_FAILURE, ON_FAILURE[0])
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
    flags = last(words, "rootflags")
    access = [word.key for word in words if word.is_flag("ro", "rw")][-1:]
    return root.replace(
        flags=(flags.value or "") if flags else "",
        # What was the initramfs can be written to, as the initramfs can; all else has to be asked.
        writable=access == ["rw"] or (root.kind == "tmpfs" and not access),
    )


def _default_root(words: list[Word]) -> Root:
    fstype = last(words, "rootfstype")
    if fstype and value_of(fstype) != "virtiofs":
        raise CmdlineError(f"{fstype}: of what? write root=/dev/NAME too")
    return Root()


def _root_source(word: Word, words: list[Word]) -> Root:
    source = value_of(word)
    fstype_word = last(words, "rootfstype")
    fstype = value_of(fstype_word) if fstype_word else ""
    if word.key == "rootfs":
        if fstype not in ("", "virtiofs"):
            raise CmdlineError(f"{word} is a virtiofs tag, but rootfstype={fstype}; use root=")
        return Root("virtiofs", tag_of(word, source))
    if fstype == "virtiofs":
        return Root("virtiofs", tag_of(word, source))
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
    tag, colon, path = value_of(word).partition(":")
    tag_of(word, tag)
    return Share(tag, path_of(word, path) if colon else "", writable=word.key == "mount")


def _parse_init(words: list[Word]) -> str:
    word = last(words, "init")
    if word is None:
        return DEFAULT_INIT
    if not value_of(word).startswith("/"):
        raise CmdlineError(f"{word}: not an absolute path; write init=/{word.value}")
    return value_of(word)


def _parse_overlay(words: list[Word]) -> str:
    word = last(words, "overlay_root")
    if word is None:
        return ""
    name = value_of(word).removeprefix("/dev/")
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise CmdlineError(f"{word}: write overlay_root=ram or overlay_root=NAME of /dev/NAME")
    return name


def _parse_union(words: list[Word]) -> str:
    union = choice(words, "initrd.union", UNIONS, "")
    if union and last(words, "overlay_root") is None:
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
