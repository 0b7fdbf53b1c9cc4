"""From a situation and what the user fixes to a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stepwell.advisor.asked import Asked
from stepwell.advisor.choosing.optimizer import named
from stepwell.advisor.decide import Decided, decide
from stepwell.advisor.objections import Context, objections
from stepwell.advisor.published import Published
from stepwell.advisor.situation import Situation
from stepwell.arguments import text

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe


def made(
    cls: type[Recipe],
    one: Situation,
    asked: Asked | None = None,
    notes: tuple[str, ...] = (),
    *,
    rows: tuple[Published, ...] | None = None,
    strict: bool = False,
    name: str = "",
) -> Recipe:
    """The recipe, an instance of `cls`, for a situation. `rows` and `strict` are for judging the method "
    "(`choosing.ground`)."""
    asked = Asked() if asked is None else asked
    decided = decide(one, asked, rows, strict=strict)
    near = tuple((n.row.id, round(n.distance, 2), n.words) for n in decided.ground.neighbors[:5])
    recipe = cls(
        name or one.model or f"{one.family}: {one.task or 'any task'}",
        one,
        decided.choices,
        decided.published,
        near,
        (),
        (*notes, *_assumed(one), *_cautions(decided)),
        asked,
    )
    if rows is not None:
        return recipe
    free = Asked(micro_batch=asked.micro_batch)
    context = Context(
        recipe, decided.ground, lambda: made(cls, one, free, name=recipe.name) if asked != free else recipe
    )
    return replace(recipe, objections=objections(context))


def _assumed(one: Situation) -> list[str]:
    said = [f"{name} is assumed: {getattr(one, name)}" for name, origin in one.origin.items() if origin == "assumed"]
    if one.batch_size is None:
        said.append("the batch size is not known: rates are as published, not scaled")
    elif one.batch_in_samples is None:
        said.append(f"the batch size in {one.batch_unit!r} cannot be compared: rates are as published, not scaled")
    if one.updates is None:
        said.append("the number of updates is not known: give steps to build()")
    return said


def _cautions(decided: Decided) -> list[str]:
    line = decided.ground.line
    found = [f"caution: {line.caution}"] if line is not None and line.caution else []
    bases = [n.row.id for n in decided.ground.neighbors[:4] if n.row.lr is not None and not n.row.lr_is_peak]
    if bases:
        found.append(f"the rate of {', '.join(bases)} is a base or a factor: it is not used and never scaled")
    return found


def again(recipe: Recipe, optimizer: str) -> Recipe:
    """The recipe for the same training with another optimizer."""
    name = named(text("with_optimizer", "name", optimizer, "the name of an optimizer, as 'lion'"))
    asked = replace(recipe.asked, optimizer=name, lr=None, weight_decay=None, betas=None, eps=None, nesterov=None)
    return made(type(recipe), recipe.situation, asked, name=recipe.name)
