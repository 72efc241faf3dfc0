"""The modules in the guest's /lib/modules/VERSION, which modprobe reads there.

Where the root lacks them, they are shared with the guest, and `/init` mounts them. It needs a place
for the mount point, because the root is never changed. The rules for that place are also those of
`initrd.guest.roots.module_directory`.
"""

import os

from initrd.host.image.buildtree import BuildTree, is_build_tree
from initrd.host.machine import locate
from initrd.host.machine.config import Machine
from initrd.host.machine.rootfs import Kernel, find_module_directory
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import quote, shorten
from initrd.host.system.rootfile import find_in_root
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TAG, BUILD_TAG = "initrd.modules", "initrd.build"
_MODULES = "lib/modules"


class GuestModules(Record):
    """What the guest finds in /lib/modules/VERSION."""

    in_root: bool = False  # the root has them
    shares: tuple[Share, ...] = ()  # otherwise: what to mount there, and on its `build`
    missing: HostError | None = None  # why it finds nothing

    def remark(self, release: str) -> str:
        """Return why the guest finds nothing, in one line; empty if there is no such reason."""
        if not self.missing:
            return ""
        hint = f"; try: {self.missing.hint}" if self.missing.hint else ""
        what = f"the guest has no modules in /{_MODULES}/{release}"
        return shorten(f"{what}: {self.missing.what}: {self.missing.why}{hint}")


def find_guest_modules(
    machine: Machine, kernel: Kernel, virtiofsd: Virtiofsd, environment: "Mapping[str, str]"
) -> GuestModules:
    """Return where the guest's modules come from. Nothing is made.

    The first share of a build tree is the tree itself: `stage` replaces it. The result is empty for
    a kernel without modules, or of unknown version.
    """
    if not kernel.release or _has_files(find_module_directory(machine.root.source, kernel.release)):
        return GuestModules(in_root=bool(kernel.release))
    if not _is_given(machine, kernel.modules):
        return GuestModules()
    try:
        _check_place(machine, kernel.release)
        shares = _find_shares(os.path.realpath(kernel.modules), environment)
        if shares:
            program.check(virtiofsd, shares, root=os.geteuid() == 0)
    except HostError as error:
        return GuestModules(missing=error)
    return GuestModules(shares=shares)


def stage(
    modules: GuestModules, release: str, cache: str, environment: "Mapping[str, str]"
) -> GuestModules:
    """Return the same with the first share of a build tree ready to use; it may get missing."""
    if len(modules.shares) < 2:
        return modules
    from initrd.host.image.depmod import open_staged  # noqa: PLC0415 - for build trees only

    first, build = modules.shares
    try:
        staged = open_staged(BuildTree(build.source), release, find_depmod(environment), cache)
    except HostError as error:
        return GuestModules(missing=error)
    return modules.replace(shares=(first.replace(source=os.path.realpath(staged)), build))


def find_depmod(environment: "Mapping[str, str]") -> str:
    """Return the path of depmod. Raises HostError when there is none."""
    path = f"{environment.get('PATH', '')}:/usr/sbin:/sbin"  # ordinary users may lack the last two
    return locate.find_program("depmod", {"PATH": path}, "install it (package kmod)")


def _find_shares(directory: str, environment: "Mapping[str, str]") -> tuple[Share, ...]:
    """Return what to share of a module directory or a build tree; nothing without modules."""
    shares = (Share(TAG, writable=False, source=directory),)
    if not is_build_tree(directory):
        return shares
    if not BuildTree(directory).files:
        return ()
    find_depmod(environment)
    return (*shares, Share(BUILD_TAG, writable=False, source=directory))


def _is_given(machine: Machine, modules: str) -> bool:
    """Return whether the user has given this directory of modules, or build tree.

    Others are of the root, and are not shared: a program in the root can put a link to any
    directory of the host in the place of one.
    """
    given = (machine.modules, os.path.abspath(machine.kernel) if machine.kernel else "")
    return bool(modules) and modules in given


def _check_place(machine: Machine, release: str) -> None:
    """Raise HostError when the guest has no place for a mount point of the modules."""
    root, directory = machine.root.source, f"{_MODULES}/{release}"
    has_directory = os.path.isdir(find_in_root(root, directory))
    if machine.overlay or has_directory or _is_in_share(machine, directory):
        return
    parent = find_in_root(root, _MODULES)
    if os.path.isdir(parent) and not _has_files(parent):
        return
    has_others = f"/{_MODULES} of the root has other versions only"
    why = has_others if parent else f"the root has no /{_MODULES}"
    top = parent or os.path.join(find_in_root(root, "lib") or f"{root}/lib", "modules")
    hint = f"mkdir -p {quote(os.path.join(top, release))}, or --overlay"
    raise HostError("cannot mount them there", why, hint)


def _is_in_share(machine: Machine, directory: str) -> bool:
    """Return whether a share may have the directory: the guest looks."""
    paths = (f"/{directory}/", f"/usr/{directory}/")
    tops = tuple(f"{share.path}/" for share in machine.shares if share.path)
    return any(path.startswith(tops) for path in paths)


def _has_files(directory: str) -> bool:
    """Return whether a directory is not empty; an empty path is no directory."""
    if not directory:
        return False
    try:
        with os.scandir(directory) as entries:
            return any(True for _ in entries)
    except OSError:  # it cannot be read: what is in it is not to be hidden
        return True
