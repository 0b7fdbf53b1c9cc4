"""Adam: the gradient's running mean over the root of its running mean square, both corrected for starting at zero.

Kingma, Ba, "Adam: A Method for Stochastic Optimization", 1412.6980, Algorithm 1.

    g = g + weight_decay * p                       (coupled, as torch.optim.Adam; the paper has no decay)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    p = p - lr * [m / (1 - beta1^t)] / (sqrt(v / (1 - beta2^t)) + eps)

Where paper and usual code differ
- `decoupled_weight_decay=True`: p = p - lr * weight_decay * p first, and no decay in g (AdamW).
- `form="algorithm1"` (default, and torch) adds eps to the root of the corrected v. `form="efficient"` is the end of
  the paper's section 2, used by TensorFlow: lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps), where eps
  weighs more in the first steps.
- AMSGrad (1904.09237, Algorithm 2), three sequences: `amsgrad_sequence="torch"` (default) keeps the largest raw v and
  divides it by today's 1 - beta2^t; `"corrected"` keeps the largest corrected v (optax); `"paper"` keeps the largest
  raw v and corrects neither moment. The paper has no eps; here it stays.
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
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    form: str = "algorithm1",
    amsgrad_sequence: str = "torch",
) -> list[np.ndarray]:
    if form not in ("algorithm1", "efficient") or amsgrad_sequence not in ("torch", "corrected", "paper"):
        raise ValueError(f"unknown {form=} or {amsgrad_sequence=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    largest = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            p = params[i]
            g = -given if maximize else given
            if decoupled_weight_decay:
                p = p - lr * weight_decay * p
            else:
                g = g + weight_decay * p
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            correction1 = 1 - beta1**t
            correction2 = 1 - beta2**t
            second = v[i]
            if amsgrad and amsgrad_sequence == "corrected":
                largest[i] = np.maximum(largest[i], v[i] / correction2)
                second = largest[i] * correction2
            elif amsgrad:
                largest[i] = np.maximum(largest[i], v[i])
                second = largest[i]
            if amsgrad and amsgrad_sequence == "paper":
                correction1 = correction2 = 1.0
            if form == "algorithm1":
                params[i] = p - lr * (m[i] / correction1) / (np.sqrt(second / correction2) + eps)
            else:
                params[i] = p - lr * np.sqrt(correction2) / correction1 * m[i] / (np.sqrt(second) + eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
]  # fmt: skip
