"""A finding: a check, the place of the fault, and the observation there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stepwell.findings.check import CERTAINTIES, SEVERITIES, Certainty, Check, Severity
from stepwell.findings.fix import Fix
from stepwell.findings.place import Place, Source


@dataclass(frozen=True)
class Evidence:
    """An observation that supports a finding, with its place: the line of the backward pass, the norm at step 300."""

    place: Place
    seen: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault that a check has found.

    Attributes:
        check: the description of the fault in general.
        place: a `Source`, a `Tensor`, a `Trial` or a `Run`.
        seen: the observation with its numbers, as a clause: "its best lr 0.1 is the highest of the 6 tried".
        evidence: further observations, each with its own place.
        instead: what to do in this case, if more specific than `check.instead`, as the exact option to give; else
            empty.
        fix: edits of the source that remove the fault, or None.
    """

    check: Check
    place: Place
    seen: str
    evidence: tuple[Evidence, ...] = ()
    instead: str = ""
    fix: Fix | None = None

    def __post_init__(self) -> None:
        if not self.instead:
            object.__setattr__(self, "instead", self.check.instead)

    @property
    def code(self) -> str:
        return self.check.code

    @property
    def severity(self) -> Severity:
        return self.check.severity

    @property
    def certainty(self) -> Certainty:
        return self.check.certainty

    def __str__(self) -> str:
        """The finding in full: severity, code, place and what was seen in one line; then, indented, the evidence, why
        the fault is harmful, what to do instead and the reference."""
        rest = [("why", self.check.why), ("instead", self.instead), ("see", self.check.reference)]
        return "\n".join(
            [
                f"{self.severity} {self.code} {self.place}: {self.seen}",
                *(f"  {one.place}: {one.seen}" for one in self.evidence),
                *(f"  {label}: {said}" for label, said in rest if said),
            ]
        )


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by severity, certainty, code and place; equal findings keep their order."""
    return sorted(findings, key=_order)


def _order(finding: Finding) -> tuple[int, int, str, tuple[str, int, int]]:
    place = finding.place
    where = (str(place), 0, 0)
    if isinstance(place, Source):
        where = (place.file, place.cell or 0, place.line)
    return SEVERITIES.index(finding.severity), CERTAINTIES.index(finding.certainty), finding.code, where
