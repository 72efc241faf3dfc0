"""A kernel command line that /init understands: what `initrd.cmdline` parses, written. Pure."""

from initrd.options import (
    DEFAULT_OVERLAY_SIZE,
    DEFAULT_TIMEOUT,
    ON_FAILURE,
    BootOptions,
    CmdlineError,
    Root,
    Share,
)
from initrd.quoting import split_raw

MOST_ARGUMENTS = 32  # CONFIG_INIT_ENV_ARG_LIMIT: with more of them the kernel panics


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
