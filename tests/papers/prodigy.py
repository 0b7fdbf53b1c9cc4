"""Prodigy: Adam that finds its own learning rate, from how far the weights have gone and how the gradients point back.

Mishchenko, Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", 2306.06101, Algorithm 4.

With d one number for all tensors, beta3 = sqrt(beta2), and the sums over all tensors that have a gradient at this step:

    rate = d * lr
    r = beta3 * r + d * rate * <g, p0 - p>
    s = beta3 * s + d * rate * g
    m = beta1 * m + (1 - beta1) * d * g
    v = beta2 * v + (1 - beta2) * d^2 * g^2
    d_hat = d_coef * r / ||s||_1
    d = max(d, d_hat)
    p = p - rate * weight_decay * p
    p = p - rate * m / (sqrt(v) + d * eps)

p0 is the tensor as it was before its first gradient. The paper's factors of 1 - beta3 in r and in s cancel. rate is
from d before it grows, in both. When all of ||s||_1 is zero, nothing moves.

Where paper and the authors' package (prodigyopt) differ
- d * eps: `eps_times="new"` (default; package) takes d after, `"old"` (paper) before it grows.
- Package only: d_coef; `growth_rate`, with d_max the largest d_hat (and d0): d = min(d_max, d * growth_rate), where d
  is first raised to d_hat while it still is d0, so that the first rise is not limited; `use_bias_correction`
  multiplies rate by sqrt(1 - beta2^t) / (1 - beta1^t), t counting steps of the whole group; `safeguard_warmup` takes
  d * d for d * rate in s; `decouple=False` adds weight_decay * p to g; slices are not here.
- A tensor without a gradient at this step: the package leaves its s out of ||s||_1 while r still remembers it:
  `absent="left out"` (default). `absent="kept"` counts its s as it stands.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    beta3: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = float("inf"),
    maximize: bool = False,
    eps_times: str = "new",
    absent: str = "left out",
) -> list[np.ndarray]:
    if eps_times not in ("new", "old") or absent not in ("left out", "kept"):
        raise ValueError(f"unknown {eps_times=} or {absent=}")
    beta1, beta2 = betas
    if beta3 is None:
        beta3 = np.sqrt(beta2)
    params = [np.array(p, dtype=np.float64) for p in params]
    start: list[np.ndarray | None] = [None for _ in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    s = [np.zeros_like(p) for p in params]
    r = 0.0
    d = d0
    d_max = d0
    t = 0
    for row in grads:
        rate = d * lr
        if use_bias_correction:
            rate = rate * np.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
        new_r = beta3 * r
        s_norm = 0.0
        for i, given in enumerate(row):
            if given is None:
                if absent == "kept":
                    s_norm += np.sum(np.abs(s[i]))
                continue
            p = params[i]
            if start[i] is None:
                start[i] = p
            g = -given if maximize else given
            if not decouple:
                g = g + weight_decay * p
            new_r += d * rate * np.sum(g * (start[i] - p))
            m[i] = beta1 * m[i] + (1 - beta1) * d * g
            v[i] = beta2 * v[i] + (1 - beta2) * d**2 * g**2
            s[i] = beta3 * s[i] + d * (d if safeguard_warmup else rate) * g
            s_norm += np.sum(np.abs(s[i]))
        if s_norm == 0:
            continue
        t += 1
        r = new_r
        old_d = d
        d_hat = d_coef * r / s_norm
        if d == d0:
            d = max(d, d_hat)
        d_max = max(d_max, d_hat)
        d = min(d_max, d * growth_rate)
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            if decouple:
                p = p - rate * weight_decay * p
            params[i] = p - rate * m[i] / (np.sqrt(v[i]) + (d if eps_times == "new" else old_d) * eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01},
    {"lr": 0.7, "betas": (0.7, 0.95), "beta3": 0.8, "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01,
     "use_bias_correction": True, "decouple": False},
    {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01, "safeguard_warmup": True,
     "growth_rate": 1.5, "d_coef": 0.7},
]  # fmt: skip
