"""The clip of the gradient's norm."""

from __future__ import annotations

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground, surety


def choose(ground: Ground) -> Choice:
    """The largest norm of the gradient; None for no clipping."""
    votes = ground.votes(lambda row: row.grad_clip, lambda line: line.clip)
    line = ground.line
    family = ground.situation.family
    stated = [vote for vote in votes if vote.share > 0.3]
    near = any(
        n.row.grad_clip is not None and n.row.family == family and n.distance < ground.nearest.distance + 1
        for n in ground.neighbors[:8]
    )
    change = "the measured norms: if every step is clipped, the clip sets the step; if none is, it does nothing"
    if stated and (near or (line is not None and line.clip is not None)):
        value = float(stated[0].value)  # type: ignore[arg-type]
        said = "published near this" if value else "published explicitly without clipping"
        sure = surety(stated[0].share, ground.nearest.distance)
        return Choice(value or None, said, stated[0].sources, sure, change)  # type: ignore[arg-type]
    if ground.situation.architecture in ("recurrent", "causal_lm", "lm") or family in ("lm_pretraining", "rnn_lm"):
        return Choice(1.0, "usual for this kind of model; near configurations do not state a clip", (), "low", change)
    return Choice(None, "near configurations state no clip", (), "medium", change)
