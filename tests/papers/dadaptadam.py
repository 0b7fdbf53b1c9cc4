"""D-Adapt Adam: Adam that finds its own learning rate from the weighted sum of its gradients.

Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", 2301.07733, the Adam version in the experiments'
section.

With d one number for all tensors, q = sqrt(beta2), and the sums over all tensors that have a gradient at this step:

    rate = d * lr
    r = q * r + (1 - q) * rate * sum of g * s / (sqrt(v) + eps)        (s and v before this step)
    m = beta1 * m + (1 - beta1) * rate * g
    v = beta2 * v + (1 - beta2) * g^2
    s = q * s + (1 - q) * rate * g
    d_hat = r / ((1 - q) * ||s||_1)
    d = max(d, min(d_hat, d * growth_rate))
    p = p - rate * weight_decay * p                                     (decouple)
    p = p - m / (sqrt(v) + eps)

m carries the rate that held when each gradient came. When all of ||s||_1 is zero, nothing moves. Nothing is bias
corrected unless `use_bias_correction`, which multiplies rate by sqrt(1 - beta2^t) / (1 - beta1^t), t counting steps
of the whole group.

Where paper and the authors' package (dadaptation) differ
- v in r: the package takes v before this gradient, `weigh_with="old"` (default); the paper's matrix at k + 1 is the one
  after it, `"new"`.
- `estimate="inner"` (default): the above. `"preprint"`: the package's first version, with beta2 where q stands, v after
  this step, and for r and d_hat

    gsq = beta2 * gsq + (1 - beta2) * rate^2 * sum of g^2 / (sqrt(v) + eps)
    d_hat = (sum of s^2 / (sqrt(v) + eps) / (1 - beta2) - gsq) / ||s||_1

- `decouple=False` (the package's default, and here): weight_decay * p is added to g. True: as written above.
- A tensor without a gradient is left out of ||s||_1 while r remembers it, as in the package: `absent="left out"`
  (default). `absent="kept"` counts its s as it stands.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decouple: bool = False,
    use_bias_correction: bool = False,
    d0: float = 1e-6,
    growth_rate: float = float("inf"),
    maximize: bool = False,
    estimate: str = "inner",
    weigh_with: str = "old",
    absent: str = "left out",
) -> list[np.ndarray]:
    if estimate not in ("inner", "preprint") or weigh_with not in ("old", "new") or absent not in ("left out", "kept"):
        raise ValueError(f"unknown {estimate=}, {weigh_with=} or {absent=}")
    beta1, beta2 = betas
    q = np.sqrt(beta2) if estimate == "inner" else beta2
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    s = [np.zeros_like(p) for p in params]
    r = 0.0
    gsq = 0.0
    d = d0
    t = 0
    for row in grads:
        rate = d * lr
        if use_bias_correction:
            rate = rate * np.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
        inner = 0.0
        weighted_g = 0.0
        weighted_s = 0.0
        s_norm = 0.0
        for i, given in enumerate(row):
            if given is None:
                if absent == "kept":
                    s_norm += np.sum(np.abs(s[i]))
                    weighted_s += np.sum(s[i] ** 2 / (np.sqrt(v[i]) + eps))
                continue
            g = -given if maximize else given
            if not decouple:
                g = g + weight_decay * params[i]
            old_v = v[i]
            m[i] = beta1 * m[i] + (1 - beta1) * rate * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            inner += np.sum(g * s[i] / (np.sqrt(old_v if weigh_with == "old" else v[i]) + eps))
            s[i] = q * s[i] + (1 - q) * rate * g
            s_norm += np.sum(np.abs(s[i]))
            weighted_g += np.sum(g**2 / (np.sqrt(v[i]) + eps))
            weighted_s += np.sum(s[i] ** 2 / (np.sqrt(v[i]) + eps))
        if s_norm == 0:
            continue
        t += 1
        if estimate == "inner":
            r = q * r + (1 - q) * rate * inner
            d_hat = r / ((1 - q) * s_norm)
        else:
            gsq = beta2 * gsq + (1 - beta2) * rate**2 * weighted_g
            d_hat = (weighted_s / (1 - beta2) - gsq) / s_norm
        d = max(d, min(d_hat, d * growth_rate))
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            if decouple:
                p = p - rate * weight_decay * p
            params[i] = p - m[i] / (np.sqrt(v[i]) + eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01, "growth_rate": 1.5,
     "decouple": True},
    {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01, "use_bias_correction": True},
]  # fmt: skip
