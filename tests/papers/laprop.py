"""LaProp: divide the gradient first, then take the momentum, so that the two moments are decoupled.

Ziyin, Wang, Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", 2002.04839, Algorithm 1.

    n = beta2 * n + (1 - beta2) * g^2
    m = beta1 * m + (1 - beta1) * g / (sqrt(n / (1 - beta2^t)) + eps)
    p = p - lr * m / (1 - beta1^t)

Where paper and authors' code differ
- Decay: `decay="decoupled"` (default) p = p - lr * weight_decay * p before the step. The code takes weight_decay * p
  off after the step, not multiplied by lr: `decay="authors"`.
- The code keeps the lr inside m and corrects by the averaged lr: the same while lr is constant.
- `amsgrad` (code only): the largest raw n over today's 1 - beta2^t. The code's `centered` does not run (it reads
  names that do not exist) and is not here.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 4e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    decay: str = "decoupled",
) -> list[np.ndarray]:
    if decay not in ("decoupled", "authors"):
        raise ValueError(f"unknown {decay=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    n = [np.zeros_like(p) for p in params]
    largest = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            p = params[i]
            g = -given if maximize else given
            if decay == "decoupled":
                p = p - lr * weight_decay * p
            n[i] = beta2 * n[i] + (1 - beta2) * g**2
            second = n[i]
            if amsgrad:
                largest[i] = np.maximum(largest[i], n[i])
                second = largest[i]
            m[i] = beta1 * m[i] + (1 - beta1) * g / (np.sqrt(second / (1 - beta2**t)) + eps)
            p = p - lr * m[i] / (1 - beta1**t)
            if decay == "authors":
                p = p - weight_decay * p
            params[i] = p
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
]  # fmt: skip
