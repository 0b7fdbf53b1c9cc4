"""LAMB: Adam's direction with the decay added, scaled to the norm of each tensor.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 1904.00962, Algorithm 2.

    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    r = [m / (1 - beta1^t)] / (sqrt(v / (1 - beta2^t)) + eps)
    u = r + weight_decay * p
    p = p - lr * phi(||p||) / ||u|| * u                            (the ratio is 1 where either norm is 0)

The decay is inside the trust ratio, not p - lr * weight_decay * p: outside of it is the known fault.

Where paper and usual code differ
- phi: identity, the default; `max_weight_norm=10` gives phi(z) = min(z, 10), as in the first PyTorch ports.
- `bias_correction="inside"` (default; the paper's algorithm, apex): r is corrected before its norm is taken.
  `"outside"`: the ratio comes from m / (sqrt(v) + eps) and the step is multiplied by sqrt(1 - beta2^t) / (1 -
  beta1^t). `"none"`: no correction (the paper's
  appendix drops it as one more warm-up; TensorFlow's first code).
- `max_grad_norm` (apex, timm: 1.0; here None): all gradients of the step are first multiplied by min(1, max_grad_norm
  / norm), with the norm over all tensors together.
- `always_adapt=False` (timm, apex without NVLAMB): where weight_decay is 0 the ratio is 1. The paper, and the
  default, always adapt.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
    max_weight_norm: float | None = None,
    bias_correction: str = "inside",
    max_grad_norm: float | None = None,
    always_adapt: bool = True,
) -> list[np.ndarray]:
    if bias_correction not in ("inside", "outside", "none"):
        raise ValueError(f"unknown {bias_correction=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        clip = 1.0
        if max_grad_norm is not None:
            norm = np.sqrt(sum(np.sum(g**2) for g in row if g is not None))
            if norm > max_grad_norm:
                clip = max_grad_norm / norm
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            p = params[i]
            g = clip * (-given if maximize else given)
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            scale = 1.0
            if bias_correction == "inside":
                r = m[i] / (1 - beta1**t) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            else:
                r = m[i] / (np.sqrt(v[i]) + eps)
                if bias_correction == "outside":
                    scale = np.sqrt(1 - beta2**t) / (1 - beta1**t)
            u = r + weight_decay * p
            weight_norm = np.sqrt(np.sum(p**2))
            update_norm = np.sqrt(np.sum(u**2))
            if max_weight_norm is not None:
                weight_norm = min(weight_norm, max_weight_norm)
            ratio = 1.0
            if weight_norm > 0 and update_norm > 0 and (always_adapt or weight_decay != 0):
                ratio = weight_norm / update_norm
            params[i] = p - lr * scale * ratio * u
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "exclude": "none"},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "exclude": "none",
     "max_weight_norm": 2.0, "bias_correction": False},
]  # fmt: skip
