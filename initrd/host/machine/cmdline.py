"""Write the kernel command line: by the tables of `initrd.cmdline`, which parses it.

This is not in `initrd.cmdline` itself, because every boot of `/init` would pay for it.

Source of the limits: the kernel's `init/main.c` and `lib/cmdline.c`.
"""

from initrd.cmdline import LISTS, OPTIONS, split_raw
from initrd.host.machine import locate
from initrd.host.machine.config import Machine
from initrd.host.qemu.arch import Arch
from initrd.host.system.hosterror import HostError
from initrd.options import BootOptions, CmdlineError, Root, Share

_MAX_ARGUMENTS = 32  # CONFIG_INIT_ENV_ARG_LIMIT: with more of them the kernel panics
_CANNOT_WRITE = "cannot write the kernel command line"
_WITHOUT_LIMITS = "chrootvm ROOTFS -- COMMAND, which does not use the kernel's command line"
_KERNEL_WORDS = (
    "panic=-1",  # a panic ends the machine; by default the kernel would halt
    "cryptomgr.notests",  # the kernel's tests of its own ciphers: a fifth of an emulated boot
)
_UNMANAGED_SLOT = "pcie_ports=compat"  # see initrd.guest.command.hotplug


def command_line(
    machine: Machine, arch: Arch, accelerator: str, modules: tuple[Share, ...] = ()
) -> str:
    """Return the kernel command line. Raises HostError for words that it cannot hold.

    `modules`: shares of the kernel's modules, for /lib/modules/VERSION and for its `build`.
    """
    options = BootOptions(
        root=Root(source=machine.root.tag, writable=machine.root.writable),
        shares=machine.shares,
        init=locate.find_target(machine.root.source, machine.init),
        debug=machine.debug,
        overlay="vda" if machine.has_overlay_disk else machine.overlay,
        modules=tuple(share.tag for share in modules),
        ip=("dhcp",) if machine.network else (),
    )
    if "--" in machine.arguments:  # lib/cmdline.c stops at a second one, and drops what follows
        why = "the kernel does not hand the argument -- to init"
        raise HostError(_CANNOT_WRITE, why, _WITHOUT_LIMITS)
    words = _machine_words(machine, arch, accelerator)
    try:
        text = " ".join([*words, render(options, machine.arguments)])
    except CmdlineError as error:
        raise HostError(_CANNOT_WRITE, str(error)) from error
    _check_length(text, arch)
    return text


def template_command_line(machine: Machine, arch: Arch, accelerator: str) -> str:
    """Return the kernel command line of a template for `machine`.

    It has the words that do not depend on the root directory, the shares, and the command.
    """
    debug = ("debug",) if machine.debug else ()
    return " ".join([*_machine_words(machine, arch, accelerator), *debug, _UNMANAGED_SLOT])


def _machine_words(machine: Machine, arch: Arch, accelerator: str) -> list[str]:
    emulated = accelerator == "tcg" and machine.cpus == 1 and not machine.machine
    words = [f"console={arch.console}", *_KERNEL_WORDS, *arch.kernel_parameters(emulated=emulated)]
    return [*words, *(["quiet"] if machine.quiet else []), *_gdb_words(machine), *machine.append]


def _gdb_words(machine: Machine) -> tuple[str, ...]:
    """Return the word for gdb, which expects the kernel at the addresses in the file vmlinux."""
    return () if machine.gdb is None else ("nokaslr",)


def _check_length(text: str, arch: Arch) -> None:
    size = len(text.encode(errors="surrogateescape"))
    if size > arch.max_cmdline:
        raise HostError(
            _CANNOT_WRITE,
            f"it has {size} bytes, and {arch.name} kernels read {arch.max_cmdline}",
            f"fewer or shorter arguments, or {_WITHOUT_LIMITS}",
        )


def render(options: BootOptions, arguments: tuple[str, ...] = ()) -> str:
    """Return the command line that `parse` turns into `options`; `arguments` go to the target init.

    `init=` comes right before `--`: at `init=` the kernel drops the arguments for init that it has
    collected. Raises CmdlineError for words that a command line cannot hold.
    """
    _check_arguments(arguments)
    words = [*_render_root(options.root), *(_render_share(share) for share in options.shares)]
    words += ["debug"] if options.debug else []
    for name, field, _ in LISTS:
        words += [f"{name}={value}" for value in getattr(options, field)]
    words += [f"{module}.{param}" for module, param in options.module_params]
    for name, field, _, write in OPTIONS:
        value = getattr(options, field)
        if name == "init" or value != getattr(BootOptions, field):
            words.append(f"{name}={write(value)}")
    words += ["--", *arguments] if arguments else []
    return " ".join(quote(word) for word in words)


def _check_arguments(arguments: tuple[str, ...]) -> None:
    if len(arguments) > _MAX_ARGUMENTS:
        raise CmdlineError(
            f"{len(arguments)} arguments for init: the kernel passes on no more than "
            f"{_MAX_ARGUMENTS}"
        )
    if "--" in arguments:
        raise CmdlineError("--: the kernel drops this and all further arguments for init")


def _render_root(root: Root) -> list[str]:
    words = [f"{root.kind.option}={root.source}"]
    words += [f"rootfstype={root.fstype}"] if root.fstype else []
    words += [f"rootflags={root.flags}"] if root.flags else []
    if root.writable != root.kind.writable:
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
