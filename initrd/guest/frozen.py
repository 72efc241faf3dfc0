"""What only the frozen program has: modules that C code imports faster, and pyroute2.

The C side is `initrd/freeze/`; outside of /init (tests, a checkout) there is nothing to add.
"""

import sys

# Where the launcher unpacks the C library; goes with the rest of the initramfs.
DIRECTORY = "/.initrd"


def import_session() -> None:
    """Import `initrd.guest.command.session` and what it needs, faster than `import` does."""
    if "initrd.guest._freeze" in sys.modules:
        from initrd.guest import _freeze  # noqa: PLC0415  (only /init has it)

        _freeze.import_session()


def add_network() -> None:
    """Make pyroute2 importable: it is part of /init, but a start does not pay for it.

    Must be called while the initramfs is still there, and pyroute2 be imported until then. Raises
    OSError when its extension modules cannot be unpacked.
    """
    if "initrd.guest._freeze" in sys.modules:
        from initrd.guest import _freeze  # noqa: PLC0415  (only /init has it)

        _freeze.add_network()
