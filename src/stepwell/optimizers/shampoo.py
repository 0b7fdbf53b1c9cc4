"""Shampoo: the gradient multiplied by inverse roots of the second moments of its rows and of its columns.

L         <- L + g g^T,  R <- R + g^T g                  (beta2 < 1: running means)
direction  = L^(-1/4) g R^(-1/4)                         roots computed every precondition_frequency steps
p         <- p - lr * direction
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import MatrixOptions, OneOf, Optimizer, Params, Range, Slot, Unpack, hyperparameters
from stepwell.optimizers.eigen import eigh, work_of_sides
from stepwell.optimizers.facts import Facts


def inverse_root(second: Tensor, power: float, floor: float) -> Tensor:
    """second^(-power) of a stack (n, side, side), by eigenvalues of at least `floor`; empty for an empty stack.

    Eigenvalues are also at least as large as their rounding errors: side * machine epsilon * the largest eigenvalue,
    and the magnitude of the lowest where that is negative. Directions without a gradient have eigenvalues of that size
    and of either sign. With `floor` alone, which decays with beta2**t, their roots amplify the rounding errors of the
    gradient until these dominate the step.
    """
    if not second.numel():
        return second
    values, vectors = eigh(second)  # (n, side), (n, side, side)
    rounding = second.shape[-1] * torch.finfo(second.dtype).eps * values[:, -1:]  # (n, 1)
    values = values.maximum(rounding).maximum(-values[:, :1]).clamp(min=floor)
    # torch rounds float32 powers otherwise in whole vectors than in what is left over at the end of a stack.
    powers = values.double().pow(-power).to(second.dtype)
    return torch.bmm(vectors * powers[:, None, :], vectors.mT)  # (n, side, side)


# A matrix rule: torch operations on a stack of equally shaped tensors, (n, rows, columns).
def update(
    g, p, t, left, right, root_left, root_right, exp_avg, square, momentum_buffer,
    *, beta1, beta2, eps, eps_at_root, bias_correction, precondition_frequency, exponent, momentum, grafting,
    grafting_beta2, grafting_eps, max_precond_dim, shape,
):  # fmt: skip
    kept = right, root_right
    if len(shape) < 2:  # a vector is a column (n, rows, 1) with one side
        right = right[:, :0, :0]
    sides = [side for side in (left, right) if side.numel()]
    eye = [torch.eye(side.shape[-1], dtype=g.dtype, device=g.device) for side in (left, right)]
    if t == 1 and not eps_at_root:
        left, right = left + eps * eye[0], right + eps * eye[1]
    weight = 1.0 if beta2 == 1 else 1 - beta2
    if left.numel():
        left = torch.baddbmm(left, g, g.mT, beta=beta2, alpha=weight)  # (n, rows, rows)
    if right.numel():
        right = torch.baddbmm(right, g.mT, g, beta=beta2, alpha=weight)  # (n, columns, columns)
    if (t - 1) % precondition_frequency == 0 and sides:
        scale = 1 / (1 - beta2**t) if bias_correction and beta2 != 1 else 1.0
        power = 1 / (2 * len(sides)) if exponent is None else exponent
        added = eps if eps_at_root else 0.0
        floor = eps if eps_at_root else max(eps * beta2**t * scale, torch.finfo(g.dtype).tiny)
        root_left = inverse_root(left * scale + added * eye[0], power, floor)
        root_right = inverse_root(right * scale + added * eye[1], power, floor)
    mean = g
    if exp_avg is not None:
        exp_avg = exp_avg.lerp(g, 1 - beta1)
        mean = exp_avg / (1 - beta1**t)
    direction = torch.bmm(root_left, mean) if left.numel() else mean  # (n, rows, columns)
    direction = torch.bmm(direction, root_right) if right.numel() else direction
    if grafting is not None:
        square, size = _size(mean, g, t, square, grafting, grafting_beta2, grafting_eps)
        norm = torch.linalg.matrix_norm(direction, keepdim=True)  # (n, 1, 1)
        direction = direction * torch.where(norm > 0, size / norm, 1.0)
    if momentum_buffer is not None:
        direction = momentum_buffer = momentum * momentum_buffer + direction
    if len(shape) < 2:
        right, root_right = kept
    return direction, left, right, root_left, root_right, exp_avg, square, momentum_buffer


def _size(mean, g, t, square, grafting, beta2, eps):
    """The slot of the grafted method, and the norm of its direction: (n, 1, 1)."""
    if grafting == "sgd":
        return square, torch.linalg.matrix_norm(mean, keepdim=True)
    square = square + g * g if grafting == "adagrad" else square.lerp(g * g, 1 - beta2)
    second = square if grafting == "adagrad" else square / (1 - beta2**t)
    return square, torch.linalg.matrix_norm(mean / (second.sqrt() + eps), keepdim=True)


class Shampoo(Optimizer):
    """Shampoo: a full preconditioner for each side of a matrix, for large batches and long runs.

    Cost: 2 (n^2 + m^2) numbers of state for a matrix of n x m, and eigenvalues every `precondition_frequency` steps.
    Sides longer than `max_precond_dim` are not preconditioned; then the other side alone has exponent 1/2. With
    grafting, each step has the norm of another method's step, and lr is that method's. Without grafting, lr is SGD's
    divided by the sum of gradients so far, and hard to guess. SOAP is Shampoo with Adam inside.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`); `process_group` divides the matrices over
            the processes of DistributedDataParallel. Convolution kernels are matrices of the first dimension by all
            others; vectors have one side. "bf16", "int8" and "int4" store L and R in 16 bits;
            their roots stay fp32.
        lr: learning rate, at least 0.
        momentum: decay rate of a buffer of directions after grafting, in [0, 1); 0: no buffer.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        eps: initial diagonal of L and R, above 0.
        beta1: decay rate of an average of gradients that is preconditioned in place of the gradient, in [0, 1); 0:
            none.
        beta2: decay rate of L and R, in (0, 1]; 1 sums, as in the paper.
        bias_correction: divide L and R by 1 - beta2**t for the root (beta2 < 1).
        precondition_frequency: steps between two computations of the roots, at least 1.
        exponent: exponent of the roots, above 0; None: 1/4 for a matrix, 1/2 for a single side.
        grafting: the method whose norm each step has: "sgd", "adagrad", "adam"; None: no grafting.
        grafting_beta2, grafting_eps: Adam's beta2, and the eps of both Adam and Adagrad, in the grafted norm.
        eps_at_root: add eps to L and R only to compute the root, instead of once at the start.
        max_precond_dim: the longest side that is preconditioned, at least 0; eigenvalues cost its cube.

    Reference: Gupta, Koren, Singer, "Shampoo: preconditioned stochastic tensor optimization", arXiv 1802.09568,
    algorithm 1; grafting and running means as in Anil et al., arXiv 2002.09018, and Shi et al., arXiv 2309.06497. In
    the paper's algorithm 2 a tensor has one matrix per dimension; here it is reshaped to a matrix. With beta2 below 1
    the initial eps decays. Eigenvalues of directions without gradients are then rounding errors, and are bounded below
    by the size of these.

    Warns once where a matrix has a gradient that is not finite or second moments that overflow, and makes no step
    there.

    >>> optimizer = Shampoo(model.parameters(), lr=1e-3, beta2=0.999, grafting="adam", precondition_frequency=20)
    """

    rule, decay, view = update, "decoupled", "matrix"
    slots = (
        Slot("left", per="left", limit="max_precond_dim"),
        Slot("right", per="right", limit="max_precond_dim"),
        Slot("root_left", per="left", limit="max_precond_dim", wide=True),
        Slot("root_right", per="right", limit="max_precond_dim", wide=True),
        Slot("exp_avg", when="beta1", memory="beta1"),
        Slot("square", when=lambda group: group["grafting"] in ("adagrad", "adam"), signed=False),
        Slot("momentum_buffer", when="momentum", memory="momentum"),
    )
    ranges = {
        "eps": Range(0, open_low=True),
        "beta1": Range(0, 1),
        "beta2": Range(0, 1, open_low=True, open_high=False),
        "grafting_beta2": Range(0, 1),
        "grafting_eps": Range(0),
        "precondition_frequency": Range(1, whole=True),
        "exponent": Range(0, open_low=True, optional=True),
        "grafting": OneOf((None, "sgd", "adagrad", "adam")),
        "max_precond_dim": Range(0, math.inf, open_high=False, whole=True),
    }
    facts = Facts(
        kind="matrix",
        lr={"default": (1e-4, 1.0), "cnn": (1e-3, 1.0), "transformer": (1e-4, 1e-2), "toy": (1e-2, 1.0)},
        compare_options={"beta2": 0.99, "beta1": 0.9, "grafting": "adam", "bias_correction": True, "eps": 1e-6},
        method="matrix",
        lr_against_adamw=None,
        source="Gupta et al. 1802.09568; with a norm grafted its method's lr (Anil et al. 2002.09018, Shi et al. "
        "2309.06497)",
    )

    def __init__(
        self, params: Params, lr: float = 1e-2, momentum: float = 0.0, weight_decay: float = 0.0, eps: float = 1e-4, *,
        beta1: float = 0.0, beta2: float = 1.0, bias_correction: bool = False, precondition_frequency: int = 1,
        exponent: float | None = None, grafting: str | None = None, grafting_beta2: float = 0.999,
        grafting_eps: float = 1e-8, eps_at_root: bool = False, max_precond_dim: int = 1024,
        **options: Unpack[MatrixOptions],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    @classmethod
    def work(cls, group: Mapping[str, Any], shape: Sequence[int]) -> float:
        return work_of_sides(shape, group["max_precond_dim"], group["precondition_frequency"], products=2)
