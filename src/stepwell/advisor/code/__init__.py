"""The training loop that a recipe prints: one program per form, with a stand-in model and made-up data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stepwell.advisor.code import plain, with_stepwell
from stepwell.advisor.code.stand_ins import stand_in
from stepwell.arguments import choice, whole

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

UNKNOWN = 1_000  # updates, where a recipe does not know its run


def program(recipe: Recipe, form: Any = "stepwell", steps: Any = None) -> str:
    """The program; see `Recipe.code`."""
    form = choice("code", "form", form, ("stepwell", "torch"))
    known = recipe.value("steps")
    total = whole("code", "steps", steps, least=1) if steps is not None else int(known or UNKNOWN)
    made = stand_in(recipe.situation, recipe.optimizer)
    if recipe.optimizer == "Adam" and not recipe.weight_decay and "Transformer" in made.model:
        recipe = replace(
            recipe, published_optimizer="AdamW"
        )  # the same arithmetic without decay, and no riddle for lint
    writer = with_stepwell if form == "stepwell" else plain
    return writer.program(recipe, made, total)
