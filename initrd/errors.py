"""What went wrong on the host's side, in words for the user."""


class HostError(Exception):
    """Why something cannot be done: what failed on what, the reason, and what to try."""

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f"\ntry: {self.hint}" if self.hint else "")


def reason(error: OSError) -> str:
    """Return the error text of an OSError without its number and path."""
    return error.strerror or str(error)
