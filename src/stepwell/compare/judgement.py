"""The reservations about a comparison, as findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.compare import checks
from stepwell.compare.scores import Score
from stepwell.findings import Finding, Run, Trial, gravest_first

if TYPE_CHECKING:
    from stepwell.compare.result import Result


def findings(result: Result) -> list[Finding]:
    """The reservations about a result, the most severe first; empty if there are none."""
    found: list[Finding] = []
    for score in result.scores:
        found += _tuning(result, score)
        found += _seeds(score)
        found += _evaluations(result, score)
    if not result.complete:
        seen = f"{len(result.outcomes)} of {planned(result)} trials are done"
        found.append(Finding(check=checks.INCOMPLETE, place=Run(), seen=seen))
    found += _ranking(result)
    return gravest_first(found)


def planned(result: Result) -> int:
    """The number of trials of the whole plan."""
    return result.plan.planned


def _tuning(result: Result, score: Score) -> list[Finding]:
    found = []
    place, option = Trial(score.optimizer), f"--lr-range {score.optimizer.lower()}="
    errors = [o.error for o in result.outcomes if o.optimizer == score.optimizer and o.status == "crashed"]
    if errors:
        seen = f"{len(errors)} trial(s) crashed: {errors[0]}"
        found.append(Finding(check=checks.CRASHED, place=place, seen=seen))
    own = next((one for one in result.courses if one.trials and one.trials[0].optimizer == score.optimizer), None)
    if own is not None and own.tuned and score.best_lr is None:
        rates = [trial.lr for trial in own.trials]
        seen = f"no learning rate from {min(rates):g} to {max(rates):g} finished"
        instead = f"give another range of learning rates: {option}low:high"
        found.append(Finding(check=checks.NO_RATE, place=place, seen=seen, instead=instead))
    for name, end in score.edges.items():
        best = score.best_lr if name == "lr" else score.settings.get(name)
        assert best is not None
        side = "lowest" if end == "low" else "highest"
        seen = f"its best {name} {best:g} is the {side} of those tried"
        if end == "high" and not is_last(result, score, name, best):
            seen = "no rate trains it much, and the highest one trains it the most"
        more = f"the range widened within the budget of {result.plan.trials} trials" if result.plan.widen else (
            "the range does not widen")  # fmt: skip
        instead = f"{more}: give more --trials, which reuses all that is there"
        if not result.plan.widen:
            instead = f"{more}: leave out --no-widen" + (
                f", or give a wider range: {option}LOW:HIGH" if name == "lr" else "")  # fmt: skip
        found.append(Finding(check=checks.EDGE, place=place, seen=seen, instead=instead))
    return found


def is_last(result: Result, score: Score, name: str, best: float) -> bool:
    """Whether no higher value was tried."""
    own = next(one for one in result.courses if one.trials and one.trials[0].optimizer == score.optimizer)
    return best >= max(value for stage in own.stages if stage.axis.name == name for value in stage.tried)


def _seeds(score: Score) -> list[Finding]:
    lost = score.seeds - score.seeds_finished
    if not lost:
        return []
    seen = f"{lost} of {score.seeds} seeds did not finish"
    return [Finding(check=checks.SEEDS_LOST, place=Trial(score.optimizer), seen=seen)]


def _evaluations(result: Result, score: Score) -> list[Finding]:
    done = [o for o in result.outcomes if o.optimizer == score.optimizer and o.status == "finished" and o.gradients]
    steps = sum(o.steps[-1] for o in done)
    per_step = sum(o.gradients[-1] for o in done) / steps if steps else 0.0
    if per_step < 1.01:
        return []
    return [
        Finding(
            check=checks.MORE_GRADIENTS,
            place=Trial(score.optimizer),
            seen=f"it takes {per_step:.3g} gradients per step",
            instead="compare the gradients to the target, or give the other optimizers an equal number of gradients: a "
            f"separate run with --steps times {per_step:.3g}",
        )
    ]


def _ranking(result: Result) -> list[Finding]:
    found = []
    ranked = [score for score in result.scores if score.median is not None]
    if result.plan.seeds < 3:
        seen = f"{result.plan.seeds} seed(s) for each optimizer"
        found.append(Finding(check=checks.FEW_SEEDS, place=Run(), seen=seen))
    elif len(ranked) > 1:
        level = [score.optimizer for score in ranked[1:] if overlap(ranked[0], score)]
        if level:
            seen = f"the seeds of {ranked[0].optimizer} overlap with those of {listed(level)}"
            found.append(Finding(check=checks.OVERLAP, place=Run(), seen=seen))
    target = result.task["target"]
    missed = [score.optimizer for score in ranked if not score.reached]
    if target is not None and missed and result.complete:
        seen = f"the target {target:g} was not reached by {listed(missed)}"
        found.append(Finding(check=checks.TARGET_MISSED, place=Run(), seen=seen))
    return found


def overlap(one: Score, other: Score) -> bool:
    """Whether the ranges of the final metrics of two optimizers overlap."""
    return max(min(one.values), min(other.values)) <= min(max(one.values), max(other.values))


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
