"""A schedule that counts epochs is stepped at every update."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R32",
    name="schedule-too-fast",
    severity="error",
    certainty="certain",
    looks_for="a schedule that counts epochs is stepped at every update",
    why="the learning rate runs through the whole schedule within the first epoch, and training stands still, "
    "or swings, from then on",
    instead="call scheduler.step() once for each epoch, or give the schedule its horizon in updates",
    silent_when="the horizon is that of the updates, or the schedule repeats by design (warm restarts, cycles)",
    example_bad="scheduler = StepLR(optimizer, 5)  # of epochs; and scheduler.step() in the loop over batches",
    example_good="for epoch in range(90): train_epoch(); scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
)
TIER = 0
EARLIEST = 20
HOLDS = 1


def find(record: Record) -> Finding | None:
    for one in record.schedules:
        updates = record.updates[one.optimizer]
        if (
            one.calls < 0.8 * updates
            or updates < 20
            or one.kind in ("CyclicLR", "CosineAnnealingWarmRestarts", "ReduceLROnPlateau", "LambdaLR")
        ):
            continue
        rates = [max(row) for row in record.lr[one.optimizer]]
        top, now = max(rates), rates[-1]
        if (
            one.kind == "CosineAnnealingLR"
            and one.horizon
            and one.calls > 1.5 * one.horizon
            and updates > one.horizon + 10
        ):
            return said(
                CHECK,
                record,
                (
                    f"CosineAnnealingLR has T_max={one.horizon} and was stepped "
                    f"{one.calls} times in {updates} updates: the rate goes up again"
                ),
            )
        small = (
            one.horizon is not None and one.horizon <= 30 and one.kind in ("StepLR", "MultiStepLR")
        ) or one.kind == "ExponentialLR"
        if small and now < 0.02 * top and one.calls > 2 * (one.horizon or 1):
            horizon = f" (a step for every {one.horizon})" if one.horizon else ""
            return said(
                CHECK,
                record,
                (
                    f"{one.kind}{horizon} was stepped at each of {updates} "
                    f"updates, and the rate has fallen from {top:.3g} to {now:.3g}"
                ),
            )
        over = one.kind in ("LinearLR", "PolynomialLR") and one.horizon is not None and one.calls > 2 * one.horizon
        if over and rates[0] == top and now < 0.6 * top:
            return said(
                CHECK,
                record,
                f"{one.kind} was stepped at each of {updates} updates and was over after {one.horizon} of them: the "
                f"rate has fallen from {top:.3g} to {now:.3g}",
            )
        idle = sum(rate < 1e-4 * top for rate in rates[-30:])
        if now < 1e-4 * top and idle >= 20:
            return said(
                CHECK,
                record,
                (
                    f"{one.kind} was stepped at each of {updates} updates, and the rate "
                    f"has fallen from {top:.3g} to {now:.3g}: training stands still"
                ),
            )
    return None


BAD = (
    Trace(schedule={"kind": "CosineAnnealingLR", "horizon": 60}),
    Trace(schedule={"kind": "StepLR", "horizon": 5}, lr=lambda step: 0.1 * 0.5 ** (step // 5)),
    Trace(schedule={"kind": "ExponentialLR"}, lr=lambda step: 0.1 * 0.961**step),
    Trace(schedule={"kind": "LinearLR", "horizon": 40}, lr=lambda step: 0.1 * max(0.5, 1 - step / 80)),
    Trace(schedule={"kind": "OneCycleLR", "horizon": 80}, lr=lambda step: 0.1 if step <= 80 else 9e-6),
    Trace(schedule={"kind": "StepLR", "horizon": 5, "calls": 80}, lr=lambda step: 0.1 * 0.5 ** (step // 6)),
    Trace(schedule={"kind": "MultiStepLR", "horizon": 30}, lr=lambda step: 0.1 * 0.1 ** (step // 30), steps=61),
    Trace(schedule={"kind": "PolynomialLR", "horizon": 49}, lr=lambda step: 0.1 if step < 49 else 0.059),
)
GOOD = (
    Trace(schedule={"kind": "CosineAnnealingLR", "horizon": 67}),
    Trace(schedule={"kind": "CosineAnnealingLR", "horizon": 100}),
    Trace(schedule={"kind": "CosineAnnealingLR", "horizon": 10}, steps=20),
    Trace(schedule={"kind": "CosineAnnealingWarmRestarts", "horizon": 10}),
    Trace(schedule={"kind": "StepLR", "horizon": 31}, lr=lambda step: 0.1 if step <= 31 else 1e-3),
    Trace(schedule={"kind": "StepLR", "horizon": 25}, lr=lambda step: 0.1 * 0.4 ** (step // 25)),
    Trace(schedule={"kind": "StepLR", "horizon": 5, "calls": 79}, lr=lambda step: 0.1 * 0.5 ** (step // 6)),
    Trace(schedule={"kind": "ExponentialLR"}, lr=lambda step: 0.1 * 0.962**step),
    Trace(schedule={"kind": "LinearLR", "horizon": 40}, lr=lambda step: 0.1 * min(1.0, step / 40)),  # a warmup
    Trace(schedule={"kind": "LinearLR", "horizon": 50}, lr=lambda step: 0.1 * max(0.5, 1 - step / 100)),
    Trace(schedule={"kind": "OneCycleLR", "horizon": 81}, lr=lambda step: 0.1 if step <= 81 else 1e-6),
    Trace(schedule={"kind": "OneCycleLR", "horizon": 19}, steps=19, lr=lambda step: 0.1 if step <= 1 else 1e-6),
    Trace(schedule={"kind": "StepLR", "horizon": 30}, lr=lambda step: 0.1 * 0.1 ** (step // 30), steps=60),
    Trace(schedule={"kind": "StepLR", "horizon": 5}, lr=lambda step: 0.1 * 0.2 ** (step // 5), steps=19),
    Trace(schedule={"kind": "OneCycleLR", "horizon": 20}, lr=lambda step: 0.1 if step <= 20 else 1.1e-5),
    Trace(schedule={"kind": "LambdaLR"}, lr=lambda step: 0.1 if step <= 20 else 1e-9),
    Trace(schedule={"kind": "LinearLR", "horizon": 40}, lr=lambda step: 0.1 if step < 40 else 0.061),
    Trace(
        schedule={"kind": "LinearLR", "horizon": 40}, lr=lambda step: 0.1 * min(step / 40, 20 / step)
    ),  # another one lowers it
)
