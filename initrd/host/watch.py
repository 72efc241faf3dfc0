"""Whoever wants to know how a boot goes: told by those who do it. Nobody does, by default."""

# What begins; each ends what came before.
PREPARE, START, KERNEL = "find files, make the image", "start the programs", "QEMU and its firmware"
COMMAND, END = "command", "power off"


class Watch:
    """Told what happens. This one does not listen."""

    def mark(self, name: str) -> None:
        """Something begins: what came before is over."""

    def see(self, data: bytes) -> None:
        """The guest has printed something on its console."""
