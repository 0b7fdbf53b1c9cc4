"""How many steps each optimizer needs to the held-out loss that tuned AdamW reaches, on `bytes`, with equal tuning.

    python bench/steps_to_target.py [--optimizers adamw,lion] [--trials 8] [--seeds 3] [--jobs 2] [--json FILE]

Every optimizer gets the same number of learning rates from its own published range, one seed for tuning and others for
the result, 1,000 steps with warm-up and cosine decay, or the schedule it is defined for (`stepwell.compare`). The
target is the loss that every seed of tuned AdamW reaches: the highest of its final ones. Counted are the steps of a
whole run until its curve is first at the target, to within one fiftieth of it; a seed that never is counts as later
than all others. A shorter run with a decay of its own would be there sooner: this says how much sooner along one
schedule.

All optimizers: 1 to 3 hours on 2 cores (11 runs each, of 12 to 40 s). It can be interrupted; the same command goes
on from the folder `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bytes_often import task
from measure import machine
from stepwell.compare import Result, Score, compare
from stepwell.compare.progress import Lines
from stepwell.compare.scores import hit_target, scores
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find
from table import Column, Table, decimals

REFERENCE = "AdamW"

COLUMNS = (
    Column("optimizer", "optimizer", left=True),
    Column("lr", "best lr", lambda value: f"{value:g}"),
    Column("edge", "at the edge of its range", left=True),
    Column("final", "final loss", decimals(4)),
    Column("reached", "seeds at the target", left=True),
    Column("steps", "steps to it", decimals(0)),
    Column("sooner", "AdamW's steps over them", decimals(2)),
)


def names(given: str | None) -> tuple[list[str], list[str]]:
    """The optimizers to compare, AdamW among them, and those that are left out because they need a closure."""
    wanted = list(TABLE) if given is None else [find(name.strip()).__name__ for name in given.split(",")]
    left_out = [name for name in wanted if find(name).facts.needs_closure]
    kept = [name for name in wanted if name not in left_out]
    return kept if REFERENCE in kept else [REFERENCE, *kept], left_out


def target_of(result: Result) -> float:
    """The highest final loss of tuned AdamW's seeds.

    Raises UsageError if one of them did not finish.
    """
    score = next(score for score in result.scores if score.optimizer == REFERENCE)
    if score.seeds_finished < result.plan.seeds:
        raise UsageError(
            f"{REFERENCE} finished {score.seeds_finished} of {result.plan.seeds} seeds: there is no target"
        )
    return max(score.values)


def tabulated(result: Result, target: float) -> Table:
    """A row per optimizer, the soonest first; those that never reach the target after all others."""
    scored = scores(result.plan, result.courses, result.outcomes, "min", target)
    adamw = next(score for score in scored if score.optimizer == REFERENCE).steps_to_target
    table = Table(
        f"steps to a held-out loss of {target:.4f} on bytes: {result.plan.trials} learning rates each, "
        f"{result.plan.seeds} seeds, {result.plan.steps} steps",
        COLUMNS,
        notes=_unfinished(result),
    )
    for score in sorted(
        scored, key=lambda score: (score.steps_to_target or float("inf"), score.median or float("inf"))
    ):
        table.add(
            {
                "optimizer": score.optimizer,
                "lr": score.best_lr,
                "edge": score.edge,
                "final": score.median,
                "reached": f"{score.reached} of {score.seeds}",
                "steps": score.steps_to_target,
                "sooner": adamw / score.steps_to_target if adamw and score.steps_to_target else None,
                "each seed": _each_seed(result, score, target),
                "trials": [
                    {"lr": o.lr, "status": o.status, "final": o.final, "error": o.error}
                    for o in result.outcomes
                    if o.optimizer == score.optimizer and o.phase == "tune"
                ],
            }
        )
    return table


def _unfinished(result: Result) -> list[str]:
    """A line for every run at the best rate that did not end, with the reason."""
    return [
        f"{o.optimizer}, seed {o.seed}: {o.status} ({o.error})"
        for o in result.outcomes
        if o.phase == "seed" and o.status != "finished"
    ]


def _each_seed(result: Result, score: Score, target: float) -> list[dict[str, Any]]:
    mine = [o for o in result.outcomes if o.optimizer == score.optimizer and o.phase == "seed"]
    hits = [hit_target(o, "min", target) for o in mine]
    return [
        {"seed": o.seed, "final": o.final, "steps to target": None if hit is None else hit[0]}
        for o, hit in zip(mine, hits, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizers", help="with commas; all that need no closure without it")
    parser.add_argument("--trials", type=int, default=8, help="learning rates of each")
    parser.add_argument("--seeds", type=int, default=3, help="runs at the best of them")
    parser.add_argument("--steps", type=int, default=task.steps)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", default="runs/steps-to-target", help="the folder that keeps every run")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    try:
        wanted, left_out = names(options.optimizers)
        sizes = {"trials": options.trials, "seeds": options.seeds, "steps": options.steps, "jobs": options.jobs}
        result = compare(
            str(Path(__file__).with_name("bytes_often.py")), wanted, **sizes, out=options.out, progress=Lines()
        )
        if not result.complete:
            sys.exit(f"stopped early; the same command goes on from {options.out}")
        table = tabulated(result, target_of(result))
    except UsageError as error:
        sys.exit(str(error))
    if left_out:
        table.notes.append(f"left out, they need a closure: {', '.join(left_out)}")
    facts = machine("cpu")
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"\n{table.text()}")
    if options.json:
        figures = {"machine": facts, "settings": {**sizes, "optimizers": wanted}, **table.to_json()}
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
