"""The schedule of a recipe as a function of plain Python: the factor of the learning rate at an update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.advisor.code.common import text
from stepwell.advisor.schedules_of import warmup_steps
from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe


def factor(recipe: Recipe, total: int) -> str | None:
    """The source of `factor(step)`; None for a constant rate."""
    rise, kind = warmup_steps(recipe, total), recipe.schedule
    end = text(float(recipe.value("lr_end") or 0.0))
    if kind in ("constant", "plateau") and not rise:
        return None
    body = {
        "cosine": [f"    return {end} + (1 - {end}) * (1 + math.cos(math.pi * done)) / 2"],
        "linear": [f"    return 1 - (1 - {end}) * done"],
        "poly": [f"    return {end} + (1 - {end}) * (1 - done) ** 0.9"],
        "constant": ["    return 1.0"],
        "plateau": ["    return 1.0"],
        "exponential": ["    return 0.1**done"],
        "stairs": ["    return 0.1 ** sum(step >= STEPS * part for part in (1 / 3, 2 / 3, 8 / 9))"],
        "hold": [
            "    rest = (STEPS - step) / (0.2 * STEPS)  # the last fifth falls",
            f"    return 1.0 if rest >= 1 else {end} + (1 - {end}) * (1 - math.sqrt(1 - max(0.0, rest)))",
        ],
        "one_cycle": [
            "    if step < 0.3 * STEPS:",
            "        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / (0.3 * STEPS))) / 2",
            "    return (1 + math.cos(math.pi * min(1.0, (step / STEPS - 0.3) / 0.7))) / 2",
        ],
        "inverse_sqrt": [f"    return math.sqrt({max(1, rise)} / (step + 1))"],
    }.get(kind)
    if body is None:
        raise UsageError(f"the schedule {kind!r} is not one that a recipe knows")
    lines = ["def factor(step: int) -> float:", '    """What the learning rate is multiplied by at update `step`."""']
    if rise and kind != "one_cycle":
        lines += [f"    if step < {rise}:", f"        return (step + 1) / {rise}"]
    if any("done" in line for line in body):
        lines += [
            f"    done = min(1.0, (step - {rise}) / (STEPS - {rise}))" if rise else "    done = min(1.0, step / STEPS)"
        ]
    return "\n".join([*lines, *body])
