"""The error of the programs on the host. Its text is safe to print on a terminal. Pure."""

from initrd.errors import ExplainedError
from initrd.host.system.printable import printable, shorten


class HostError(ExplainedError):
    """An action on the host failed, or its options are invalid.

    `what`, `why` and `hint` have the names of files, and the texts of a guest, as they are.
    """

    def __str__(self) -> str:
        """Return the message, safe to print: each part is one line, see `printable`.

        A part of more than MAX_MESSAGE characters is cut.
        """
        what, why, hint = (printable(shorten(part)) for part in (self.what, self.why, self.hint))
        return f"{what}: {why}" + (f"\ntry: {hint}" if hint else "")
