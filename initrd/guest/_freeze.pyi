"""Functions of the frozen /init, written in C: see `initrd/freeze/python.c`."""

def add_network() -> None:
    """Make pyroute2 importable. Raises OSError when its extension modules cannot be unpacked."""

def complete() -> None:
    """Finish the initialisation of Python; no effect after the first call. Raises RuntimeError."""

def import_session() -> None:
    """Import the modules of a boot that runs a command, faster than `import` does."""
