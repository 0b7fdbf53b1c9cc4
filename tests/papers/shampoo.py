"""Shampoo: one matrix of second moments per dimension of a tensor, and the gradient times an inverse root of each.

Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", 1802.09568, Algorithms 1 (matrices)
and 2 (tensors).

For a tensor of k dimensions, for each dimension i:

    H_i = eps * I                                                    (start)
    H_i = H_i + g contracted with itself over all dimensions but i   (for a matrix: g g^T and g^T g)
    d = g times H_i^(-1 / (2 k)) along each dimension i
    p = p - lr * d

A vector has k = 1: the full matrix to the power -1/2. A scalar is a vector of one element.

Beyond the paper, as practice has it (2002.09018, and Meta's distributed Shampoo, 2309.06497); all off by default:
- `beta2 < 1`: running mean, H = beta2 * H + (1 - beta2) * ...; 1 sums. `bias_correction`: divided by 1 - beta2^t for
  the root.
- `eps_at="start"` (default; paper): as above. `"root"`: H starts at zero and eps * I is added for the root only.
- `precondition_every=k`: the roots are made anew at a tensor's steps 1, 1 + k, 1 + 2 k, ..., the H at every step.
- `exponent`: in place of 1 / (2 k); 1/2 for the variants that use L^(-1/2) g R^(-1/2).
- `beta1`: what is preconditioned (and grafted) is the running mean of the gradients, over 1 - beta1^t; H still sees
  the gradient.
- `grafting`: d gets the Frobenius norm of another method's direction: "sgd" the gradient itself; "adagrad" g /
  (sqrt(sum of g^2) + grafting_eps); "adam" g / (sqrt(v / (1 - grafting_beta2^t)) + grafting_eps), with g the running
  mean of beta1 in all three.
- `momentum`: b = momentum * b + d after grafting, p = p - lr * b.
- weight_decay: p = p - lr * weight_decay * p first (the paper has none).

Roots by eigendecomposition; an eigenvalue that is not positive is refused, for then eps is too small for the
arithmetic to say anything.
"""

import numpy as np


def trajectory(
    params: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
    *,
    lr: float = 1e-2,
    beta1: float = 0.0,
    beta2: float = 1.0,
    eps: float = 1e-4,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    precondition_every: int = 1,
    grafting: str | None = None,
    grafting_beta2: float = 0.999,
    grafting_eps: float = 1e-8,
    bias_correction: bool = False,
    eps_at: str = "start",
    exponent: float | None = None,
    maximize: bool = False,
) -> list[np.ndarray]:
    if grafting not in (None, "sgd", "adagrad", "adam") or eps_at not in ("start", "root"):
        raise ValueError(f"unknown {grafting=} or {eps_at=}")
    params = [np.array(p, dtype=np.float64) for p in params]
    statistics = [
        [eps * np.eye(n) if eps_at == "start" else np.zeros((n, n)) for n in (p.shape or (1,))] for p in params
    ]
    roots: list[list[np.ndarray]] = [[] for _ in params]
    m = [np.zeros_like(p) for p in params]
    squares = [np.zeros_like(p) for p in params]
    buffers = [np.zeros_like(p) for p in params]
    steps = [0 for _ in params]
    for row in grads:
        for i, given in enumerate(row):
            if given is None:
                continue
            steps[i] += 1
            t = steps[i]
            g = -given if maximize else given

            tensor = g.reshape(g.shape or (1,))
            order = tensor.ndim
            for axis in range(order):
                others = [other for other in range(order) if other != axis]
                outer = np.tensordot(tensor, tensor, axes=(others, others))
                if beta2 == 1:
                    statistics[i][axis] = statistics[i][axis] + outer
                else:
                    statistics[i][axis] = beta2 * statistics[i][axis] + (1 - beta2) * outer
            if (t - 1) % precondition_every == 0:
                roots[i] = []
                for h in statistics[i]:
                    if bias_correction and beta2 != 1:
                        h = h / (1 - beta2**t)
                    if eps_at == "root":
                        h = h + eps * np.eye(len(h))
                    values, vectors = np.linalg.eigh(h)
                    if values[0] <= 0:
                        raise ValueError(f"a second moment has the eigenvalue {values[0]}: {eps=} is too small")
                    power = 1 / (2 * order) if exponent is None else exponent
                    roots[i].append(vectors * values**-power @ vectors.T)

            m[i] = beta1 * m[i] + (1 - beta1) * g
            mean = m[i] / (1 - beta1**t)
            d = mean.reshape(tensor.shape)
            for axis, root in enumerate(roots[i]):
                d = np.moveaxis(np.tensordot(root, d, axes=(1, axis)), 0, axis)
            d = d.reshape(g.shape)

            if grafting is not None:
                if grafting == "sgd":
                    other = mean
                elif grafting == "adagrad":
                    squares[i] = squares[i] + g**2
                    other = mean / (np.sqrt(squares[i]) + grafting_eps)
                else:
                    squares[i] = grafting_beta2 * squares[i] + (1 - grafting_beta2) * g**2
                    other = mean / (np.sqrt(squares[i] / (1 - grafting_beta2**t)) + grafting_eps)
                norm = np.sqrt(np.sum(d**2))
                if norm > 0:
                    d = d * np.sqrt(np.sum(other**2)) / norm

            buffers[i] = momentum * buffers[i] + d
            p = params[i] - lr * weight_decay * params[i]
            params[i] = p - lr * buffers[i]
    return [np.asarray(p) for p in params]


# The rows of the contract (tests/contract): together they set every hyperparameter off its default.
ROWS = [
    {"lr": 0.02, "eps": 1e-2, "weight_decay": 0.2},
    {"lr": 0.02, "momentum": 0.6, "weight_decay": 0.2, "eps": 1e-2, "beta1": 0.7, "beta2": 0.9,
     "bias_correction": True, "grafting": "adam", "grafting_beta2": 0.9, "grafting_eps": 1e-3,
     "precondition_frequency": 3},
    {"lr": 0.02, "eps": 1e-2, "eps_at_root": True, "exponent": 0.4, "grafting": "adagrad", "weight_decay": 0.2},
]  # fmt: skip
