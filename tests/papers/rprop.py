"""Rprop: a step size per element that grows while the gradient keeps its sign and shrinks when it turns.

Riedmiller, Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm", ICNN 1993.

    where g * g_prev > 0:  step = min(step * eta_plus, max);   p = p - sign(g) * step;  g_prev = g
    where g * g_prev < 0:  step = max(step * eta_minus, min);  p stays;                 g_prev = 0
    where g * g_prev = 0:                                      p = p - sign(g) * step;  g_prev = g

The first step size is lr, g_prev starts at zero.

Where paper and usual code differ
- The paper takes the last step back where the sign turned (Rprop+): `variant="riedmiller"`. torch leaves the element
  where it is (iRprop-, Igel and Huesken 2000): `variant="torch"`, the default.
- torch clips the step size to its limits at every step, also where the sign is zero; so do we, which shows only when
  lr is outside the limits.
- The paper's numbers: eta 0.5 and 1.2, first step 0.1, limits 1e-6 and 50. torch's first step is lr = 1e-2.
- There is no weight decay, in either.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
    maximize: bool = False,
    variant: str = "torch",
) -> list[np.ndarray]:
    if variant not in ("torch", "riedmiller"):
        raise ValueError(f"unknown {variant=}")
    eta_minus, eta_plus = etas
    smallest, largest = step_sizes
    params = [np.array(p, dtype=np.float64) for p in params]
    previous = [np.zeros_like(p) for p in params]
    size = [np.full_like(p, lr) for p in params]
    moved = [np.zeros_like(p) for p in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            g = -given if maximize else given
            agreement = np.sign(g) * np.sign(previous[i])
            factor = np.where(agreement > 0, eta_plus, np.where(agreement < 0, eta_minus, 1.0))
            size[i] = np.clip(size[i] * factor, smallest, largest)
            g = np.where(agreement < 0, 0.0, g)
            step = -np.sign(g) * size[i]
            if variant == "riedmiller":
                step = np.where(agreement < 0, -moved[i], step)
            params[i] = params[i] + step
            moved[i] = step
            previous[i] = g
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (0.01, 0.05)},
    {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (0.01, 0.05), "variant": "riedmiller"},
]  # fmt: skip

# The share of elements at which 16-bit numbers may decide the sign otherwise (tests/contract/table.py).
TIES = 1e-3
