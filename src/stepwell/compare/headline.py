"""The result of a comparison in one or two sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.compare.judgement import is_last, listed, overlap

if TYPE_CHECKING:
    from stepwell.compare.result import Result
    from stepwell.compare.scores import Score


def shown(value: float) -> str:
    """A metric with four significant digits."""
    return f"{value:.4g}"


def headline(result: Result) -> str:
    """What is known. No winner is named while a best value lies at an edge or seeds overlap."""
    ranked = [score for score in result.scores if score.median is not None]
    if not ranked:
        return "No optimizer has finished a final run yet."
    metric = result.task["metric"]
    sure = [score for score in ranked if not score.edges]
    rest = _not_known(result)
    if not sure:
        return f"No optimizer is tuned yet: {rest}."
    best = sure[0]
    assert best.median is not None
    level = [score for score in sure[1:] if overlap(best, score)]
    others = [score for score in sure[1:] if score not in level]
    if level:
        sharing = listed([score.optimizer for score in [best, *level]])
        text = f"{sharing} share the first place: their seeds overlap at {metric} {_span([best, *level])}"
    elif len(sure) == 1 or rest or not result.complete:
        text = f"{best.optimizer} is at a median {metric} of {shown(best.median)} over {_seeds(best)}"
    else:
        text = f"{best.optimizer} has the best median {metric}: {shown(best.median)} over {_seeds(best)}"
    if others and others[0].median is not None:
        verb = "follows" if not rest else "is behind"
        text += f"; {others[0].optimizer} {verb} with {shown(others[0].median)}"
    return text + (f". Not known yet: {rest}." if rest else ".")


def _not_known(result: Result) -> str:
    """What keeps an optimizer from being ranked, in words; "" if nothing does."""
    said = []
    for score in result.scores:
        if score.edges:
            name, end = next(iter(score.edges.items()))
            value = score.best_lr if name == "lr" else score.settings[name]
            side = "lowest" if end == "low" else "highest"
            if end == "high" and not is_last(result, score, name, value or 0.0):
                said.append(f"{score.optimizer}, which no rate tried trains much")
            else:
                said.append(f"{score.optimizer}, whose best {name} {value:g} is the {side} tried")
        elif score.median is None:
            said.append(f"{score.optimizer}, which has no final run")
    return listed(said) if said else ""


def _span(level: Sequence[Score]) -> str:
    medians = [score.median for score in level if score.median is not None]
    low, high = shown(min(medians)), shown(max(medians))
    return low if low == high else f"{low} to {high}"


def _seeds(score: Score) -> str:
    count = score.seeds_finished
    return f"{count} seed{'s' if count != 1 else ''}"
