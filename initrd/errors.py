"""Errors with a text for users: what failed, on what, why, and what to try. Pure."""


class ExplainedError(Exception):
    """An error in three parts: what failed on what, the reason, and what to try (may be empty)."""

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f"\ntry: {self.hint}" if self.hint else "")


def reason(error: OSError) -> str:
    """Return the error text of an OSError without its number and path."""
    return error.strerror or str(error)
