"""What an estimate of the Hessian costs: processor time of an update with one, against an update without.

    python bench/estimators.py [--rounds 3]

Alternating, one thread, medians of 11 updates; processor time, because other processes take the cores away. The bytes
task computes attention without its fused kernel, which has no second derivative.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import stepwell as sw
from stepwell.tasks import find

UPDATES, LEFT_OUT = 14, 3  # kernels are read from disk and memory is found in the first ones


def forward(name: str, model: Any, batch: Any) -> tuple[Any, Any]:
    """Logits and loss of a task."""
    if name == "bytes":
        logits = model(batch[:, :-1])
        return logits, functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    logits = model(batch[0])
    return logits, functional.cross_entropy(logits, batch[1])


def seconds(name: str, estimator: Any) -> float:
    """Of one update, the forward pass included."""
    task = find(name)
    model, stream = task.build(0), task.stream(0)
    optimizer = sw.AdamW(model.parameters()) if estimator is None else sw.Sophia(model.parameters())
    step = sw.Step(optimizer, estimator=estimator)
    times = []
    for _ in range(UPDATES):
        batch = next(stream)
        began = time.process_time()
        with sdpa_kernel(SDPBackend.MATH):
            logits, loss = forward(name, model, batch)
            step(loss, **({"logits": logits} if estimator is not None and estimator.takes_logits else {}))
        times.append(time.process_time() - began)
    return statistics.median(times[LEFT_OUT:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for name in ("digits", "bytes"):
        ratios: dict[str, list[float]] = {"GaussNewtonBartlett": [], "Hutchinson": []}
        for _ in range(rounds):
            plain = seconds(name, None)
            for kind, found in ratios.items():
                found.append(seconds(name, getattr(sw, kind)(every=1)) / plain)
        for kind, found in ratios.items():
            low, high = min(found), max(found)
            print(f"{name}: an update with {kind} takes {low:.2f} to {high:.2f} times one of AdamW")


if __name__ == "__main__":
    main()
