"""What `Step` costs over the bare calls, on the training step of the `bytes` task, in one process.

    python bench/step_overhead.py [--device cpu] [--rounds 40] [--json FILE]

Bare: forward, backward, `optimizer.step()`, `zero_grad()`. Against it: a `Step` without and with a schedule and
clipping, beside the bare calls with `clip_grad_norm_` and a torch scheduler. Two models are trained in turn on the
same batches, so that each is as cold as it would be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numba
import torch

import stepwell
from measure import machine, synchronize
from stepwell.schedules import cosine, warmup
from stepwell.step import Step
from stepwell.tasks import find

STEPS = 10_000  # the horizon, beyond what is run


def loops(device: str) -> dict[str, Callable[[Any], None]]:
    """What does one training step with a batch, by name."""
    task = find("bytes")

    def bare(clipped: bool) -> Callable[[Any], None]:
        model = task.build(0).to(device)
        optimizer = stepwell.AdamW(model.named_parameters(), lr=1e-3)
        schedule = warmup(500).then(cosine(STEPS - 500))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if clipped else None

        def step(batch: Any) -> None:
            task.loss(model, batch).backward()
            if clipped:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def stepped(**options: Any) -> Callable[[Any], None]:
        model = task.build(0).to(device)
        step = Step(stepwell.AdamW(model.named_parameters(), lr=1e-3), **options)
        return lambda batch: step(task.loss(model, batch)) and None

    return {
        "bare calls": bare(clipped=False),
        "Step": stepped(),
        "bare calls, clipped, scheduled": bare(clipped=True),
        "Step, clipped, scheduled": stepped(clip_norm=1.0, schedule=warmup(500).then(cosine(STEPS - 500))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--inner", type=int, default=5, help="steps of each loop in a round")
    parser.add_argument("--threads", type=int, default=1, help="one is steadier where others use the machine, too")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    figures: dict[str, Any] = {"machine": machine(options.device)}
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    stream = find("bytes").stream(0)
    made = loops(options.device)
    times: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for turn in range(options.rounds + 2):
        batches = [next(stream).to(options.device) for _ in range(options.inner)]
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            synchronize(options.device)
            start = time.perf_counter()
            for batch in batches:
                made[name](batch)
            synchronize(options.device)
            if turn >= 2:
                times[name].append((time.perf_counter() - start) / options.inner)
    for name, against in (("Step", "bare calls"), ("Step, clipped, scheduled", "bare calls, clipped, scheduled")):
        pairs = [a / b for a, b in zip(times[name], times[against], strict=True)]
        figures[name] = {
            "ms": statistics.median(times[name]) * 1e3,
            "bare ms": statistics.median(times[against]) * 1e3,
            "ratio of medians": statistics.median(times[name]) / statistics.median(times[against]),
            "ratio of the fastest": min(times[name]) / min(times[against]),
            "median ratio of a round": statistics.median(pairs),
        }
        print(f"{name:<28}" + "   ".join(f"{label} {value:.3f}" for label, value in figures[name].items()))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
