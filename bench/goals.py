"""What a figure must reach, and how that is said beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A figure must be at most or at least `bound`; it is compared as it is printed, so that 1.00 is not above 1."""

    bound: float
    kind: str = "most"
    percent: bool = False
    digits: int = 2

    def met(self, value: float) -> bool:
        """Whether the printed figure reaches it."""
        shown = round(100 * value) / 100 if self.percent else round(value, self.digits)
        return shown <= self.bound if self.kind == "most" else shown >= self.bound

    def __str__(self) -> str:
        bound = f"{100 * self.bound:.0f}%" if self.percent else f"{self.bound:g}"
        return f"{'<=' if self.kind == 'most' else '>='}{bound}"

    def verdict(self, value: float) -> str:
        """The goal and whether it is met, in the words of a table: `<=0.85 met`."""
        return f"{self} {'met' if self.met(value) else 'MISSED'}"


def most(bound: float, digits: int = 2) -> Goal:
    """At most `bound`."""
    return Goal(bound, "most", digits=digits)


def least(bound: float, digits: int = 2) -> Goal:
    """At least `bound`."""
    return Goal(bound, "least", digits=digits)


def least_share(bound: float) -> Goal:
    """At least this share, printed in per cent."""
    return Goal(bound, "least", percent=True)
