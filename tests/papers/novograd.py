"""NovoGrad: one second moment per tensor, of the gradient's norm; momentum over normalised gradients.

Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
1905.11286, Algorithm 1.

    v = ||g||^2                                             (first gradient of this tensor)
    v = beta2 * v + (1 - beta2) * ||g||^2                   (later)
    u = g / (sqrt(v) + eps) + weight_decay * p
    m = u                                                   (first)
    m = beta1 * m + u                                       (later)
    p = p - lr * m

The decay is inside m, after the normalisation: not p - lr * weight_decay * p. Nothing is bias corrected.

Where paper and usual code differ
- `grad_averaging=True` multiplies u by 1 - beta1 from the second step on (offered in the paper). NVIDIA's code, whose
  m starts at zero, multiplies the first u too: `first_step_averaged=True`.
- The paper's first step divides by ||g|| without eps; here eps is always there.
- `amsgrad` (NVIDIA): divides by the root of the largest v so far.
- Defaults: the paper's betas (0.95, 0.98); lr from the code.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.95, 0.98),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_averaging: bool = False,
    amsgrad: bool = False,
    maximize: bool = False,
    first_step_averaged: bool = False,
) -> list[np.ndarray]:
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m: list[np.ndarray | None] = [None for _ in params]
    v: list[float | None] = [None for _ in params]
    largest = [0.0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            g = -given if maximize else given
            first = v[i] is None
            squared_norm = np.sum(g**2)
            v[i] = squared_norm if first else beta2 * v[i] + (1 - beta2) * squared_norm
            largest[i] = max(largest[i], v[i])
            u = g / (np.sqrt(largest[i] if amsgrad else v[i]) + eps) + weight_decay * p
            if grad_averaging and (first_step_averaged or not first):
                u = (1 - beta1) * u
            m[i] = u if first else beta1 * m[i] + u
            params[i] = p - lr * m[i]
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2, "grad_averaging": True},
]  # fmt: skip
