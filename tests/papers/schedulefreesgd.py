"""Schedule-Free SGD: gradients are taken between a plain SGD iterate and the running mean of its iterates.

Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The Road Less Scheduled", 2405.15682, equations 2 to 4.

    y = momentum * x + (1 - momentum) * z          (where the gradient g was taken)
    lr_t = lr * min(1, t / warmup_steps)
    z = z - lr_t * (g + weight_decay * y)
    w = t^r * lr_t^weight_lr_power,  c = w / (sum of all w)
    x = (1 - c) * x + c * z

x = z = y = p at the start, and x becomes z at the first step (c = 1).

- `point="y"` (default) returns where the next gradient is taken, which the package leaves in the parameter while it
  trains; "x" the mean, to be used for evaluation; "z" the SGD iterate.
- Decay is taken at y and goes into z, in paper and package: not p - lr * weight_decay * p. `decay_at="z"` takes it at
  z.
- w: the package uses the largest lr so far, `weight_lr="max"` (default); the paper the present one, `"now"`. Only a
  falling lr tells them apart, so lr may be a list with one value per step.
- `clock="tensor"` (default): t, the sum of w and the largest lr belong to each tensor. The package keeps them per
  group: `clock="group"`, where steps without a gradient count too.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float | list[float] = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    maximize: bool = False,
    point: str = "y",
    decay_at: str = "y",
    weight_lr: str = "max",
    clock: str = "tensor",
) -> list[np.ndarray]:
    if clock not in ("tensor", "group") or weight_lr not in ("max", "now") or decay_at not in ("y", "z"):
        raise ValueError(f"unknown {clock=}, {weight_lr=} or {decay_at=}")
    x = [np.array(p, dtype=np.float64) for p in params]
    y = [p.copy() for p in x]
    z = [p.copy() for p in x]
    steps = [0 for _ in params]
    weight_sum = [0.0 for _ in params]
    lr_max = [0.0 for _ in params]
    for number, row in enumerate(grads):
        for i, given in enumerate(row):
            if given is None and clock == "tensor":
                continue
            steps[i] += 1
            t = steps[i]
            lr_t = lr[number] if isinstance(lr, list) else lr
            if t < warmup_steps:
                lr_t = lr_t * t / warmup_steps
            lr_max[i] = max(lr_max[i], lr_t)
            w = t**r * (lr_max[i] if weight_lr == "max" else lr_t) ** weight_lr_power
            weight_sum[i] += w
            c = w / weight_sum[i]
            if given is None:
                continue
            g = -given if maximize else given
            z[i] = z[i] - lr_t * (g + weight_decay * (y[i] if decay_at == "y" else z[i]))
            x[i] = (1 - c) * x[i] + c * z[i]
            y[i] = momentum * x[i] + (1 - momentum) * z[i]
    return [np.asarray(p) for p in {"x": x, "y": y, "z": z}[point]]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.2, "warmup_steps": 6, "r": 0.5, "weight_lr_power": 1.5},
]  # fmt: skip
