"""ASGD: SGD with a falling step, and the running mean of its iterates beside it.

Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; the schedules are Bottou's, "Stochastic
Gradient Descent Tricks", 2012, sections 5 and 6, as torch.optim.ASGD has them.

    g = g + weight_decay * p
    p = p - lambd * eta * p - eta * g
    ax = ax + mu * (p - ax)                         (mu = 1: ax = p)
    eta = lr / (1 + lambd * lr * t)^alpha           (for the next step; lr for the first)
    mu = 1 / max(1, t - t0)                         (for the next step; 1 for the first)

- `point="p"` (default) returns the iterate, which is what torch leaves in the parameter; `point="ax"` the average,
  which torch keeps in the state and never swaps in.
- lambd decays by the current eta; weight_decay is coupled, as in torch. Both are on in torch when both are given.
- Polyak and Juditsky average all iterates with equal weight; torch starts at t0, and one step later than its text
  suggests, because mu and eta are prepared for the next step.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0.0,
    maximize: bool = False,
    point: str = "p",
) -> list[np.ndarray]:
    if point not in ("p", "ax"):
        raise ValueError(f"unknown {point=}")
    params = [np.array(p, dtype=np.float64) for p in params]
    average = [p.copy() for p in params]
    eta = [lr for _ in params]
    mu = [1.0 for _ in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            g = -given if maximize else given
            g = g + weight_decay * params[i]
            params[i] = params[i] - lambd * eta[i] * params[i] - eta[i] * g
            average[i] = average[i] + mu[i] * (params[i] - average[i])
            eta[i] = lr / (1 + lambd * lr * t) ** alpha
            mu[i] = 1 / max(1.0, t - t0)
    return [np.asarray(p) for p in (params if point == "p" else average)]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.05, "lambd": 0.1, "alpha": 0.6, "t0": 5.0, "weight_decay": 0.2},
]  # fmt: skip
