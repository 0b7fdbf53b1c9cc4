"""ASAM: SAM in a neighbourhood that is measured in units of each weight.

Kwon, Kim, Park, Choi, "ASAM: Adaptive sharpness-aware minimization for scale-invariant learning of deep neural
networks", 2102.11600, Algorithm 1 with p = 2 (equation 3) and the elementwise normalization operator.

    g = gradient of the loss at w
    T = diag(|w_1|, ..., |w_k|) + eta * I
    e = rho * T^2 g / ||T g||                      (the norm of all tensors together)
    g = gradient of the loss at w + e
    w = w - lr * (g + weight_decay * w)

Where paper and usual code differ
- The authors' code has T = 1 for every tensor whose name has no "weight" in it (biases). Which ones are weights is
  given here: `weights[i]` is True for those with T = |w| + eta.
- Algorithm 1 has SGD without momentum; the experiments have SGD with momentum.

`gradient(params, step)` as in sam.py.
"""

from collections.abc import Callable

import numpy as np

Gradient = Callable[[list[np.ndarray], int], list[np.ndarray | None]]


def trajectory(
    params: list[np.ndarray],
    gradient: Gradient,
    steps: int,
    *,
    weights: list[bool],
    rho: float = 0.5,
    eta: float = 0.01,
    lr: float = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> list[np.ndarray]:
    w = [np.array(p, dtype=np.float64) for p in params]
    velocity: list[np.ndarray | None] = [None] * len(w)
    sign = -1.0 if maximize else 1.0
    for step in range(steps):
        loss_gradient = gradient(w, step)
        t = [np.abs(p) + eta if is_weight else np.ones_like(p) for p, is_weight in zip(w, weights, strict=True)]
        squares = [np.sum((t_i * g) ** 2) for t_i, g in zip(t, loss_gradient, strict=True) if g is not None]
        norm = np.sqrt(np.sum(squares))
        worst = [
            p if g is None or norm == 0 else p + sign * rho * t_i**2 * g / norm
            for p, t_i, g in zip(w, t, loss_gradient, strict=True)
        ]
        for i, g in enumerate(gradient(worst, step)):
            if g is None:
                continue
            d = sign * g + weight_decay * w[i]
            if momentum:
                velocity[i] = d if velocity[i] is None else momentum * velocity[i] + d
                d = velocity[i]
            w[i] = w[i] - lr * d
    return [np.asarray(p) for p in w]
