"""Adagrad: the gradient over the root of the sum of all squares so far.

Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12, 2011,
Figure 1 (diagonal matrices, no regulariser).

    g = g + weight_decay * p                       (coupled, torch)
    s = s + g^2                                    (s starts at initial_accumulator_value)
    p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

Where paper and usual code differ
- The paper adds its delta to the root, as torch does with eps; TensorFlow 2 has it inside: `eps_inside_sqrt=True`.
- The paper has neither lr_decay nor weight decay; both as in torch. With lr_decay the decay term follows the decayed
  lr.
- `decoupled_weight_decay=True`: p = p - lr * weight_decay * p first, by the lr before lr_decay. Not in torch.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    eps_inside_sqrt: bool = False,
) -> list[np.ndarray]:
    params = [np.array(p, dtype=np.float64) for p in params]
    sums = [np.full_like(p, initial_accumulator_value) for p in params]
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
            sums[i] = sums[i] + g**2
            root = np.sqrt(sums[i] + eps) if eps_inside_sqrt else np.sqrt(sums[i]) + eps
            params[i] = p - lr / (1 + (t - 1) * lr_decay) * g / root
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.2, "initial_accumulator_value": 0.3, "eps": 1e-3},
    {"lr": 0.05, "weight_decay": 0.2, "eps": 1e-3, "decoupled_weight_decay": True},
]  # fmt: skip
