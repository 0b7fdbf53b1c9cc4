"""The schedule of a recipe: as an object of stepwell, and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe
    from stepwell.schedules import Plateau, Schedule


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """The steps of the warmup in a run of `steps` updates."""
    given = recipe.value("warmup") or 0
    count = round(given * steps) if isinstance(given, float) and given < 1 else int(given)
    return min(count, steps // 2)


def expression(recipe: Recipe, steps: int) -> str:
    """The schedule as an expression of `stepwell.schedules`.

    >>> expression(stepwell.advise("ViT-B/16", batch_size=1024, steps=1_000), 1000)
    'warmup(32).then(cosine(968, to=0.02))'
    """
    rise = warmup_steps(recipe, steps)
    rest, kind, end = steps - rise, recipe.schedule, recipe.value("lr_end") or 0.0
    to = f", to={end:g}" if end else ""
    if kind == "hold" and not rise:
        fall = max(1, round(0.2 * steps))
        return f"constant({steps - fall}).then(cooldown({fall}{to}))"
    if kind == "hold":
        return f"trapezoid({steps}, warmup={rise}, cooldown=0.2{to})"
    if kind == "one_cycle":
        return f"one_cycle({steps})"
    if kind == "inverse_sqrt":
        return f"inverse_square_root({max(1, rise)})"
    if kind == "stairs":
        at = sorted({max(1, round(steps * part) - rise) for part in (1 / 3, 2 / 3, 8 / 9)})
        shape = f"multi_step({at}, 0.1)"
    else:
        shape = {
            "cosine": f"cosine({rest}{to})",
            "linear": f"linear({rest}{to})",
            "poly": f"polynomial({rest}{to}, power=0.9)",
            "constant": "constant()",
            "plateau": "constant()",
            "exponential": f"exponential_to({rest}, to=0.1)",
        }.get(kind, "")
    if not shape:
        raise UsageError(f"the schedule {kind!r} is not one that a recipe knows")
    return f"warmup({rise}).then({shape})" if rise else shape


def schedule(recipe: Recipe, steps: int) -> Schedule | None:
    """The schedule as an object; None for a constant rate."""
    from stepwell.schedules import parse

    text = expression(recipe, steps)
    return None if text == "constant()" else parse(text)


def plateau(recipe: Recipe) -> Plateau | None:
    """The factor that falls when a metric stops improving, for the schedule "plateau"."""
    from stepwell.schedules import Plateau

    return Plateau(0.5, patience=10) if recipe.schedule == "plateau" else None
