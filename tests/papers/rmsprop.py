"""RMSprop: the gradient over the root of its running mean square.

Tieleman, Hinton, COURSERA "Neural Networks for Machine Learning", lecture 6e, 2012 (no paper). Centered and with
momentum: Graves, "Generating Sequences With Recurrent Neural Networks", 1308.0850, equations 38 to 41.

    g = g + weight_decay * p                       (coupled, torch's default)
    v = alpha * v + (1 - alpha) * g^2
    a = alpha * a + (1 - alpha) * g                (centered)
    d = g / (sqrt(v - a^2) + eps)                  (a = 0 when not centered)
    b = momentum * b + d,  p = p - lr * b          (with momentum)   or   p = p - lr * d

Where paper and usual code differ
- Graves has eps inside the root (his 0.0001), as TensorFlow has and timm's RMSpropTF: `eps_inside_sqrt=True`. torch
  (default): outside.
- TensorFlow starts v at ones: `initial_square_avg=1.0`. torch (default): zeros, and no bias correction in either.
- Graves and TensorFlow keep the lr in the momentum buffer (b = momentum * b + lr * d; p = p - b), the same while lr
  is constant: `lrs` gives the lr of every step, `lr_in_momentum=True` is theirs.
- The lecture's numbers (alpha 0.9, lr 1e-3) are not torch's (0.99, 1e-2), which are the defaults here.
- `decoupled_weight_decay=True`: p = p - lr * weight_decay * p first (timm offers it, torch does not).
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    eps_inside_sqrt: bool = False,
    initial_square_avg: float = 0.0,
    lr_in_momentum: bool = False,
    lrs: list[float] | None = None,
) -> list[np.ndarray]:
    params = [np.array(p, dtype=np.float64) for p in params]
    square_avg = [np.full_like(p, initial_square_avg) for p in params]
    grad_avg = [np.zeros_like(p) for p in params]
    buffers = [np.zeros_like(p) for p in params]
    for step, row in enumerate(grads):
        lr = lr if lrs is None else lrs[step]
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            g = -given if maximize else given
            if decoupled_weight_decay:
                p = p - lr * weight_decay * p
            else:
                g = g + weight_decay * p
            square_avg[i] = alpha * square_avg[i] + (1 - alpha) * g**2
            variance = square_avg[i]
            if centered:
                grad_avg[i] = alpha * grad_avg[i] + (1 - alpha) * g
                variance = square_avg[i] - grad_avg[i] ** 2
            if eps_inside_sqrt:
                d = g / np.sqrt(variance + eps)
            else:
                d = g / (np.sqrt(variance) + eps)
            if lr_in_momentum:
                d = lr * d
            if momentum > 0:
                buffers[i] = momentum * buffers[i] + d
                d = buffers[i]
            params[i] = p - (d if lr_in_momentum else lr * d)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2},
    {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.6, "centered": True},
    {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.6, "eps_inside": True},
    {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.6, "centered": True,
     "variant": "tensorflow"},
    {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "variant": "tensorflow",
     "decoupled_weight_decay": True},
]  # fmt: skip
