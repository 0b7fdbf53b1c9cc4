"""RAdam: Adam whose adaptive step is scaled by how far its second moment can be trusted yet, and left out before that.

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 1908.03265, Algorithm 2.

    g = g + weight_decay * p                                (coupled, torch's default; the paper has no decay)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2^t / (1 - beta2^t)
    r = sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))
    p = p - lr * r * m / (1 - beta1^t) * sqrt(1 - beta2^t) / (sqrt(v) + eps)      where rho is large enough
    p = p - lr * m / (1 - beta1^t)                                                otherwise

Where paper and usual code differ
- Large enough: `rectify="torch"` (default) rho > 5; `"authors"` rho >= 5; `"paper"` rho > 4.
- The paper has no eps; torch and the authors add it to sqrt(v) before the bias correction, not after as in Adam.
- Before rectification the paper and torch take the momentum step. The authors' code (at its latest) takes none and
  does not decay either, unless told `degenerated_to_sgd=True`. Here `degenerated_to_sgd=True` is the default and
  False skips both.
- Decay: torch couples it. `decoupled_weight_decay=True` (torch offers it, the authors always do so): p = p - lr *
  weight_decay * p.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    rectify: str = "torch",
    degenerated_to_sgd: bool = True,
) -> list[np.ndarray]:
    if rectify not in ("torch", "authors", "paper"):
        raise ValueError(f"unknown {rectify=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    rho_inf = 2 / (1 - beta2) - 1
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
            rectified = {"torch": rho > 5, "authors": rho >= 5, "paper": rho > 4}[rectify]
            moves = rectified or degenerated_to_sgd
            p = params[i]
            g = -given if maximize else given
            if decoupled_weight_decay:
                if moves:
                    p = p - lr * weight_decay * p
            else:
                g = g + weight_decay * p
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            m_hat = m[i] / (1 - beta1**t)
            if rectified:
                r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
                p = p - lr * r * m_hat * np.sqrt(1 - beta2**t) / (np.sqrt(v[i]) + eps)
            elif moves:
                p = p - lr * m_hat
            params[i] = p
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2, "rectify": "paper",
     "decoupled_weight_decay": True},
]  # fmt: skip
