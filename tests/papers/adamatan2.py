"""Adam-atan2: Adam with atan2 for the division, so that there is no eps and no dependence on the gradient's scale.

Everett et al., "Scaling Exponents Across Parameterizations and Optimizers", 2407.05872, the section on epsilon and
the appendix with the code change.

    p = p - lr * weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    p = p - lr * a * atan2(m / (1 - beta1^t), b * sqrt(v / (1 - beta2^t)))

atan2(0, 0) = 0: an element that never had a gradient does not move.

Where paper and usual code differ
- The constants: `a=1, b=1` (default), and 1.27, 1 in the usual PyTorch packages, where 1.27 = 4/pi makes a step of
  mhat = sqrt(vhat) equal to Adam's.
- Defaults lr 1e-4 and betas (0.9, 0.99) are those packages'; the paper has none.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    a: float = 1.0,
    b: float = 1.0,
    maximize: bool = False,
) -> list[np.ndarray]:
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            g = -given if maximize else given
            p = params[i] - lr * weight_decay * params[i]
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            params[i] = p - lr * a * np.arctan2(m[i] / (1 - beta1**t), b * np.sqrt(v[i] / (1 - beta2**t)))
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.2, "a": 1.27, "b": 0.5},
]  # fmt: skip
