"""Split received bytes into lines: in linear time, and with a limit for what has no line break."""


class Lines:
    """The lines of a stream whose sender may be hostile.

    At most `limit` bytes of an incomplete line should be kept: the caller checks `is_too_long` when
    it has taken all lines.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes
        self._data = bytearray()
        self._searched = 0  # there is no line break in so many bytes of `_data`

    def add(self, data: bytes) -> None:
        """Append received bytes."""
        self._data += data

    def take(self) -> bytes | None:
        """Remove the first line and return it without its line break; None if none is complete."""
        end = self._data.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._data)
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return line

    def take_rest(self) -> bytes:
        """Remove and return everything."""
        rest = bytes(self._data)
        self._data.clear()
        self._searched = 0
        return rest

    @property
    def is_too_long(self) -> bool:
        """Whether there are more bytes than a line may have."""
        return len(self._data) > self._limit
