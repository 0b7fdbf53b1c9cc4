"""Cautious masking: an element moves only where the direction and the gradient agree; the rest is scaled up to make
good.

Liang, Chen, Liu, Liu, "Cautious Optimizers: Improving Training with One Line of Code", 2411.16085, Algorithms 1 and 2.

    mask = 1 where direction * gradient > 0, else 0
    direction * mask * scale,  of each tensor

`direction` is what the optimizer would subtract (times lr), without the decay; `gradient` the present gradient
(negated first when maximising). An element whose gradient is zero does not move. Three scales are in use:

- "clamped_mean" (default; the authors' code now, and timm): 1 / max(mean(mask), 1e-3)
- "dim_over_nnz" (the paper's alpha; the first release): size / (sum(mask) + 1)
- "mean_eps" (the one line in the paper): 1 / (mean(mask) + eps)
"""

import numpy as np


def cautious(
    direction: np.ndarray, gradient: np.ndarray, scaling: str = "clamped_mean", *, eps: float = 1e-8
) -> np.ndarray:
    mask = np.where(direction * gradient > 0, 1.0, 0.0)
    if scaling == "clamped_mean":
        scale = 1 / max(np.mean(mask), 1e-3)
    elif scaling == "dim_over_nnz":
        scale = mask.size / (np.sum(mask) + 1)
    elif scaling == "mean_eps":
        scale = 1 / (np.mean(mask) + eps)
    else:
        raise ValueError(f"unknown {scaling=}")
    return np.asarray(direction * mask * scale)
