"""A measured value with its budget, and its line in the table."""

from dataclasses import dataclass

MEGA = 1e6


@dataclass(frozen=True)
class Figure:
    """A measured value; `budget` is its maximum, or its minimum with `more_is_better`."""

    name: str
    value: float
    unit: str = ""  # empty: a ratio
    budget: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is within the budget; true without a budget."""
        if self.budget is None:
            return True
        return self.value >= self.budget if self.more_is_better else self.value <= self.budget

    def row(self) -> str:
        """Return the figure as a line of the table."""
        sign = "≥" if self.more_is_better else "≤"
        budget = "" if self.budget is None else f"{sign} {self.budget:g} {self.unit}"
        mark = "" if self.met else "  over budget"
        return f"{self.name:64}{self.value:10.2f} {self.unit:5} {budget:12}{mark}".rstrip()
