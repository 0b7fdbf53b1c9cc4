"""What a schedule costs per update: `schedules.apply` over many parameter groups, and the Scheduler around it.

    python bench/schedules.py [--groups 300]

Printed are medians in microseconds per group and update.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import stepwell as sw
from stepwell.schedules import Scheduler, apply, cosine, initial_values, linear, resolve, warmup

UPDATES = 10_000


def cases(groups: int) -> dict[str, dict[str, sw.Schedule]]:
    """Schedules by what they drive and how."""
    lr, fall = warmup(500).then(cosine(UPDATES - 500, to=0.1)), linear(UPDATES, to=0.5)
    return {
        "lr": {"lr": lr},
        "lr and weight_decay": {"lr": lr, "weight_decay": fall},
        "lr and betas": {"lr": lr, "betas": fall},
        "lr and beta2": {"lr": lr, "beta2": fall},
        "two factors by name": {"lr": lr.per_group({"layer 1*": 0.5, "layer 2*": fall})},
        "a factor for each group": {"lr": lr.per_group({i: 0.99**i for i in range(groups)})},
    }


def median(function: Callable[[int], None], rounds: int = 100) -> float:
    """Seconds of one call."""
    times = []
    for number in range(rounds):
        start = time.perf_counter()
        function(number)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=300)
    count = parser.parse_args().groups
    torch.set_num_threads(1)
    print(f"{'microseconds per group, ' + str(count) + ' groups':<34}{'apply':>8}{'Scheduler.step':>16}")
    for name, schedule in cases(count).items():
        groups = [{"params": [torch.nn.Parameter(torch.ones(3))], "name": f"layer {i}"} for i in range(count)]
        optimizer = sw.AdamW(groups, lr=1e-3, weight_decay=0.1)
        resolved = resolve(schedule, UPDATES)
        initial = initial_values(resolved, optimizer.param_groups)
        plain = median(lambda k, s=resolved, o=optimizer, i=initial: apply(s, o.param_groups, i, k))
        scheduler = Scheduler(optimizer, schedule, total_steps=UPDATES)
        optimizer.step()
        behind = median(lambda k, s=scheduler: s.step())
        print(f"{name:<34}{1e6 * plain / count:>8.2f}{1e6 * behind / count:>16.2f}")


if __name__ == "__main__":
    main()
