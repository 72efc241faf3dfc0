"""Mount every root but a plain virtiofs tag: block devices, the initramfs itself, overlays.

All checks that need no mount come first, so that an invalid option leaves nothing mounted. The code
of a kind of root is imported only for a root of that kind.
"""

from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import SYSROOT, share_mount
from initrd.guest.virtiofs import mount_share
from initrd.options import BLOCK, OVERLAY_IN_MEMORY, TMPFS, VIRTIOFS, Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.options import BootOptions


def mount_root(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    """Mount the root at /sysroot, with an overlay over it for overlay_root=. Raises BootError."""
    if options.overlay:
        _mount_overlaid(options, kernel, log)
    else:
        mount_base(options, find_device(options, kernel, log), SYSROOT, kernel, log)


def _mount_overlaid(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    from initrd.guest.roots import overlay  # noqa: PLC0415

    union = options.union or overlay.KERNEL_UNION
    overlay.check_union(union, kernel)
    layer = _find_layer(options, kernel, log)
    device = find_device(options, kernel, log)
    if device and device == layer:
        raise BootError(
            f"cannot keep the overlay on {layer}",
            "it is the device of the root itself",
            "name another device with overlay_root=",
        )
    # The lower layer is read-only even with the option rw: the upper layer gets all changes.
    lower = options.replace(root=options.root.replace(writable=False))
    mount_base(lower, device, overlay.LOWER, kernel, log)
    overlay.mount_layer(options, layer, kernel, log)
    if union == overlay.KERNEL_UNION:
        overlay.mount_union(layer, kernel, log)
    else:
        from initrd.guest.roots.fuse import mount_union  # noqa: PLC0415

        mount_union(options, kernel, log)
    overlay.move_layers(kernel, log)


def _find_layer(options: "BootOptions", kernel: "Kernel", log: Log) -> str:
    """Return the device of the writable layer; empty when it is kept in memory."""
    if options.overlay == OVERLAY_IN_MEMORY:
        return ""
    from initrd.guest.roots.block import find_overlay_device  # noqa: PLC0415

    return find_overlay_device(options.overlay, options.timeout, kernel, log)


def find_device(options: "BootOptions", kernel: "Kernel", log: Log) -> str:
    """Return the device of the root, waiting for it; empty for a kind of root without one."""
    find, _ = _KINDS[options.root.kind.name]
    return find(options, kernel, log)


def mount_base(
    options: "BootOptions", device: str, target: str, kernel: "Kernel", log: Log
) -> None:
    """Mount the root itself, without an overlay over it, on `target`."""
    _, mount = _KINDS[options.root.kind.name]
    mount(options, device, target, kernel, log)


def _find_none(_options: "BootOptions", _kernel: "Kernel", _log: Log) -> str:
    return ""


def _find_block(options: "BootOptions", kernel: "Kernel", log: Log) -> str:
    from initrd.guest.roots.block import find_device  # noqa: PLC0415

    return find_device(options.root.source, options.timeout, kernel, log)


def _mount_virtiofs(
    options: "BootOptions", _device: str, target: str, kernel: "Kernel", log: Log
) -> None:
    root = options.root
    share = Share(root.source, writable=root.writable)
    mount_share(share_mount(share, target, root.flags), options.timeout, kernel, log)


def _mount_block(
    options: "BootOptions", device: str, target: str, kernel: "Kernel", log: Log
) -> None:
    from initrd.guest.roots.block import mount_device  # noqa: PLC0415

    mount_device(options.root, device, target, kernel, log)


def _mount_tmpfs(
    options: "BootOptions", _device: str, target: str, kernel: "Kernel", log: Log
) -> None:
    from initrd.guest.roots.tmpfs import move_initramfs  # noqa: PLC0415

    move_initramfs(options.root, target, kernel, log)


# By RootKind.name: how its device is found, and how it is mounted on a directory.
_KINDS = {
    VIRTIOFS.name: (_find_none, _mount_virtiofs),
    BLOCK.name: (_find_block, _mount_block),
    TMPFS.name: (_find_none, _mount_tmpfs),
}
