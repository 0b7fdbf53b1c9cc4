"""LARS: momentum SGD with each tensor's step scaled to its own norm.

You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 1708.03888, Algorithm 1.

    ratio = trust_coefficient * ||p|| / (||g|| + weight_decay * ||p|| + eps)
    a = ratio * (g + weight_decay * p)
    b = a                                                   (first gradient of this tensor)
    b = momentum * b + (1 - dampening) * a                  (later)
    p = p - lr * b                                          or, Nesterov, p - lr * (a + momentum * b)

The decay is coupled and inside the ratio by definition: not p - lr * weight_decay * p.

Where paper and usual code differ
- The paper keeps the lr inside b: the same while lr is constant. It has no eps, dampening or Nesterov.
- `momentum_after_scaling=True` (default, the paper): the buffer sums scaled gradients. False: the buffer sums g +
  weight_decay * p, and the ratio of the present step, from the present norms, multiplies what comes out. Different
  methods as soon as ratios change.
- At a zero norm of p or of g: `zero_norm_ratio="one"` (default) takes ratio 1, `"coefficient"` takes trust_coefficient.
- `denominator="sum"` (default): as in the paper. `"norm"`: ||g + weight_decay * p|| (optax).
- `adapt[i]` False leaves tensor i (a bias, a norm) with ratio 1; its decay remains. None: all adapt, as in the
  paper's algorithm.
- NVIDIA's LARC drops the decay too where a norm is zero; here it stays.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    trust_coefficient: float = 1e-3,
    eps: float = 1e-8,
    maximize: bool = False,
    momentum_after_scaling: bool = True,
    zero_norm_ratio: str = "one",
    denominator: str = "sum",
    adapt: list[bool] | None = None,
) -> list[np.ndarray]:
    if zero_norm_ratio not in ("one", "coefficient") or denominator not in ("sum", "norm"):
        raise ValueError(f"unknown {zero_norm_ratio=} or {denominator=}")
    params = [np.array(p, dtype=np.float64) for p in params]
    buffers: list[np.ndarray | None] = [None for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            g = -given if maximize else given
            decayed = g + weight_decay * p
            weight_norm = np.sqrt(np.sum(p**2))
            grad_norm = np.sqrt(np.sum(g**2))
            if adapt is not None and not adapt[i]:
                ratio = 1.0
            elif weight_norm == 0 or grad_norm == 0:
                ratio = 1.0 if zero_norm_ratio == "one" else trust_coefficient
            elif denominator == "sum":
                ratio = trust_coefficient * weight_norm / (grad_norm + weight_decay * weight_norm + eps)
            else:
                ratio = trust_coefficient * weight_norm / (np.sqrt(np.sum(decayed**2)) + eps)

            inside = ratio * decayed if momentum_after_scaling else decayed
            d = inside
            if momentum != 0:
                if buffers[i] is None:
                    buffers[i] = inside
                else:
                    buffers[i] = momentum * buffers[i] + (1 - dampening) * inside
                d = inside + momentum * buffers[i] if nesterov else buffers[i]
            params[i] = p - lr * (d if momentum_after_scaling else ratio * d)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.5, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2, "trust_coefficient": 0.1, "eps": 1e-3,
     "exclude": "none"},
    {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.2, "nesterov": True, "trust_coefficient": 0.1, "eps": 1e-3,
     "momentum_after_scaling": False, "exclude": "none"},
]  # fmt: skip
