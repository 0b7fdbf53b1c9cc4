"""Adamax: Adam with the infinity norm in place of the root mean square.

Kingma, Ba, "Adam: A Method for Stochastic Optimization", 1412.6980, Algorithm 2.

    g = g + weight_decay * p                       (coupled, torch; the paper has no decay)
    m = beta1 * m + (1 - beta1) * g
    u = max(beta2 * u, |g| + eps)
    p = p - lr / (1 - beta1^t) * m / u

Where paper and usual code differ
- The paper has no eps: u = max(beta2 * u, |g|), which `eps=0` gives, and which divides 0 by 0 where no gradient came
  yet. torch (default) adds eps to |g| inside the maximum, so that it decays with u like a gradient of that size.
  `eps_placement="outside"` is the common other choice: u without eps, divided by u + eps (Keras, optax).
- u needs no bias correction.
- `decoupled_weight_decay=True`: p = p - lr * weight_decay * p first. Not in torch.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    eps_placement: str = "inside",
) -> list[np.ndarray]:
    if eps_placement not in ("inside", "outside"):
        raise ValueError(f"unknown {eps_placement=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    u = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            p = params[i]
            g = -given if maximize else given
            if decoupled_weight_decay:
                p = p - lr * weight_decay * p
            else:
                g = g + weight_decay * p
            m[i] = beta1 * m[i] + (1 - beta1) * g
            if eps_placement == "inside":
                u[i] = np.maximum(beta2 * u[i], np.abs(g) + eps)
                size = u[i]
            else:
                u[i] = np.maximum(beta2 * u[i], np.abs(g))
                size = u[i] + eps
            params[i] = p - lr / (1 - beta1**t) * m[i] / size
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "eps_outside": True},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
]  # fmt: skip
