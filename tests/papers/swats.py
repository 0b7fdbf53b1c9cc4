"""SWATS: Adam, until the learning rate with which SGD would make steps of the same length has settled; then SGD.

Keskar, Socher, "Improving generalization performance by switching from Adam to SGD", 1712.07628, Algorithm 1.

    m = beta1 * m + (1 - beta1) * g
    a = beta2 * a + (1 - beta2) * g^2
    p = -lr * sqrt(1 - beta2^k) / (1 - beta1^k) * m / (sqrt(a) + eps)
    w = w + p
    if p . g != 0:                                 (. over all tensors)
        gamma = p . p / -(p . g)
        lambda = beta2 * lambda + (1 - beta2) * gamma
        if k > 1 and |lambda / (1 - beta2^k) - gamma| < tolerance:
            from the next step on SGD, with Lambda = lambda / (1 - beta2^k) and v = 0:
                v = beta1 * v + g
                w = w - (1 - beta1) * Lambda * v

Where paper and usual code differ
- The paper has one epsilon for Adam and for the criterion (1e-9); here they are two, `eps` and `tolerance`.
- eps: the paper adds it to the uncorrected root, `eps_at="paper"`; usual Adams, and the default here, to the corrected
  one.
- A decay in the gradient (`weight_decay`) is part of g everywhere.
"""

import numpy as np


def trajectory(params, grads, **options) -> list[np.ndarray]:
    """The weights after all steps."""
    return _run(params, grads, **options)[0]


def switch(params, grads, **options) -> tuple[int, float] | None:
    """The number of the last step of Adam and Lambda, or None if it never settles."""
    return _run(params, grads, **options)[1]


def _run(
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-9,
    tolerance: float = 1e-9,
    weight_decay: float = 0.0,
    maximize: bool = False,
    eps_at: str = "corrected",
) -> tuple[list[np.ndarray], tuple[int, float] | None]:
    beta1, beta2 = betas
    w = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in w]
    a = [np.zeros_like(p) for p in w]
    v = [np.zeros_like(p) for p in w]
    running = 0.0
    found: tuple[int, float] | None = None
    for k, row in enumerate(grads, start=1):
        g = [(-x if maximize else x) + weight_decay * p for x, p in zip(row, w, strict=True)]
        if found is not None:
            for i in range(len(w)):
                v[i] = beta1 * v[i] + g[i]
                w[i] = w[i] - (1 - beta1) * found[1] * v[i]
            continue
        p_dot_p = p_dot_g = 0.0
        for i in range(len(w)):
            m[i] = beta1 * m[i] + (1 - beta1) * g[i]
            a[i] = beta2 * a[i] + (1 - beta2) * g[i] ** 2
            if eps_at == "paper":
                p = -lr * np.sqrt(1 - beta2**k) / (1 - beta1**k) * m[i] / (np.sqrt(a[i]) + eps)
            else:
                p = -lr * (m[i] / (1 - beta1**k)) / (np.sqrt(a[i] / (1 - beta2**k)) + eps)
            w[i] = w[i] + p
            p_dot_p += np.sum(p * p)
            p_dot_g += np.sum(p * g[i])
        if p_dot_g != 0:
            gamma = p_dot_p / -p_dot_g
            running = beta2 * running + (1 - beta2) * gamma
            settled = running / (1 - beta2**k)
            if k > 1 and abs(settled - gamma) < tolerance:
                found = (k, float(settled))
    return [np.asarray(p) for p in w], found
