"""SparseAdam: Adam that reads and writes only the rows a gradient touches ("lazy" Adam).

torch.optim.SparseAdam's documentation; Adam is 1412.6980, Algorithm 1, in the form at the end of its section 2.

For the rows r of the gradient, and for no others:

    m[r] = beta1 * m[r] + (1 - beta1) * g[r]
    v[r] = beta2 * v[r] + (1 - beta2) * g[r]^2
    p[r] = p[r] - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m[r] / (sqrt(v[r]) + eps)

- t counts the gradients of the whole tensor, not of the row, in torch and here. `clock="row"` counts per row instead.
- eps is added to sqrt(v) before the bias correction (unlike torch's own Adam).
- Gradients are given dense, duplicates already summed. `rows[t][i]` are the indices that the sparse gradient holds; a
  row that is held but all zero is touched, as in torch. Without `rows` every row with a nonzero element is touched.
- A gradient that holds no rows still counts as a step, as in torch. There is no weight decay.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    maximize: bool = False,
    rows: list[list[np.ndarray | None]] | None = None,
    clock: str = "tensor",
) -> list[np.ndarray]:
    if clock not in ("tensor", "row"):
        raise ValueError(f"unknown {clock=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    row_steps = [[0] * len(p) for p in params]
    for number, row in enumerate(grads):
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            g = -given if maximize else given
            touched = [r for r in range(len(g)) if np.any(g[r] != 0)] if rows is None else rows[number][i]
            for r in touched:
                row_steps[i][r] += 1
                t = steps[i] if clock == "tensor" else row_steps[i][r]
                m[i][r] = beta1 * m[i][r] + (1 - beta1) * g[r]
                v[i][r] = beta2 * v[i][r] + (1 - beta2) * g[r] ** 2
                step_size = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
                params[i][r] = params[i][r] - step_size * m[i][r] / (np.sqrt(v[i][r]) + eps)
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3},
]  # fmt: skip
