"""Sophia: momentum over a running estimate of the Hessian's diagonal, clipped element by element.

Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
2305.14342, Algorithm 3.

    m = beta1 * m + (1 - beta1) * g
    h = beta2 * h + (1 - beta2) * hhat             (only at steps with an estimate hhat; else h stays)
    p = p - lr * weight_decay * p
    p = p - lr * clip(m / max(rho * h, eps), 1)

`hessians[t][i]` is the estimate for tensor i at step t, None where there is none. It is averaged in whether or not
the tensor has a gradient at that step. How it was made is not this file's concern: Hutchinson's u * (H u) with u of
+1 and -1 (Algorithm 1, Sophia-H), or Gauss-Newton-Bartlett's B * ghat^2 on labels drawn from the model (Algorithm 2,
Sophia-G). There is no bias correction.

Where paper and authors' code differ
- `variant="paper"` (default): the formula above, of the later versions of the paper, which call rho gamma (0.01 for
  Sophia-H, 0.05 for Sophia-G). `"v1"`: clip(m / max(h, eps), rho), of the first version, where rho is the limit.
  `"code"`: sign(m) * min(|m| / (rho * bs * h + 1e-15), 1), where bs is the batch size that the estimate leaves out;
  with a negative h this is a negative ratio that no limit holds, so it is for Sophia-G only.
- An estimate is used in the step it comes with (paper). The authors' loop makes it after the step:
  `hessian_after_step=True`; before the first estimate h is zero, so every step is lr * sign(m).
- Defaults: the code's lr, betas, rho, weight_decay. The paper's are betas (0.96, 0.99) and weight_decay 0.2.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    hessians: list[list[np.ndarray | None]],
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.965, 0.99),
    rho: float = 0.04,
    weight_decay: float = 1e-1,
    eps: float = 1e-12,
    maximize: bool = False,
    variant: str = "paper",
    bs: float = 1.0,
    hessian_after_step: bool = False,
) -> list[np.ndarray]:
    if variant not in ("paper", "v1", "code"):
        raise ValueError(f"unknown {variant=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    h = [np.zeros_like(p) for p in params]
    for row, estimates in zip(grads, hessians, strict=True):
        if not hessian_after_step:
            for i, estimate in enumerate(estimates):
                if estimate is not None:
                    h[i] = beta2 * h[i] + (1 - beta2) * estimate
        for i, given in enumerate(row):
            if given is None:
                continue
            g = -given if maximize else given
            m[i] = beta1 * m[i] + (1 - beta1) * g
            if variant == "paper":
                d = np.clip(m[i] / np.maximum(rho * h[i], eps), -1, 1)
            elif variant == "v1":
                d = np.clip(m[i] / np.maximum(h[i], eps), -rho, rho)
            else:
                d = np.sign(m[i]) * np.minimum(np.abs(m[i]) / (rho * bs * h[i] + 1e-15), 1)
            p = params[i] - lr * weight_decay * params[i]
            params[i] = p - lr * d
        if hessian_after_step:
            for i, estimate in enumerate(estimates):
                if estimate is not None:
                    h[i] = beta2 * h[i] + (1 - beta2) * estimate
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.9), "rho": 0.9, "eps": 0.3, "weight_decay": 0.2},
]  # fmt: skip
