"""Adadelta: steps in the units of the parameter, from the running sizes of gradients and of past steps.

Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 1212.5701, Algorithm 1.

    g = g + weight_decay * p                       (coupled, torch; the paper has no decay)
    v = rho * v + (1 - rho) * g^2
    d = sqrt(u + eps) / sqrt(v + eps) * g          (u before this step)
    u = rho * u + (1 - rho) * d^2
    p = p - lr * d

Where paper and usual code differ
- The paper has no learning rate: lr = 1, torch's default. u accumulates d without the lr, as in torch.
- eps is inside both roots, in paper and torch.
- The paper's experiments use rho 0.95; torch's default, kept here, is 0.9.
- `decoupled_weight_decay=True`: p = p - lr * weight_decay * p first. Not in torch.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> list[np.ndarray]:
    params = [np.array(p, dtype=np.float64) for p in params]
    square_avg = [np.zeros_like(p) for p in params]
    acc_delta = [np.zeros_like(p) for p in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            g = -given if maximize else given
            if decoupled_weight_decay:
                p = p - lr * weight_decay * p
            else:
                g = g + weight_decay * p
            square_avg[i] = rho * square_avg[i] + (1 - rho) * g**2
            d = np.sqrt(acc_delta[i] + eps) / np.sqrt(square_avg[i] + eps) * g
            acc_delta[i] = rho * acc_delta[i] + (1 - rho) * d**2
            params[i] = p - lr * d
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.7, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.7, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
]  # fmt: skip
