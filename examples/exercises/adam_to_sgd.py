"""From Adam to SGD in the middle of a run: with the state carried over, without, and by SWATS.

`step.switch` replaces the optimizer and keeps the groups, the count of updates, the schedule and the clipping. The
momentum of SGD is computed from Adam's average of gradients, so that the run does not begin again from rest. `Swats`
decides when to switch, and computes the learning rate of SGD from the steps of Adam.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from exercise import COLORS, finish, options, panels

import stepwell as sw
from stepwell.tasks import digits

ADAM, SGD, MOMENTUM = 3e-3, 0.05, 0.9
WINDOW = 9  # updates in an epoch: the loss is a mean over the last epoch


def train(way: str, updates: int, at: int, seed: int) -> dict[str, Any]:
    """Train one network. `at` is the update at which the runs switch that do not decide themselves."""
    model = digits.task.build(seed)
    if way == "SGD":
        optimizer: Any = sw.SGD(model.named_parameters(), lr=SGD, momentum=MOMENTUM)
    else:
        optimizer = sw.Adam(model.named_parameters(), lr=ADAM)
    if way == "SWATS":
        optimizer = sw.Swats(optimizer, tolerance=1e-3)
    step = sw.Step(optimizer, clip_norm=1.0)
    stream = digits.task.stream(seed)
    log: dict[str, Any] = {"loss": [], "accuracy": [], "switched": None, "lr": None}
    for number in range(updates):
        log["loss"].append(step(digits.loss(model, next(stream))).loss)
        if number % WINDOW == WINDOW - 1:
            log["accuracy"].append(digits.task.measure(model))
        if way in ("switch", "switch, fresh state") and number + 1 == at:
            step.switch("sgd", lr=SGD, momentum=MOMENTUM, carry=way == "switch")
            log["switched"], log["lr"] = number + 1, SGD
        if isinstance(step.optimizer, sw.Swats) and step.optimizer.ready and log["switched"] is None:
            log["switched"], log["lr"] = number + 1, step.optimizer.lr(MOMENTUM)
            step.switch("sgd", lr=step.optimizer, momentum=MOMENTUM)
    return log


def main() -> None:
    chosen = options(__doc__)
    updates, seeds = (27, 1) if chosen.quick else (144, 2)
    at = updates // 3
    figure, (losses, after, accuracies) = panels(1, 3, (13, 4.2))
    numbers: dict[str, Any] = {}
    for color, way in zip(COLORS, ("Adam", "SGD", "switch", "switch, fresh state", "SWATS"), strict=False):
        logs = [train(way, updates, at, seed) for seed in range(seeds)]
        loss = np.mean([log["loss"] for log in logs], axis=0)
        smooth = np.convolve(loss, np.ones(WINDOW) / WINDOW, mode="valid")
        losses.plot(np.arange(WINDOW - 1, updates), smooth, color=color, label=way)
        accuracy = np.mean([log["accuracy"] for log in logs], axis=0)
        accuracies.plot(np.arange(1, len(accuracy) + 1) * WINDOW, accuracy, color=color)
        numbers[f"{way}, final accuracy"] = round(float(accuracy[-1]), 4)
        numbers[f"{way}, loss of the last epoch"] = round(float(smooth[-1]), 4)
        if way.startswith("switch"):
            after.plot(np.arange(updates), loss, color=color, label=way)
            numbers[f"{way}, loss of the 5 updates after"] = round(float(loss[at : at + 5].mean()), 4)
        for log in logs:
            if way == "SWATS":
                numbers[f"SWATS, seed {logs.index(log)}"] = str((log["switched"], log["lr"] and round(log["lr"], 4)))
                if log["switched"]:
                    losses.axvline(log["switched"], color=color, linestyle=":", linewidth=1)
    losses.axvline(at, color="0.6", linestyle="--", linewidth=1)
    losses.set(title="training loss, mean of 9 updates", xlabel="updates", yscale="log")
    losses.legend(fontsize=8)
    after.axvline(at - 0.5, color="0.6", linestyle="--", linewidth=1)
    after.set(title="around the switch", xlabel="updates", xlim=(at - 10, at + 20), yscale="log")
    after.legend(fontsize=8)
    accuracies.set(title="held-out accuracy", xlabel="updates", ylim=None if chosen.quick else (0.8, 1.0))
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
