"""Adan: Adam with Nesterov momentum written in differences of gradients.

Xie, Zhou, Li, Lin, Yan, "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", 2208.06677,
Algorithm 1, in the authors' letters, whose beta is 1 minus the paper's.

    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g - g_prev)                    (g_prev = g at the first step)
    n = beta3 * n + (1 - beta3) * (g + beta2 * (g - g_prev))^2
    d = [m / (1 - beta1^t) + beta2 * v / (1 - beta2^t)] / (sqrt(n / (1 - beta3^t)) + eps)
    p = (p - lr * d) / (1 + lr * weight_decay)

Where paper and authors' code differ
- The paper has no bias correction and starts m at g and n at g^2: `bias_correction=False`. Code and default here:
  corrected, from zero.
- Decay: proximal, after the step, in both. The code's `no_prox=True` is p - lr * weight_decay * p before the step.
- `clock="tensor"` (default) counts each tensor's own gradients. The code counts once per group: `clock="group"`,
  where a tensor whose gradients come late is corrected by a count that it did not make.
- The code's clipping by the global norm is no part of the method and not here.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    no_prox: bool = False,
    maximize: bool = False,
    bias_correction: bool = True,
    clock: str = "tensor",
) -> list[np.ndarray]:
    if clock not in ("tensor", "group"):
        raise ValueError(f"unknown {clock=}")
    beta1, beta2, beta3 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    n = [np.zeros_like(p) for p in params]
    previous: list[np.ndarray | None] = [None for _ in params]
    steps = [0 for _ in params]
    for number, row in enumerate(grads):
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i] if clock == "tensor" else number + 1
            g = -given if maximize else given
            if previous[i] is None:
                difference = np.zeros_like(g)
                if not bias_correction:
                    m[i], n[i] = g, g**2
            else:
                difference = g - previous[i]
            previous[i] = g
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * difference
            n[i] = beta3 * n[i] + (1 - beta3) * (g + beta2 * difference) ** 2
            if bias_correction:
                root = np.sqrt(n[i] / (1 - beta3**t)) + eps
                d = (m[i] / (1 - beta1**t) + beta2 * v[i] / (1 - beta2**t)) / root
            else:
                d = (m[i] + beta2 * v[i]) / (np.sqrt(n[i]) + eps)
            if no_prox:
                params[i] = params[i] - lr * weight_decay * params[i] - lr * d
            else:
                params[i] = (params[i] - lr * d) / (1 + lr * weight_decay)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2, "no_prox": True},
]  # fmt: skip
