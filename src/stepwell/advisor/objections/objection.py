"""One objection: what was asked for, what it costs, the smallest fix, and the evidence on both sides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Objection:
    """What speaks against something that was asked for.

    Attributes:
        name: of the objection, as "adam-with-decay".
        severity: "costly" (worse training), "wrong" (probably fails) or "answer" (a remark that was answered).
        seen: what was asked for.
        cost: what it costs.
        fix: the smallest change that removes the cost.
        evidence_for: evidence for the objection, with its source.
        evidence_against: evidence against the objection, with its source; empty if there is none.
    """

    name: str
    severity: str
    seen: str
    cost: str
    fix: str
    evidence_for: str
    evidence_against: str = ""

    def __str__(self) -> str:
        said = f"{self.seen}: {self.cost} Fix: {self.fix}"
        return said + (f" But: {self.evidence_against}" if self.evidence_against else "")

    def record(self) -> dict[str, Any]:
        return asdict(self)
