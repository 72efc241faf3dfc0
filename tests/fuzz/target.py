"""The type of a target, and the list of all targets."""

from collections.abc import Callable

from initrd.record import Record


class Target(Record):
    """A function that takes any bytes, and inputs from which others are made."""

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
