"""SGD with momentum: a running sum of gradients that keeps a fraction `momentum` of itself.

Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013,
equations 1 to 4.

    g = g + weight_decay * p                       (coupled, the default)
    b = g                                          (first gradient of this tensor)
    b = momentum * b + (1 - dampening) * g         (later)
    d = g + momentum * b                           (Nesterov)   or   d = b
    p = p - lr * d

Where paper and usual code differ
- Paper: v = momentum * v - lr * g, p = p + v: the lr is inside the buffer. torch (default here): outside. The same
  while lr is constant; a schedule tells them apart. There is no schedule here, so no keyword.
- Paper's Nesterov takes the gradient at p + momentum * v. torch's form, used here, is the same method written at the
  shifted point.
- The first buffer is g itself in torch, whatever the dampening; from a buffer of zeros it would be (1 - dampening) * g.
  `first_step_dampened=True` gives the latter.
- The decay is added to the gradient in torch. `decoupled_weight_decay=True` takes lr * weight_decay * p off first
  (1711.05101).
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    first_step_dampened: bool = False,
) -> list[np.ndarray]:
    params = [np.array(p, dtype=np.float64) for p in params]
    buffers: list[np.ndarray | None] = [None for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            g = -given if maximize else given
            if decoupled_weight_decay:
                p = p - lr * weight_decay * p
            else:
                g = g + weight_decay * p
            d = g
            if momentum != 0:
                if buffers[i] is not None:
                    b = momentum * buffers[i] + (1 - dampening) * g
                elif first_step_dampened:
                    b = (1 - dampening) * g
                else:
                    b = g
                buffers[i] = b
                d = g + momentum * b if nesterov else b
            params[i] = p - lr * d
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.03, "weight_decay": 0.2},
    {"lr": 0.03, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2},
    {"lr": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
    {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2, "decoupled_weight_decay": True},
]  # fmt: skip
