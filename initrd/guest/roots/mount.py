"""Mounts the root when it is more than one share: devices, the initramfs itself, overlays.

Not imported for the usual root, a single virtiofs tag. Whatever can be found out without mounting
anything is found out first, so that a mistake changes nothing. Each kind of root is imported only
where it is asked for.
"""

from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import SYSROOT, share_mount
from initrd.guest.virtiofs import mount_share
from initrd.options import Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.options import BootOptions


def mount_root(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    """Mount the root, and what lies over it, at /sysroot. Raises BootError."""
    if options.overlay:
        _mount_overlaid(options, kernel, log)
    else:
        _mount_plain(options, kernel, log)


def _mount_plain(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    device = find_root(options, kernel, log)
    mount_base(options, device, SYSROOT, kernel, log)


def _mount_overlaid(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    from initrd.guest.roots.overlay import LOWER, add_overlay, check_union  # noqa: PLC0415

    check_union(options.union or "overlay", kernel)
    layer = _find_layer(options, kernel, log)
    device = find_root(options, kernel, log)
    if device and device == layer:
        raise BootError(
            f"cannot keep the overlay on {layer}",
            "it is the device of the root itself",
            "name another device with overlay_root=",
        )
    # The lower layer is read-only whatever ro and rw say: what is over it takes all the changes.
    lower = options.replace(root=options.root.replace(writable=False))
    mount_base(lower, device, LOWER, kernel, log)
    add_overlay(options, layer, kernel, log)


def _find_layer(options: "BootOptions", kernel: "Kernel", log: Log) -> str:
    """Return the device of the writable layer; nothing when it is kept in memory."""
    if options.overlay == "ram":
        return ""
    from initrd.guest.roots.block import find_layer  # noqa: PLC0415

    return find_layer(options.overlay, options.timeout, kernel, log)


def find_root(options: "BootOptions", kernel: "Kernel", log: Log) -> str:
    """Return the device of the root, waiting for it; nothing when it is not on a device."""
    if options.root.kind != "block":
        return ""
    from initrd.guest.roots.block import find_device  # noqa: PLC0415

    return find_device(options.root.source, options.timeout, kernel, log)


def mount_base(
    options: "BootOptions", device: str, target: str, kernel: "Kernel", log: Log
) -> None:
    """Mount the root itself, without what may lie over it, on `target`."""
    root = options.root
    if root.kind == "virtiofs":
        share = Share(root.source, writable=root.writable)
        mount_share(share_mount(share, target, root.flags), options.timeout, kernel, log)
    elif root.kind == "block":
        from initrd.guest.roots.block import mount_device  # noqa: PLC0415

        mount_device(root, device, target, kernel, log)
    else:
        from initrd.guest.roots.tmpfs import move_initramfs  # noqa: PLC0415

        move_initramfs(root, target, kernel, log)
