"""The error of the programs on the host. Its text is safe to print on a terminal. Pure."""

from initrd.errors import ExplainedError
from initrd.host.system.printable import printable


class HostError(ExplainedError):
    """An action on the host failed, or its options are invalid.

    `what`, `why` and `hint` have the names of files, and the texts of a guest, as they are.
    """

    def __str__(self) -> str:
        """Return the message, safe to print: each part is one line, see `printable`."""
        hint = f"\ntry: {printable(self.hint)}" if self.hint else ""
        return f"{printable(self.what)}: {printable(self.why)}{hint}"
