"""The schedule of the learning rate, its end, and the warmup."""

from __future__ import annotations

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground, surety
from stepwell.advisor.published import Published, kind_of, schedule_kind

_MOST_WARMUP = 0.1  # of the run: the tuning playbook's limit

# Optimizers that replace the schedule: averages of the iterates, or step sizes of the rule itself.
_OWN = {"schedule-free": "constant", "l-bfgs": "constant"}


def choose(ground: Ground, optimizer: str) -> dict[str, Choice]:
    """schedule (its kind), lr_end (as a fraction of the peak) and warmup (steps, or a fraction of the run)."""
    kind = kind_of(optimizer)
    if kind in _OWN:
        said = "the averages of this optimizer replace a decay" if kind == "schedule-free" else "line search"
        schedule = Choice(
            _OWN[kind], said, ("facebookresearch/schedule_free",) if kind == "schedule-free" else (), "high"
        )
    else:
        votes = ground.votes(lambda row: schedule_kind(row.schedule), lambda line: line.schedule)
        best = votes[0]
        near = [n.distance for n in ground.neighbors if schedule_kind(n.row.schedule) == best.value]
        agreed = ground.line is not None and ground.line.schedule == best.value
        sure = surety(best.share, 1.5 if agreed else near[0])
        others = ", ".join(f"{vote.value} {vote.share:.0%}" for vote in votes[1:3])
        schedule = Choice(
            str(best.value),
            f"published near this ({best.share:.0%} of the vote{'; ' + others if others else ''})",
            best.sources,
            sure,  # type: ignore[arg-type]
            "a run of unknown length: then a constant rate and a cooldown at the end (2405.18392)",
        )
    return {"schedule": schedule, "lr_end": _end(ground, str(schedule.value)), "warmup": _warmup(ground, kind)}


def _end(ground: Ground, schedule: str) -> Choice:
    if schedule not in ("cosine", "linear", "poly", "hold", "one_cycle"):
        return Choice(None, "this schedule has no end value", (), "high")
    votes = ground.votes(
        lambda row: _ended(row) if schedule_kind(row.schedule) == schedule else None, lambda line: None
    )
    if votes and schedule == "cosine":
        return Choice(votes[0].value, "published near this, as a fraction of the peak", votes[0].sources, "medium")  # type: ignore[arg-type]
    if ground.situation.family in ("lm_pretraining", "new_optimizer") and schedule in ("cosine", "linear"):
        return Choice(0.1, "language models decay to a tenth of the peak", ("LLaMA, GPT-3, MPT, OLMo-1",), "medium")
    return Choice(0.0, "to zero", (), "medium")


def _ended(row: Published) -> float | None:
    if row.lr and row.lr_end is not None:
        return float(f"{row.lr_end / row.lr:.2g}")
    return 0.1 if row.schedule_detail and "to 10%" in row.schedule_detail else None


def _fraction(row: Published) -> float | None:
    """The warmup of a configuration as a fraction of its run."""
    if row.warmup_frac is not None:
        return row.warmup_frac
    if row.warmup_epochs is not None and row.total_epochs:
        return row.warmup_epochs / row.total_epochs
    if row.warmup_steps is not None and row.total_steps:
        return row.warmup_steps / row.total_steps
    return None


def _warmup(ground: Ground, kind: str) -> Choice:
    updates = ground.situation.updates
    found: list[tuple[float, float, str]] = []
    for neighbor, weight in zip(ground.neighbors, ground.weights, strict=True):
        row, fraction = neighbor.row, _fraction(neighbor.row)
        if fraction is None and row.warmup_steps is not None and updates:
            fraction = row.warmup_steps / updates
        if fraction is not None and row.family == ground.situation.family:
            found.append((min(fraction, _MOST_WARMUP * 2), weight, row.id))
    found.sort()
    total = sum(weight for _, weight, _ in found)
    change = "a larger batch: the warmup keeps its number of samples; a loss that jumps at the start takes a longer one"
    if total > 0.05 * sum(ground.weights):
        passed = 0.0
        for fraction, weight, _ in found:
            passed += weight
            if passed >= total / 2:
                sources = tuple(name for _, _, name in sorted(found, key=lambda item: -item[1])[:3])
                value = round(min(fraction, _MOST_WARMUP), 4)
                steps: float = max(1, round(value * updates)) if updates and value else value
                return Choice(steps, "published near this, as a share of the run", sources, "medium", change)
    if ground.situation.family in ("gan", "rl", "gnn", "recsys", "tabular_timeseries", "image_restoration"):
        return Choice(0, "published near this without warmup", (), "medium", change)
    if kind in ("adam", "lamb", "lion"):
        steps = min(2000, round(_MOST_WARMUP * updates)) if updates else 0.02
        return Choice(steps, "2 / (1 - beta2) steps, at most a tenth of the run", ("1910.04209",), "low", change)
    return Choice(0, "near configurations state no warmup", (), "low", change)
