"""Lion: the sign of a momentum that looks one gradient ahead.

Chen et al., "Symbolic Discovery of Optimization Algorithms", 2302.06675, Algorithm 2.

    c = beta1 * m + (1 - beta1) * g
    p = p - lr * (sign(c) + weight_decay * p)
    m = beta2 * m + (1 - beta2) * g

sign(0) = 0. The decay is outside the sign and multiplied by lr, in the paper and in the authors' code
(google/automl), which takes it off before the step: the same arithmetic, for c does not read p. Two averages of one
gradient: c with beta1 is used and thrown away, m with beta2 is kept. Decay inside the sign is the known fault.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> list[np.ndarray]:
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            g = -given if maximize else given
            c = beta1 * m[i] + (1 - beta1) * g
            p = params[i] - lr * weight_decay * params[i]
            params[i] = p - lr * np.sign(c)
            m[i] = beta2 * m[i] + (1 - beta2) * g
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.2},
]  # fmt: skip

# The share of elements at which 16-bit numbers may decide the sign otherwise (tests/contract/table.py).
TIES = 1e-3
