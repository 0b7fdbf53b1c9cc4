"""NAdam: Adam whose momentum looks one step ahead, after Nesterov.

Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016, Algorithm 2 and the schedule of section 3.

    g = g + weight_decay * p                                (coupled, torch; the paper has no decay)
    mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    mhat = mu_{t+1} / (1 - mu_1 ... mu_{t+1}) * m + (1 - mu_t) / (1 - mu_1 ... mu_t) * g
    p = p - lr * mhat / (sqrt(v / (1 - beta2^t)) + eps)

Where paper and usual code differ
- The paper averages with the scheduled momentum, m = mu_t * m + (1 - mu_t) * g: `average_with="mu"`. torch averages
  with beta1 (`average_with="beta1"`, the default) while it weighs and corrects with mu, so its correction is not that
  of its m.
- momentum_decay 0.004 is the paper's t/250.
- `decoupled_weight_decay=True`, in torch: p = p - lr * weight_decay * p first.
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
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    average_with: str = "beta1",
) -> list[np.ndarray]:
    if average_with not in ("beta1", "mu"):
        raise ValueError(f"unknown {average_with=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    mu_product = [1.0 for _ in params]
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
            mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
            mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
            mu_product[i] = mu_product[i] * mu
            mix = beta1 if average_with == "beta1" else mu
            m[i] = mix * m[i] + (1 - mix) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            ahead = mu_next / (1 - mu_product[i] * mu_next) * m[i]
            now = (1 - mu) / (1 - mu_product[i]) * g
            params[i] = p - lr * (ahead + now) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "momentum_decay": 0.05},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "momentum_decay": 0.05,
     "decoupled_weight_decay": True, "average_with_mu": True},
]  # fmt: skip
