"""What speaks against something that was asked for: one table, one row per objection.

`asked` has the rows about values (an optimizer, a learning rate, a decay), and `sayings` the rows about remarks
("urgent", "the paper used it"). Each row says what the choice costs, the smallest fix, and the evidence for and
against. The recipe stays the best one within the constraint.
"""

from __future__ import annotations

from stepwell.advisor.objections.asked import ROWS
from stepwell.advisor.objections.context import Context
from stepwell.advisor.objections.objection import Objection
from stepwell.advisor.objections.sayings import answered

__all__ = ["Context", "Objection", "objections"]


def objections(context: Context) -> tuple[Objection, ...]:
    """All objections against what was asked for, the gravest first."""
    found = [objection for row in ROWS for objection in [row(context)] if objection is not None]
    found += answered(context)
    order = {"wrong": 0, "costly": 1, "answer": 2}
    return tuple(sorted(found, key=lambda objection: order[objection.severity]))
