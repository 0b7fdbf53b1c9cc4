"""Signum: the sign of a running mean of gradients; with momentum = 0 it is SignSGD.

Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems", 1802.04434,
Algorithms 1 (signSGD) and 2 (Signum).

    p = p - lr * weight_decay * p
    m = momentum * m + (1 - momentum) * g
    p = p - lr * sign(m)

sign(0) = 0.

Where paper and usual code differ
- The algorithm in the paper has no decay; in the same authors' sequel (1810.05291) it is decoupled, as here by
  default. Their PyTorch code, and MXNet's `wd`, add it to the gradient before the momentum:
  `decoupled_weight_decay=False`.
- m starts at zero and is not bias corrected, which the sign does not see at the first step.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool = True,
) -> list[np.ndarray]:
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
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
            m[i] = momentum * m[i] + (1 - momentum) * g
            params[i] = p - lr * np.sign(m[i])
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "momentum": 0.7, "weight_decay": 0.2},
    {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.2, "decoupled_weight_decay": False},
]  # fmt: skip

# The share of elements at which 16-bit numbers may decide the sign otherwise (tests/contract/table.py).
TIES = 1e-3
