"""Does the finder find? Training at what `find_lr` suggests against a grid of 12 learning rates, on two tasks.

    python bench/finder.py [--tasks digits] [--steps 300] [--json FILE]

For SGD, AdamW and Lion: one finder (99 updates), then one run at its suggestion and one at each of 12 rates, evenly
spread in the logarithm over the optimizer's usual range for the task; all with the same seed, warm-up over 5 % and
cosine decay to 0. Held against each other is the task's metric at the end (accuracy, or loss).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numba
import torch

from measure import machine
from stepwell import optimizers, tasks
from stepwell.errors import UsageError
from stepwell.finder import find_lr
from stepwell.schedules import cosine, warmup
from stepwell.step import Step
from stepwell.tasks import Task

CONTENDERS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "AdamW": {}, "Lion": {}}
POINTS = 12


def train(task: Task, name: str, lr: float, steps: int, seed: int) -> float:
    """The metric after training at a peak of `lr`; NaN if it diverged."""
    model = task.build(seed)
    model.train()
    optimizer = optimizers.find(name)(model.named_parameters(), lr=lr, **CONTENDERS[name])
    step = Step(optimizer, warmup(0.05).then(cosine()), total_steps=steps)
    stream = task.stream(seed)
    for _ in range(steps):
        done = step(task.loss(model, next(stream)))
        if done.skipped:
            return float("nan")
    return task.measure(model)


def measure(task: Task, name: str, steps: int, seed: int) -> dict[str, Any]:
    model = task.build(seed)
    start = time.perf_counter()
    optimizer = optimizers.find(name)(model.named_parameters(), **CONTENDERS[name])
    found = find_lr(model, optimizer, task.batches, task.loss, seed=seed)
    seconds = time.perf_counter() - start
    if found.suggestion is None:
        raise UsageError(f"{task.name}, {name}: {found}")
    low, high = optimizers.find(name).facts.lr_range(task.family)
    rates = [low * (high / low) ** (i / (POINTS - 1)) for i in range(POINTS)]
    grid = [(lr, train(task, name, lr, steps, seed)) for lr in rates]
    finite = [(lr, value) for lr, value in grid if value == value]
    best = (max if task.metric.direction == "max" else min)(finite, key=lambda pair: pair[1])
    rules = {rule: train(task, name, lr, steps, seed) for rule, lr in found.suggestions.items() if rule == found.rule}
    at = rules[found.rule]
    away = (best[1] - at) / abs(best[1]) if task.metric.direction == "max" else (at - best[1]) / abs(best[1])
    return {
        "task": task.name, "optimizer": name, "suggestion": found.suggestion, "spread": found.spread,
        "suggestions": dict(found.suggestions), "metric": at, "best lr": best[0], "best": best[1], "away": away,
        "grid": grid, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="digits,bytes")
    parser.add_argument("--optimizers", default=",".join(CONTENDERS))
    parser.add_argument("--steps", type=int, default=300, help="in a run, at most the task's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in machine("cpu").items()))
    print(f"{'task':<8}{'optimizer':<10}{'suggested':>10}{'its spread':>20}{'metric':>9}", end="")
    print(f"{'best lr':>9}{'best':>8}{'away':>8}")
    rows = []
    for task in map(tasks.find, options.tasks.split(",")):
        for name in options.optimizers.split(","):
            row = measure(task, name, min(options.steps, task.steps), options.seed)
            rows.append(row)
            spread = f"{row['spread'][0]:.2g} to {row['spread'][1]:.2g}"
            print(
                f"{row['task']:<8}{row['optimizer']:<10}{row['suggestion']:>10.2g}{spread:>20}{row['metric']:>9.4f}"
                f"{row['best lr']:>9.2g}{row['best']:>8.4f}{row['away']:>8.1%}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine("cpu"), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
