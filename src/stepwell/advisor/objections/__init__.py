"""What speaks against something that was asked for: one table, one row per objection.

`asked` has the rows about values (an optimizer, a learning rate, a decay), and `sayings` the rows about remarks
("urgent", "the paper used it"). Each row says what the choice costs, the smallest fix, and the evidence for and against.
The recipe stays the best one within the constraint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.advisor.objections.asked import ROWS
from stepwell.advisor.objections.context import Context
from stepwell.advisor.objections.objection import Objection
from stepwell.advisor.objections.sayings import answered

if TYPE_CHECKING:
    from stepwell.advisor.choosing.ground import Ground
    from stepwell.advisor.recipe import Recipe

__all__ = ["Objection", "objections"]


def objections(recipe: Recipe, ground: Ground) -> tuple[Objection, ...]:
    """All objections against what was asked for, the gravest first."""
    context = Context(recipe, ground)
    found = [objection for row in ROWS for objection in [row(context)] if objection is not None]
    found += answered(context)
    order = {"wrong": 0, "costly": 1, "answer": 2}
    return tuple(sorted(found, key=lambda objection: order[objection.severity]))
