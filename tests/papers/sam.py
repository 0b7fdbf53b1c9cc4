"""SAM: the gradient with which SGD moves the weights is taken at the highest point of the loss in a ball around them.

Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving generalization",
2010.01412, Algorithm 1, with p = 2 (equation 2).

    g = gradient of the loss at w
    e = rho * g / ||g||                            (the norm of the gradient of all tensors together)
    g = gradient of the loss at w + e
    w = w - lr * g, or what the optimizer inside makes of it; here SGD with momentum, as in the experiments

Where paper and usual code differ
- The authors' code has the decay inside the loss, so it is part of both gradients: `decay_in_the_loss=True`. By default
  it is added to g at the update, at w, as an SGD does that knows nothing of SAM.
- The authors' code divides by ||g|| alone; others add 1e-12. Without a gradient nothing moves.
- With `maximize` the inner problem is the lowest point nearby: e changes its sign.

Gradients depend on where they are taken, so they are given as a function:

    gradient(params, step) -> the gradient of each tensor, None for one that has none at this step
"""

from collections.abc import Callable

import numpy as np

Gradient = Callable[[list[np.ndarray], int], list[np.ndarray | None]]


def trajectory(
    params: list[np.ndarray],
    gradient: Gradient,
    steps: int,
    *,
    rho: float = 0.05,
    lr: float = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decay_in_the_loss: bool = False,
) -> list[np.ndarray]:
    w = [np.array(p, dtype=np.float64) for p in params]
    buffers: list[np.ndarray | None] = [None for _ in w]

    def taken_at(point: list[np.ndarray], step: int) -> list[np.ndarray | None]:
        found = gradient(point, step)
        if not decay_in_the_loss:
            return found
        sign = -1.0 if maximize else 1.0
        return [None if g is None else g + sign * weight_decay * p for g, p in zip(found, point, strict=True)]

    for step in range(steps):
        first = taken_at(w, step)
        norm = np.sqrt(sum(np.sum(g**2) for g in first if g is not None))
        aside = []
        for p, g in zip(w, first, strict=True):
            if g is None or norm == 0:
                aside.append(p)
            else:
                aside.append(p + (-rho if maximize else rho) * g / norm)
        second = taken_at(aside, step)
        for i, g in enumerate(second):
            if g is None:
                continue
            if maximize:
                g = -g
            if not decay_in_the_loss:
                g = g + weight_decay * w[i]
            if momentum != 0:
                buffers[i] = g if buffers[i] is None else momentum * buffers[i] + g
                g = buffers[i]
            w[i] = w[i] - lr * g
    return [np.asarray(p) for p in w]
