"""Muon: momentum whose singular values are pushed towards one by a Newton-Schulz iteration.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (a post; github.com/KellerJordan/Muon),
and Liu et al., "Muon is Scalable for LLM Training", 2502.16982.

    b = momentum * b + (1 - momentum) * g
    u = (1 - momentum) * g + momentum * b             (Nesterov)   or   u = b
    x = u, transposed if it has more rows than columns
    x = x / max(||x||_F, eps)
    ns_steps times:  A = x x^T;  x = a * x + (b' * A + c * A A) x           with (a, b', c) = ns_coefficients
    u = x, transposed back
    p = p - lr * weight_decay * p
    p = p - lr * adjustment * u

Everything in float64, where torch and Jordan orthogonalise in bfloat16. A tensor of more than two dimensions is the
matrix of its first dimension by all the others. Vectors and scalars are refused: they belong to another optimizer.

Where the sources differ
- `adjust_lr_fn=None` or "original" (torch, Jordan's code): adjustment sqrt(max(1, rows / columns)). "match_rms_adamw"
  (2502.16982): 0.2 * sqrt(max(rows, columns)). "none": 1. The decay is by the unadjusted lr in all.
- `sides`: of a convolution kernel, rows and columns are those of the matrix, `"matrix"` (default); Jordan's code
  takes the last two dimensions of the kernel, `"last two"` (so 1 for square kernels); torch's expression, which never
  meets a kernel, takes the first two, `"first two"`.
- `norm="max"` (default; torch) as above; `"add"`: x / (||x||_F + eps), Jordan's.
- `missing="left out"` (default; torch): no gradient, nothing happens. `"zeros"` (Jordan's code): it counts as zeros,
  so that momentum and weight still decay and the momentum still moves the weight.
- Jordan's first code summed b = momentum * b + g: the same direction, and so the same step but for eps.
- Defaults are torch's; Jordan's lr is 0.02 with no decay.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    maximize: bool = False,
    sides: str = "matrix",
    norm: str = "max",
    missing: str = "left out",
) -> list[np.ndarray]:
    if adjust_lr_fn not in (None, "original", "match_rms_adamw", "none") or sides not in (
        "matrix",
        "last two",
        "first two",
    ):
        raise ValueError(f"unknown {adjust_lr_fn=} or {sides=}")
    if norm not in ("max", "add") or missing not in ("left out", "zeros"):
        raise ValueError(f"unknown {norm=} or {missing=}")
    if any(np.ndim(p) < 2 for p in params):
        raise ValueError("Muon is for matrices")
    a, b, c = ns_coefficients
    params = [np.array(p, dtype=np.float64) for p in params]
    buffers = [np.zeros_like(p) for p in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                if missing == "left out":
                    continue
                given = np.zeros_like(params[i])
            p = params[i]
            g = -given if maximize else given
            buffers[i] = momentum * buffers[i] + (1 - momentum) * g
            u = (1 - momentum) * g + momentum * buffers[i] if nesterov else buffers[i]

            x = u.reshape(len(u), -1)
            matrix_shape = x.shape
            transposed = x.shape[0] > x.shape[1]
            if transposed:
                x = x.T
            size = np.sqrt(np.sum(x**2))
            x = x / (max(size, eps) if norm == "max" else size + eps)
            for _ in range(ns_steps):
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
            if transposed:
                x = x.T
            u = x.reshape(p.shape)

            n, k = {"matrix": matrix_shape, "last two": p.shape[-2:], "first two": p.shape[:2]}[sides]
            if adjust_lr_fn in (None, "original"):
                adjustment = np.sqrt(max(1.0, n / k))
            elif adjust_lr_fn == "match_rms_adamw":
                adjustment = 0.2 * np.sqrt(max(n, k))
            else:
                adjustment = 1.0
            p = p - lr * weight_decay * p
            params[i] = p - lr * adjustment * u
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.8, "ns_coefficients": (3.0, -4.0, 2.0), "eps": 1e-3,
     "ns_steps": 3, "adamw_lr": 0.01, "adamw_betas": (0.7, 0.95), "adamw_eps": 1e-3, "adamw_weight_decay": 0.1},
    {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.8, "nesterov": False, "adjust_lr_fn": "match_rms_adamw",
     "ns_dtype": "fp32"},
]  # fmt: skip
