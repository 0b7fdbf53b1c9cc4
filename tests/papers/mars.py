"""MARS-AdamW: AdamW fed with a gradient that is extrapolated from its own change, then clipped.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2411.10438,
Algorithm 2 (MARS-AdamW) with the correction and the clipping of Algorithm 1.

    c = g + gamma * beta1 / (1 - beta1) * (g - g_prev)
    c = c / ||c||                                            (where ||c|| > 1)
    m = beta1 * m + (1 - beta1) * c
    v = beta2 * v + (1 - beta2) * c^2
    p = p - lr * ([m / (1 - beta1^t)] / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * p)

g_prev is the gradient at the previous point: on the present batch (exact; give `previous_grads`), or the gradient of
the previous step as it was (MARS-approx; the default, without `previous_grads`).

Where paper and authors' code differ
- The norm is that of each tensor in the code, and here. The paper writes one vector.
- At the first step the paper has x_1 = x_0 and so no correction: `first_previous="gradient"` (default). The code
  takes g_prev = 0 and extrapolates by the whole gradient: `first_previous="zero"`.
- v averages c^2 in paper and code; the README of the code says g^2: `second_moment="raw"`.
- All tensors are optimised by MARS here (`optimize_1d=True`, the paper). The code's default is `optimize_1d=False`:
  every tensor that is not exactly 2-D gets AdamW with lr_1d, betas_1d and weight_decay_1d instead.
- `amsgrad` as in the code: the largest raw v over today's 1 - beta2^t.
- The code keeps p.grad itself as g_prev, not a copy: where gradients are zeroed in place the correction becomes g -
  0. A fault, not an option.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.95, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    gamma: float = 0.025,
    optimize_1d: bool = True,
    lr_1d: float = 3e-3,
    betas_1d: tuple[float, float] = (0.9, 0.95),
    weight_decay_1d: float = 0.1,
    maximize: bool = False,
    first_previous: str = "gradient",
    second_moment: str = "corrected",
    previous_grads: list[list[np.ndarray | None]] | None = None,
) -> list[np.ndarray]:
    if first_previous not in ("gradient", "zero") or second_moment not in ("corrected", "raw"):
        raise ValueError(f"unknown {first_previous=} or {second_moment=}")
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    largest = [np.zeros_like(p) for p in params]
    previous: list[np.ndarray | None] = [None for _ in params]
    steps = [0 for _ in params]
    for number, row in enumerate(grads):
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            g = -given if maximize else given

            if optimize_1d or g.ndim == 2:
                beta1, beta2 = betas
                rate, decay = lr, weight_decay
                if t == 1:
                    before = g if first_previous == "gradient" else np.zeros_like(g)
                elif previous_grads is not None:
                    before = -previous_grads[number][i] if maximize else previous_grads[number][i]
                else:
                    before = previous[i]
                c = g + gamma * beta1 / (1 - beta1) * (g - before)
                norm = np.sqrt(np.sum(c**2))
                if norm > 1:
                    c = c / norm
                squared = c**2 if second_moment == "corrected" else g**2
            else:
                beta1, beta2 = betas_1d
                rate, decay = lr_1d, weight_decay_1d
                c, squared = g, g**2
            previous[i] = g

            m[i] = beta1 * m[i] + (1 - beta1) * c
            v[i] = beta2 * v[i] + (1 - beta2) * squared
            second = v[i]
            if amsgrad:
                largest[i] = np.maximum(largest[i], v[i])
                second = largest[i]
            d = (m[i] / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + eps)
            p = params[i] - rate * decay * params[i]
            params[i] = p - rate * d
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "gamma": 0.1},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "gamma": 0.1, "amsgrad": True,
     "first_previous_zero": True},
]  # fmt: skip
