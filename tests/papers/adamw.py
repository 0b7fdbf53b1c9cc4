"""AdamW: Adam with the decay taken off the parameter, not added to the gradient.

Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 1711.05101, Algorithm 2.

    p = p - lr * weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    p = p - lr * [m / (1 - beta1^t)] / (sqrt(v / (1 - beta2^t)) + eps)

Where paper and usual code differ
- Paper: p = p - eta_t * (alpha * mhat / (sqrt(vhat) + eps) + lambda * p), so that the decay is multiplied by the
  schedule eta_t but not by the learning rate alpha. torch (default here): by lr. `decay_times_lr=False` gives the
  paper's, with eta_t = 1.
- The order (decay before or after the direction) is the same arithmetic, for the direction does not read p.
- The default weight_decay is torch's 1e-2.
- AMSGrad as in adam.py: `amsgrad_sequence="torch"` (default) | "corrected" | "paper".
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    decay_times_lr: bool = True,
    amsgrad_sequence: str = "torch",
) -> list[np.ndarray]:
    if amsgrad_sequence not in ("torch", "corrected", "paper"):
        raise ValueError(f"unknown {amsgrad_sequence=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    largest = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            g = -given if maximize else given
            p = params[i] - (lr if decay_times_lr else 1.0) * weight_decay * params[i]
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            m_hat = m[i] / (1 - beta1**t)
            v_hat = v[i] / (1 - beta2**t)
            if amsgrad and amsgrad_sequence == "torch":
                largest[i] = np.maximum(largest[i], v[i])
                v_hat = largest[i] / (1 - beta2**t)
            elif amsgrad and amsgrad_sequence == "corrected":
                largest[i] = np.maximum(largest[i], v_hat)
                v_hat = largest[i]
            elif amsgrad:
                largest[i] = np.maximum(largest[i], v[i])
                m_hat, v_hat = m[i], largest[i]
            params[i] = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
]  # fmt: skip
