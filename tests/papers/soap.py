"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's matrices.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2409.11321, Algorithm 3, with the refresh of
Algorithm 4.

For a matrix (a tensor has one L and one Q per dimension):

    g' = Q_L^T g Q_R
    m = beta1 * m + (1 - beta1) * g                   (in the original space, turned to m' = Q_L^T m Q_R at every step)
    v = beta2 * v + (1 - beta2) * g'^2                (in the basis)
    d = Q_L [m' / (sqrt(v) + eps)] Q_R^T,  times sqrt(1 - beta2^t) / (1 - beta1^t)
    p = p - lr * weight_decay * p
    p = p - lr * d
    L = shampoo_beta * L + (1 - shampoo_beta) * g g^T,  R likewise
    every precondition_frequency steps:  order Q's columns, and v with them, by falling diag(Q^T L Q);  Q = QR of L Q

L starts at zero; the first Q are the eigenvectors, by falling eigenvalue, of the first gradient's L. Between
refreshes v is not turned. Vectors and scalars, and dimensions above max_precond_dim, have no Q: plain Adam along them
(`precondition_1d=True`: vectors have one).

Where paper and authors' code differ
- `first_step="skip"` (default; code): a tensor's first gradient makes L and Q and nothing else; t counts from the
  second. `"use"`: the first gradient also makes a step, in its own basis; it enters L once.
- The code decays after the step, p = (p - lr * d) * (1 - lr * weight_decay): `decay_after=True`.
- `form="efficient"` (default; code): as above, eps beside the uncorrected root. `"algorithm1"`: m' / (1 - beta1^t) over
  sqrt(v / (1 - beta2^t)) + eps. `correct_bias=False`: neither.
- shampoo_beta None: beta2, as in both.
- The code's later versions keep m in the basis and turn it back and forth at every refresh: the same numbers.
- Defaults are the code's.

The first L of a matrix's longer side (and of a vector) has less than full rank, so a part of its Q is the LAPACK's
choice and shows in all that follows. `basis[i]` gives tensor i's first Q (a list, one per dimension, None for a
dimension without), in place of the eigenvectors. Signs of columns never matter. The authors' code takes eigenvectors
and QR in float32 whatever the parameters: against it, even float64 agrees to about 1e-7 only.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.95, 0.95),
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    correct_bias: bool = True,
    maximize: bool = False,
    first_step: str = "skip",
    decay_after: bool = False,
    form: str = "efficient",
    basis: list[list[np.ndarray | None] | None] | None = None,
) -> list[np.ndarray]:
    if first_step not in ("skip", "use") or form not in ("efficient", "algorithm1"):
        raise ValueError(f"unknown {first_step=} or {form=}")
    beta1, beta2 = betas
    if shampoo_beta is None:
        shampoo_beta = beta2
    params = [np.array(p, dtype=np.float64) for p in params]
    # the dimensions of each tensor that have a Q
    turned = [[n <= max_precond_dim and (p.ndim > 1 or precondition_1d) for n in p.shape] for p in params]
    second = [
        [np.zeros((n, n)) if has else None for n, has in zip(p.shape, t, strict=True)]
        for p, t in zip(params, turned, strict=True)
    ]
    q: list[list[np.ndarray | None] | None] = [None for _ in params]
    m = [np.zeros_like(p) for p in params]
    v = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]

    def accumulate(i: int, g: np.ndarray) -> None:
        for axis, h in enumerate(second[i]):
            if h is not None:
                others = [other for other in range(g.ndim) if other != axis]
                outer = np.tensordot(g, g, axes=(others, others))
                second[i][axis] = shampoo_beta * h + (1 - shampoo_beta) * outer

    def into_basis(i: int, x: np.ndarray) -> np.ndarray:
        for axis, vectors in enumerate(q[i]):
            if vectors is not None:
                x = np.moveaxis(np.tensordot(vectors.T, x, axes=(1, axis)), 0, axis)
        return x

    def out_of_basis(i: int, x: np.ndarray) -> np.ndarray:
        for axis, vectors in enumerate(q[i]):
            if vectors is not None:
                x = np.moveaxis(np.tensordot(vectors, x, axes=(1, axis)), 0, axis)
        return x

    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            g = -given if maximize else given
            starting = q[i] is None
            if starting:
                accumulate(i, g)
                if basis is not None and basis[i] is not None:
                    q[i] = list(basis[i])
                else:
                    q[i] = [None if h is None else np.linalg.eigh(h)[1][:, ::-1] for h in second[i]]
                if first_step == "skip":
                    continue

            steps[i] += 1
            t = steps[i]
            turned_g = into_basis(i, g)
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * turned_g**2
            turned_m = into_basis(i, m[i])
            correction1 = 1 - beta1**t if correct_bias else 1.0
            correction2 = 1 - beta2**t if correct_bias else 1.0
            if form == "efficient":
                d = turned_m / (np.sqrt(v[i]) + eps) * np.sqrt(correction2) / correction1
            else:
                d = turned_m / correction1 / (np.sqrt(v[i] / correction2) + eps)
            d = out_of_basis(i, d)
            p = params[i]
            if not decay_after:
                p = p - lr * weight_decay * p
            p = p - lr * d
            if decay_after:
                p = p - lr * weight_decay * p
            params[i] = p

            if not starting:
                accumulate(i, g)
            if t % precondition_frequency == 0:
                for axis, h in enumerate(second[i]):
                    if h is not None:
                        vectors = q[i][axis]
                        falling = np.argsort(-np.diag(vectors.T @ h @ vectors), kind="stable")
                        v[i] = np.take(v[i], falling, axis=axis)
                        q[i][axis] = np.linalg.qr(h @ vectors[:, falling])[0]
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "shampoo_beta": 0.8, "eps": 1e-3, "weight_decay": 0.2,
     "precondition_frequency": 3},
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "precondition_frequency": 4,
     "correct_bias": False, "max_precond_dim": 6},
]  # fmt: skip
