"""Lookahead: k steps of another optimizer, then back along the way, to a point on the line from where they began.

Zhang, Lucas, Hinton, Ba, "Lookahead optimizer: k steps forward, 1 step back", 1907.08610, Algorithm 1.

    repeat
        fast = slow
        k times: fast = fast - lr * d              (the optimizer inside; here SGD with momentum, decay in the gradient)
        slow = slow + alpha * (fast - slow)

Where paper and usual code differ
- The state of the optimizer inside after a cycle: section 2.1 keeps it; `pullback="reset"` begins with zeros and
  `"pullback"` averages it as the weights, m = alpha * m + (1 - alpha) * (m after the cycle before, at first 0), as the
  authors' code offers.
- One clock for all tensors: a cycle has k steps of the optimizer, also for a tensor that had fewer gradients in it.

`point="fast"` (default) returns the weights as they are after the last step (those of `slow` at the end of a cycle),
"slow" the slow ones.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    k: int = 5,
    alpha: float = 0.5,
    pullback: str = "none",
    lr: float = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    point: str = "fast",
) -> list[np.ndarray]:
    if pullback not in ("none", "reset", "pullback"):
        raise ValueError(f"unknown {pullback=}")
    slow = [np.array(p, dtype=np.float64) for p in params]
    fast = [p.copy() for p in slow]
    buffers: list[np.ndarray | None] = [None for _ in slow]
    buffers_before = [np.zeros_like(p) for p in slow]
    for number, row in enumerate(grads, start=1):
        for i, given in enumerate(row):
            if given is None:
                continue
            g = (-given if maximize else given) + weight_decay * fast[i]
            if momentum != 0:
                buffers[i] = g if buffers[i] is None else momentum * buffers[i] + g
                g = buffers[i]
            fast[i] = fast[i] - lr * g
        if number % k != 0:
            continue
        for i in range(len(slow)):
            slow[i] = slow[i] + alpha * (fast[i] - slow[i])
            fast[i] = slow[i].copy()
            if buffers[i] is None:
                continue
            if pullback == "reset":
                buffers[i] = np.zeros_like(slow[i])
            elif pullback == "pullback":
                buffers[i] = alpha * buffers[i] + (1 - alpha) * buffers_before[i]
                buffers_before[i] = buffers[i].copy()
    return [np.asarray(p) for p in {"fast": fast, "slow": slow}[point]]
