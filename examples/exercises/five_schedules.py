"""Five schedules on one small residual network: none, steps, cosine, one cycle, warmup and cosine.

All runs use SGD with momentum 0.9 on scikit-learn's digits (600 images of 8 x 8 to train on, 1,197 held out). All
schedules have the same peak rate, but for the one cycle: its peak is the answer of the learning-rate finder.
"""

from __future__ import annotations

import numpy as np
import torch
from exercise import COLORS, finish, options, panels

import stepwell as sw
from stepwell.schedules import one_cycle
from stepwell.schedules import step as stairs
from stepwell.tasks import digits

LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
EPOCH = 9  # updates in a pass over the 600 images
GOAL = 0.95


def found_lr() -> float:
    """The answer of the learning-rate range test for the network of seed 0."""
    model = digits.model(0)
    optimizer = sw.SGD(model.named_parameters(), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    found = sw.find_lr(
        model, optimizer, digits.batches, digits.loss, iterations=60, orders=2, attempts=2, progress=False
    )
    print(found)
    return found.suggestion if found.suggestion is not None else LR


def train(schedule: sw.Schedule | dict[str, sw.Schedule], lr: float, seed: int, epochs: int) -> dict[str, list[float]]:
    """Train one network: the loss and the rate of every update, and the held-out accuracy after every epoch."""
    model = digits.task.build(seed)
    optimizer = sw.SGD(model.named_parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    step = sw.Step(optimizer, schedule, total_steps=epochs * EPOCH)
    log: dict[str, list[float]] = {"loss": [], "lr": [], "accuracy": []}
    for epoch in range(epochs):
        losses = []
        for batch in digits.batches(1000 * seed + epoch):
            done = step(digits.loss(model, batch))
            log["lr"].append(done.lr)
            losses.append(done.loss or 0.0)
        log["loss"].append(float(np.mean(losses)))
        log["accuracy"].append(digits.task.measure(model))
    return log


def main() -> None:
    chosen = options(__doc__)
    epochs, seeds = (2, 1) if chosen.quick else (12, 2)
    updates = epochs * EPOCH
    peak = LR if chosen.quick else found_lr()
    schedules: dict[str, tuple[sw.Schedule | dict[str, sw.Schedule], float]] = {
        "no schedule": (sw.constant(), LR),
        "steps, a tenth after each third": (stairs(updates // 3, gamma=0.1), LR),
        "cosine": (sw.cosine(to=0.0), LR),
        f"one cycle, peak {peak:.2g} by the finder": (one_cycle().with_momentum(0.85, 0.95), peak),
        "warmup of a tenth, then cosine": (sw.warmup(0.1).then(sw.cosine(to=0.0)), LR),
    }

    figure, (rates, losses, accuracies) = panels(1, 3, (13, 4.2))
    numbers: dict[str, float | int | None] = {"peak of the one cycle": peak}
    epoch = np.arange(1, epochs + 1)
    for color, (name, (schedule, lr)) in zip(COLORS, schedules.items(), strict=False):
        logs = [train(schedule, lr, seed, epochs) for seed in range(seeds)]
        loss, accuracy = (np.mean([log[what] for log in logs], axis=0) for what in ("loss", "accuracy"))
        rates.plot(np.arange(updates) / EPOCH, logs[0]["lr"], color=color)
        losses.plot(epoch, loss, color=color, label=name)
        accuracies.plot(epoch, accuracy, color=color)
        for log in logs:
            accuracies.plot(epoch, log["accuracy"], color=color, linewidth=0.6, alpha=0.5)
        reached = np.flatnonzero(accuracy >= GOAL)
        numbers[f"{name}, final accuracy, mean"] = round(float(accuracy[-1]), 4)
        numbers[f"{name}, final accuracy, seeds"] = str([round(log["accuracy"][-1], 4) for log in logs])
        numbers[f"{name}, epochs to {GOAL}"] = int(epoch[reached[0]]) if len(reached) else None
    rates.set(title="learning rate", xlabel="epoch", ylim=(0, None))
    losses.set(title="training loss, mean of the epoch", xlabel="epoch", yscale="log")
    losses.legend(fontsize=8)
    accuracies.set(title="held-out accuracy (thin: seeds)", xlabel="epoch")
    accuracies.set_ylim(bottom=None if chosen.quick else 0.8)
    accuracies.axhline(GOAL, color="0.5", linestyle="--", linewidth=1)
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
