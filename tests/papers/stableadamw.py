"""StableAdamW: AdamW whose step shrinks, tensor by tensor, when the second moment lags behind the gradient.

Wortsman et al., "Stable and low-precision training for large-scale vision-language models", 2304.13013, Algorithm 2.

    b1 = beta1 * (1 - beta1^(t-1)) / (1 - beta1^t),  b2 likewise    (so m and v need no correction)
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g^2
    rms = sqrt(mean(g^2 / max(v, eps^2)))
    eta = lr / max(1, rms / clip_thresh)
    p = p - eta * weight_decay * p
    p = p - eta * m / (sqrt(v) + eps)

Where paper and authors' code differ
- Decay: by the clipped eta in the paper, `decay_with="clipped"` (default); by the unclipped lr in the authors' code,
  `"raw"`.
- clip_thresh is 1 in the paper, an argument in the code.
- The step is counted per tensor here, per group in the code.
- Defaults are the authors' code's, with the 1e-8 of one of its copies for eps; others have 1e-6.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.2,
    clip_thresh: float = 1.0,
    maximize: bool = False,
    decay_with: str = "clipped",
) -> list[np.ndarray]:
    if decay_with not in ("clipped", "raw"):
        raise ValueError(f"unknown {decay_with=}")
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
            b1 = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
            b2 = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g**2
            rms = np.sqrt(np.mean(g**2 / np.maximum(v[i], eps**2)))
            eta = lr / max(1.0, rms / clip_thresh)
            p = params[i] - (eta if decay_with == "clipped" else lr) * weight_decay * params[i]
            params[i] = p - eta * m[i] / (np.sqrt(v[i]) + eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "clip_threshold": 0.5},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "raw_decay": True},
]  # fmt: skip
