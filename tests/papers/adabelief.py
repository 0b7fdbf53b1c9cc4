"""AdaBelief: Adam that divides by how far gradients stray from their running mean.

Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", 2010.07468, Algorithm 2.

    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * (g - m)^2 + eps
    p = p - lr * [m / (1 - beta1^t)] / (sqrt(s / (1 - beta2^t)) + eps)

g - m uses m after this step's gradient. eps is used twice: it stays in s and so accumulates, and it is added to the
root.

Where paper and authors' code differ
- The code's in-place addition accumulates eps in s as the paper's formula does. `eps_accumulates=False`: s is kept
  clean and eps is added to it only for the root.
- `rectify=True` (the code's default, not the paper's; default here: False): RAdam's schedule, with
  `degenerated_to_sgd` as there, and eps added to sqrt(s) before the bias correction.
- `weight_decouple=True` (both default): p = p - lr * weight_decay * p first; `fixed_decay=True`: p - weight_decay * p.
  `weight_decouple=False` adds weight_decay * p to g.
- `amsgrad`: the largest raw s so far, divided by today's 1 - beta2^t. The authors' code loses it when it rectifies;
  here it is kept.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    weight_decouple: bool = True,
    fixed_decay: bool = False,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    maximize: bool = False,
    eps_accumulates: bool = True,
) -> list[np.ndarray]:
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    s = [np.zeros_like(p) for p in params]
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
            if not weight_decouple:
                g = g + weight_decay * p
            elif fixed_decay:
                p = p - weight_decay * p
            else:
                p = p - lr * weight_decay * p
            m[i] = beta1 * m[i] + (1 - beta1) * g
            s[i] = beta2 * s[i] + (1 - beta2) * (g - m[i]) ** 2
            if eps_accumulates:
                s[i] = s[i] + eps
                second = s[i]
            else:
                second = s[i] + eps
            if amsgrad:
                largest[i] = np.maximum(largest[i], second)
                second = largest[i]
            m_hat = m[i] / (1 - beta1**t)
            if not rectify:
                p = p - lr * m_hat / (np.sqrt(second / (1 - beta2**t)) + eps)
            else:
                rho_inf = 2 / (1 - beta2) - 1
                rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
                if rho >= 5:
                    r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
                    p = p - lr * r * np.sqrt(1 - beta2**t) * m_hat / (np.sqrt(second) + eps)
                elif degenerated_to_sgd:
                    p = p - lr * m_hat
            params[i] = p
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True,
     "decoupled_weight_decay": False},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True, "rectify": True},
]  # fmt: skip
