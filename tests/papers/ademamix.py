"""AdEMAMix: Adam with a second, much slower momentum added to the first.

Pagliardini, Ablin, Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", 2409.03137, Algorithm 1.

    m1 = beta1 * m1 + (1 - beta1) * g
    m2 = beta3_t * m2 + (1 - beta3_t) * g
    v  = beta2 * v + (1 - beta2) * g^2
    p = p - lr * ([m1 / (1 - beta1^t) + alpha_t * m2] / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * p)

    alpha_t = min(t / alpha_warmup, 1) * alpha beta3_t: the half-life log(1/2) / log(beta) - 1 goes linearly from that
    of beta1 to that of beta3 over beta3_warmup steps

m2 is not bias corrected. Without warm-up both schedules are constant.

Where paper and authors' code differ
- The schedules take t = 1 at the first step in the paper and in the PyTorch code: `scheduler_start=1` (default). In
  the authors' optax code they take t = 0: `scheduler_start=0`.
- The PyTorch code adds 1e-8 to beta inside the logarithm: `half_life_eps=1e-8`. Default: 0, the paper's.
- alpha defaults to the PyTorch code's 2; the paper trains with 5 to 10.
"""

import math

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    alpha: float = 2.0,
    beta3_warmup: int | None = None,
    alpha_warmup: int | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    scheduler_start: int = 1,
    half_life_eps: float = 0.0,
) -> list[np.ndarray]:
    beta1, beta2, beta3 = betas

    def half_life(beta: float) -> float:
        if beta + half_life_eps == 0:
            return -1.0
        return math.log(0.5) / math.log(beta + half_life_eps) - 1

    params = [np.array(p, dtype=np.float64) for p in params]
    m1 = [np.zeros_like(p) for p in params]
    m2 = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            g = -given if maximize else given

            scheduled = t - 1 + scheduler_start
            alpha_t = alpha
            if alpha_warmup is not None and scheduled < alpha_warmup:
                alpha_t = scheduled / alpha_warmup * alpha
            beta3_t = beta3
            if beta3_warmup is not None and scheduled < beta3_warmup:
                part = scheduled / beta3_warmup
                mixed = (1 - part) * half_life(beta1) + part * half_life(beta3)
                beta3_t = 0.0 if mixed == -1 else 0.5 ** (1 / (mixed + 1))

            m1[i] = beta1 * m1[i] + (1 - beta1) * g
            m2[i] = beta3_t * m2[i] + (1 - beta3_t) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            d = (m1[i] / (1 - beta1**t) + alpha_t * m2[i]) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            p = params[i] - lr * weight_decay * params[i]
            params[i] = p - lr * d
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95, 0.99), "eps": 1e-3, "weight_decay": 0.2, "alpha": 3.0},
    {"lr": 0.02, "betas": (0.7, 0.95, 0.99), "eps": 1e-3, "weight_decay": 0.2, "alpha": 3.0,
     "beta3_warmup": 11, "alpha_warmup": 7},
]  # fmt: skip
