"""An average of the weights (EMA)."""

from __future__ import annotations

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground


def choose(ground: Ground) -> Choice:
    """The decay of an exponential average of the weights; None for no average."""
    line = ground.line
    if ground.situation.family == "ssl_vision":
        return Choice(None, "the averages of this family are its teachers, a part of the model", (), "medium")
    total = sum(ground.weights) + ground.weight
    votes = ground.votes(lambda row: row.ema_decay, lambda line: line.ema)
    stated = sum(w for n, w in zip(ground.neighbors, ground.weights, strict=True) if n.row.ema_decay is not None)
    stated += ground.weight if line is not None and line.ema is not None else 0.0
    change = "a short run: the half-life must be far shorter than the run"
    if votes and stated > 0.4 * total:
        value = float(votes[0].value)  # type: ignore[arg-type]
        updates = ground.situation.updates
        if updates and 1 / (1 - value) > updates / 5:
            shorter = round(1 - 5 / max(updates, 10), 5)
            return Choice(
                shorter, f"published {value:g} is too long for {updates:g} updates", votes[0].sources, "low", change
            )
        return Choice(value, "published near this", votes[0].sources, "medium", change)
    return Choice(None, "near configurations state no average", (), "medium", change)
