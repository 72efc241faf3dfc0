"""Functions that only the frozen /init has: a faster import, and access to pyroute2.

The C side is `initrd/freeze/`. Elsewhere (tests, a checkout) the functions do nothing.
"""

import sys

# The launcher unpacks the C library here. It is deleted with the rest of the initramfs.
DIRECTORY = "/.initrd"


def import_session() -> None:
    """Import `initrd.guest.command.session` and its imports, faster than `import` does."""
    if "initrd.guest._freeze" in sys.modules:
        from initrd.guest import _freeze  # noqa: PLC0415 - only /init has it

        _freeze.import_session()


def add_network() -> None:
    """Make pyroute2 importable. It is packed into /init and not unpacked at its start.

    Must be called, and pyroute2 imported, before the initramfs is freed. Raises OSError when the
    extension modules of pyroute2 cannot be unpacked.
    """
    if "initrd.guest._freeze" in sys.modules:
        from initrd.guest import _freeze  # noqa: PLC0415 - only /init has it

        _freeze.add_network()
