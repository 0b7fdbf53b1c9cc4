"""What a reader of a comparison must know before believing it: the honest notes, as findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.compare.plan import learning_rates
from stepwell.compare.scores import Score
from stepwell.findings import Finding, gravest_first

if TYPE_CHECKING:
    from stepwell.compare.run import Result


def findings(result: Result) -> list[Finding]:
    """The reservations about a result, the gravest first; empty for a clean one."""
    found: list[Finding] = []
    for score in result.scores:
        found += _tuning(result, score)
        found += _seeds(result, score)
        found += _evaluations(result, score)
    if not result.complete:
        found.append(
            Finding(
                "C01", "warning", "this run",
                f"{len(result.outcomes)} of {planned(result)} trials are done",
                "the figures below may change with the rest",
                "run the same command again: it goes on from here",
            )
        )  # fmt: skip
    found += _ranking(result)
    return gravest_first(found)


def planned(result: Result) -> int:
    """How many trials the whole plan has."""
    return len(result.plan.contenders) * (result.plan.trials + result.plan.seeds)


def _tuning(result: Result, score: Score) -> list[Finding]:
    found = []
    contender = next(c for c in result.plan.contenders if c.name == score.optimizer)
    errors = [o.error for o in result.outcomes if o.optimizer == score.optimizer and o.status == "crashed"]
    if errors:
        found.append(
            Finding(
                "C02", "error", score.optimizer, f"{len(errors)} trial(s) crashed: {errors[0]}",
                "its budget was smaller than that of the others",
                "mend the cause, delete these lines from trials.jsonl and run the same command again",
            )
        )  # fmt: skip
    if score.trials == result.plan.trials and score.best_lr is None:
        found.append(
            Finding(
                "C03", "error", score.optimizer,
                f"no learning rate from {contender.low:g} to {contender.high:g} finished",
                "it has no score",
                f"give it a range that suits the task: --lr-range {score.optimizer.lower()}=low:high",
            )
        )  # fmt: skip
    if score.edge is not None:
        rates = learning_rates(contender.low, contender.high, result.plan.trials)
        low, high = (
            (contender.low / 10, contender.high) if score.edge == "low" else (contender.low, contender.high * 10)
        )
        end = "lowest" if score.edge == "low" else "highest"
        found.append(
            Finding(
                "C04", "warning", score.optimizer,
                f"its best lr {score.best_lr:g} is the {end} of the {len(rates)} tried",
                "a better one may lie outside, so its score may be too low",
                f"widen the range: --lr-range {score.optimizer.lower()}={low:.2g}:{high:.2g}",
            )
        )  # fmt: skip
    return found


def _seeds(result: Result, score: Score) -> list[Finding]:
    lost = score.seeds - score.seeds_finished
    if not lost:
        return []
    return [
        Finding(
            "C05", "warning", score.optimizer, f"{lost} of {score.seeds} seeds did not finish",
            "its median is over the others only, which flatters it",
            "read its score as unstable at this learning rate; a lower one, or clipping, may hold",
        )
    ]  # fmt: skip


def _evaluations(result: Result, score: Score) -> list[Finding]:
    done = [o for o in result.outcomes if o.optimizer == score.optimizer and o.status == "finished"]
    steps = sum(o.steps[-1] for o in done)
    per_step = sum(o.evaluations for o in done) / steps if steps else 0.0
    if per_step < 1.01:
        return []
    return [
        Finding(
            "C09", "note", score.optimizer, f"it takes {per_step:.3g} gradients per step",
            "in the same number of steps it sees more gradients than the others, and takes longer",
            "compare it by the seconds to the target, or give the others as many gradients: a run of their own with "
            f"--steps times {per_step:.3g}",
        )
    ]  # fmt: skip


def _ranking(result: Result) -> list[Finding]:
    found = []
    ranked = [score for score in result.scores if score.median is not None]
    if result.plan.seeds < 3:
        found.append(
            Finding(
                "C06", "note", "this run", f"{result.plan.seeds} seed(s) for each optimizer",
                "the spread between seeds is not known, so small differences mean nothing",
                "give --seeds 3 or more",
            )
        )  # fmt: skip
    elif len(ranked) > 1:
        level = [score.optimizer for score in ranked[1:] if overlap(ranked[0], score)]
        if level:
            found.append(
                Finding(
                    "C07", "note", "this run",
                    f"the seeds of {ranked[0].optimizer} overlap with those of {listed(level)}",
                    "the order among them may be chance",
                    "give more --seeds before choosing between them by this metric",
                )
            )  # fmt: skip
    target = result.task["target"]
    missed = [score.optimizer for score in ranked if not score.reached]
    if target is not None and missed and result.complete:
        found.append(
            Finding(
                "C08", "note", "this run", f"the target {target:g} was not reached by {listed(missed)}",
                "steps to the target are empty for them",
                "give more --steps, or read the final metric only",
            )
        )  # fmt: skip
    return found


def overlap(one: Score, other: Score) -> bool:
    """Whether the ranges of final metrics over the seeds of two optimizers meet."""
    return max(min(one.values), min(other.values)) <= min(max(one.values), max(other.values))


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
