"""The part of /init that is linked into it; see `initrd/freeze/python.c`."""

def add_network() -> None:
    """Make pyroute2 importable. Raises OSError when its extension modules cannot be unpacked."""

def complete() -> None:
    """Finish the initialisation of Python; nothing when that is done. Raises RuntimeError."""

def import_session() -> None:
    """Import what a boot that runs a command needs, faster than `import` does."""
