"""Adafactor: Adam's second moment kept as one row and one column, clipped steps, and steps in the scale of the weights.

Shazeer, Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 1804.04235, Algorithms 4 to 6.

    b2 = 1 - t^beta2_decay
    rho = min(1e-2, 1 / sqrt(t))
    alpha = max(eps2, RMS(p)) * rho
    R = b2 * R + (1 - b2) * row means of (g^2 + eps1)             C likewise, column means
    V = R C / mean(R)                                             vectors: V = b2 * V + (1 - b2) * (g^2 + eps1)
    u = g / sqrt(V)
    u = u / max(1, RMS(u) / d)
    p = p - alpha * u

(Sums in the paper, means here and in every code: the same V.) Rows run along the last dimension, columns along the
one before.

`variant="torch"` (default) is torch.optim.Adafactor, `"shazeer"` the paper and the authors' code (tensor2tensor),
with the options that fairseq and transformers added. Where they differ:

- eps1: shazeer adds it to g^2, default 1e-30. torch leaves R, C and V alone, but takes mean(R) for at least eps1 and V
  for at least eps1^2; its default is the machine epsilon of the parameter's dtype, of float64 here: give it when
  comparing with float32.
- rho: torch min(lr, 1 / sqrt(t)), lr 1e-2. shazeer: lr where given, else min(1e-2, 1 / sqrt(t)), or with `warmup_init`
  min(1e-6 * t, 1 / sqrt(t)).
- alpha is from RMS(p) before the decay in both. `scale_parameter=False` (shazeer only): alpha = rho.
- decay: torch p - lr * weight_decay * p first. shazeer: p - alpha * weight_decay * p first, as transformers; the paper
  has none.
- momentum (shazeer only), `beta1`: m = beta1 * m + (1 - beta1) * alpha * u and p - m, as the authors and transformers.
  `momentum_on="direction"`: m of u, and p - alpha * m.
- `factor="last two"` (default; torch, transformers): tensors of two and more dimensions, each leading index on its
  own. `"matrices"`: only 2-D tensors, the authors' code.
- t starts at 1, so that b2 = 0 at the first step.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float | None = None,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    variant: str = "torch",
    beta1: float | None = None,
    scale_parameter: bool = True,
    warmup_init: bool = False,
    factor: str = "last two",
    momentum_on: str = "step",
) -> list[np.ndarray]:
    if variant not in ("torch", "shazeer"):
        raise ValueError(f"unknown {variant=}")
    if factor not in ("last two", "matrices") or momentum_on not in ("step", "direction"):
        raise ValueError(f"unknown {factor=} or {momentum_on=}")
    if variant == "torch" and (beta1 is not None or not scale_parameter or warmup_init):
        raise ValueError("beta1, scale_parameter and warmup_init belong to the other variant")
    eps1, eps2 = eps
    if eps1 is None:
        eps1 = np.finfo(np.float64).eps if variant == "torch" else 1e-30
    if lr is None and variant == "torch":
        lr = 1e-2
    params = [np.array(p, dtype=np.float64) for p in params]
    factored = [p.ndim == 2 or (p.ndim > 2 and factor == "last two") for p in params]
    rows = [
        np.zeros_like(np.mean(p, axis=-1, keepdims=True)) if f else None for p, f in zip(params, factored, strict=True)
    ]
    cols = [
        np.zeros_like(np.mean(p, axis=-2, keepdims=True)) if f else None for p, f in zip(params, factored, strict=True)
    ]
    full = [np.zeros_like(p) for p in params]
    m = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            p = params[i]
            g = -given if maximize else given

            b2 = 1 - t**beta2_decay
            if variant == "torch":
                rho = min(lr, 1 / np.sqrt(t))
            elif lr is not None:
                rho = lr
            else:
                rho = min(1e-6 * t if warmup_init else 1e-2, 1 / np.sqrt(t))
            alpha = rho
            if scale_parameter:
                alpha = max(eps2, np.sqrt(np.mean(p**2))) * rho

            squared = g**2 if variant == "torch" else g**2 + eps1
            if factored[i]:
                rows[i] = b2 * rows[i] + (1 - b2) * np.mean(squared, axis=-1, keepdims=True)
                cols[i] = b2 * cols[i] + (1 - b2) * np.mean(squared, axis=-2, keepdims=True)
                mean = np.mean(rows[i], axis=-2, keepdims=True)
                if variant == "torch":
                    mean = np.maximum(mean, eps1)
                estimate = rows[i] * cols[i] / mean
            else:
                full[i] = b2 * full[i] + (1 - b2) * squared
                estimate = full[i]
            if variant == "torch":
                estimate = np.maximum(estimate, eps1**2)
            u = g / np.sqrt(estimate)
            u = u / max(1.0, np.sqrt(np.mean(u**2)) / d)

            step = alpha * u
            if beta1 is not None:
                m[i] = beta1 * m[i] + (1 - beta1) * (step if momentum_on == "step" else u)
                step = m[i] if momentum_on == "step" else alpha * m[i]
            p = p - (lr if variant == "torch" else alpha) * weight_decay * p
            params[i] = p - step
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.1, "beta2_decay": -0.6, "eps": (1e-3, 1e-2), "d": 0.8, "weight_decay": 0.2},
    {"lr": 0.1, "beta2_decay": -0.6, "eps": (1e-3, 1e-2), "d": 0.8, "weight_decay": 0.2, "variant": "shazeer",
     "beta1": 0.7, "relative_step": False},
    {"lr": 0.01, "variant": "shazeer", "warmup_init": True, "scale_parameter": False, "weight_decay": 0.2},
]  # fmt: skip
