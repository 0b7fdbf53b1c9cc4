"""ADOPT: Adam whose second moment has not seen the gradient that it divides, and whose momentum comes after the
division.

Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", 2411.02853, Algorithm 2.

    first gradient of a tensor: v = g^2, and p does not move; then, for t = 1, 2, ...
    p = p - lr * weight_decay * p
    m = beta1 * m + (1 - beta1) * clip(g / max(sqrt(v), eps), t^(1/4))
    p = p - lr * m
    v = beta2 * v + (1 - beta2) * g^2

Where paper and authors' code, and versions of either, differ
- Clipping came with the second version. `clip_power=0.25` (default); `None` does not clip.
- `first_moment="zero"` (default): m starts at 0. `"full"`: the first m is the normalised gradient itself, as in the
  first release of the code.
- The first release also decayed on the call that only initialises v: `decay_on_first_call=True`.
- `decouple=True` (default) as written above; the code's default is False, which adds weight_decay * p to g, into v too.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.9999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decouple: bool = True,
    maximize: bool = False,
    clip_power: float | None = 0.25,
    first_moment: str = "zero",
    decay_on_first_call: bool = False,
) -> list[np.ndarray]:
    if first_moment not in ("zero", "full"):
        raise ValueError(f"unknown {first_moment=}")
    beta1, beta2 = betas
    params = [np.array(p, dtype=np.float64) for p in params]
    m = [np.zeros_like(p) for p in params]
    v: list[np.ndarray | None] = [None for _ in params]
    steps = [0 for _ in params]  # updates made, one less than gradients seen
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            p = params[i]
            g = -given if maximize else given
            if not decouple:
                g = g + weight_decay * p
            if v[i] is None:
                v[i] = g**2
                if decouple and decay_on_first_call:
                    params[i] = p - lr * weight_decay * p
                continue
            steps[i] += 1
            t = steps[i]
            if decouple:
                p = p - lr * weight_decay * p
            normed = g / np.maximum(np.sqrt(v[i]), eps)
            if clip_power is not None:
                normed = np.clip(normed, -(t**clip_power), t**clip_power)
            if t == 1 and first_moment == "full":
                m[i] = normed
            else:
                m[i] = beta1 * m[i] + (1 - beta1) * normed
            params[i] = p - lr * m[i]
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-2, "weight_decay": 0.2, "clip_power": 0.1},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-2, "weight_decay": 0.2, "clip_power": None,
     "decoupled_weight_decay": False},
]  # fmt: skip
