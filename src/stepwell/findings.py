"""A finding: one fault that a check saw, and how it is worded for a reader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the gravest first


@dataclass(frozen=True)
class Finding:
    """What a check reports: lint (in source), doctor (in a live run), advisor and compare share it.

    Attributes:
        code: short stable name, `"A04"`; what a user mutes.
        severity: `"error"` spoils the result, `"warning"` probably costs quality, `"note"` is good to know.
        where: the place in the user's terms: `"train.py:31"`, `"layer2.conv1.weight"`, `"adamw, seed 2"`.
        seen: what was observed, with its numbers.
        why: why it hurts.
        instead: what to do instead, as one action.
        reference: where this is written down (a paper, a documentation page), or empty.

    Raises ValueError for a severity that is none of the three.

    >>> print(Finding("C01", "warning", "adamw", "best lr 0.1 is the highest tried",
    ...               "a better one may lie above", "widen the range").text())
    warning C01 adamw: best lr 0.1 is the highest tried
      why: a better one may lie above
      instead: widen the range
    """

    code: str
    severity: Severity
    where: str
    seen: str
    why: str
    instead: str
    reference: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity={self.severity!r} is not one of {', '.join(SEVERITIES)}")

    def line(self) -> str:
        """The finding in one line, as a compiler would print it."""
        return f"{self.severity} {self.code} {self.where}: {self.seen}"

    def text(self) -> str:
        """The finding in full: the line, then why, what instead and the reference, each indented."""
        rest = [("why", self.why), ("instead", self.instead), ("see", self.reference)]
        return "\n".join([self.line(), *(f"  {label}: {said}" for label, said in rest if said)])


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by severity, then code, then place; equal ones keep their order."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.where))
