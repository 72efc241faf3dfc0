"""The type of a target."""

from collections.abc import Callable

from initrd.record import Record


class Target(Record):
    """A function that takes any bytes, and inputs from which others are made."""

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    inputs: int = 2000  # of the unit test: fewer for a target that makes files or sockets
