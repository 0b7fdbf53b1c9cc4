"""What both forms of the printed program share: head, sizes, arguments as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.advisor.choice import written
from stepwell.advisor.code.stand_ins import StandIn

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

MOST = 8  # samples of a made-up batch


def text(value: Any) -> str:
    """A value as Python writes it, with at most six digits.

    >>> text(0.1 + 0.2), text([0.9, 0.95]), text(True)
    ('0.3', '(0.9, 0.95)', 'True')
    """
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if any(sign in short for sign in ".einf") else f"{short}.0"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(text(item) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def arguments(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={text(value)}" for name, value in given.items())


def head(recipe: Recipe, form: str) -> str:
    """The docstring: what the program is, and what to replace."""
    one = recipe.situation
    about = ", ".join(part for part in (one.family, one.task, one.regime) if part)
    low, high = recipe.lr_range
    title = "".join(c for c in recipe.name if c.isprintable() and c not in '"\\')
    return f'''"""{title[:80]}: a training loop with the advised recipe, in {form}.

{about}.
Replace `build` and `batches` with your model and your data: they are small stand-ins, so that the program runs as it
is. The best learning rate is expected between {low:.2g} and {high:.2g}.
"""'''


def sizes(recipe: Recipe, total: int, batches: int = 12) -> str:
    """The constants: length of the run, batch size of the stand-in, number of batches."""
    size = recipe.value("batch_size")
    unit = recipe.situation.batch_unit or "samples"
    real = f"  # yours: {written(size)} {unit} per update" if size else ""
    passes = int(recipe.value("accumulate") or 1)
    several = f"\nACCUMULATE = {passes}  # micro-batches per update" if passes > 1 else ""
    return (
        f"STEPS = {total:_}  # updates of the whole run: the length of the schedule\n"
        f"BATCH = {MOST if not size else max(2, min(MOST, int(size)))}{real}\n"
        f"BATCHES = {min(batches * min(passes, 4), total * passes)}  # of the stand-in data{several}"
    )


def precision(recipe: Recipe) -> bool:
    """Whether the forward pass runs in bf16."""
    return recipe.value("precision") == "bf16"


def parts(stand_in: StandIn) -> str:
    return f"{stand_in.model}\n\n\n{stand_in.batches}\n\n\n{stand_in.loss}"


def remark(recipe: Recipe) -> str:
    """The comment behind the optimizer where `stepwell lint` would ask: the recipe means it."""
    if recipe.optimizer == "Adam" and recipe.weight_decay and recipe.decay_form == "l2":
        return "  # noqa: SW901  L2 is meant: see recipe.explain()"
    if recipe.optimizer == "SGD" and recipe.lr > 10:
        return "  # noqa: SW604  such a rate is published for this training"
    return ""
