"""SOAP: Adam in the eigenbasis of Shampoo's two matrices, which is updated every few steps.

first gradient: computes L, R and their eigenvectors Q and makes no step; t counts the gradients after it
g'          = Q_L^T g Q_R
exp_avg    <- beta1 * exp_avg + (1 - beta1) * g                      in the original space
exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g'^2                in the eigenbasis
direction   = Q_L [Q_L^T exp_avg Q_R / (sqrt(exp_avg_sq) + eps)] Q_R^T * sqrt(1 - beta2**t) / (1 - beta1**t)
L          <- shampoo_beta * L + (1 - shampoo_beta) * g g^T          R likewise, with g^T g
Q          <- QR(L Q)                                                every precondition_frequency steps
p          <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import MatrixOptions, Optimizer, Params, Range, RuleSignature, Slot, Unpack, hyperparameters
from stepwell.ops import ema, ema_square, maximum, sqrt, where
from stepwell.optimizers.eigen import eigh, work_of_sides
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.pieces import bias_correction

# exp_avg is fp32 in every format. Where gradients have low rank (the start of LoRA), exp_avg and exp_avg_sq are almost
# zero in most directions of the eigenbasis. Rounding errors of exp_avg there are divided by exp_avg_sq and become whole
# steps: with exp_avg in int8 the loss of such a run rose from 0.96 to 2.6; in bf16 its course differed from fp32's.
EXACT_EXP_AVG = Slot("exp_avg", memory="beta1", wide=True)
MOMENTS = (Slot("exp_avg", memory="beta1"), Slot("exp_avg_sq", signed=False, memory="beta2"))


def projected(x: Tensor, q_left: Tensor, q_right: Tensor) -> Tensor:
    """Q_L^T x Q_R; an empty Q is the identity. With Q^T in place of Q, this projects back."""
    x = torch.bmm(q_left.mT, x) if q_left.numel() else x  # not `@`, which copies a transposed tensor
    return torch.bmm(x, q_right) if q_right.numel() else x  # (n, rows, columns)


def first_basis(second: Tensor) -> Tensor:
    """Eigenvectors in descending order of eigenvalue, (n, side, side); empty for an empty stack."""
    return eigh(second)[1].flip(-1) if second.numel() else second


def next_basis(second: Tensor, q: Tensor, exp_avg_sq: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """One orthogonal iteration (algorithm 4): sort Q and exp_avg_sq by descending Rayleigh quotient, then QR."""
    if not q.numel():
        return q, exp_avg_sq
    quotients = (q * torch.bmm(second, q)).sum(dim=-2)  # (n, side)
    falling = quotients.argsort(dim=-1, descending=True, stable=True)
    q = q.take_along_dim(falling[:, None, :], dim=-1)  # (n, side, side)
    order = falling[:, :, None] if side == -2 else falling[:, None, :]
    return torch.linalg.qr(torch.bmm(second, q)).Q, exp_avg_sq.take_along_dim(order, dim=side)


# A matrix rule: torch operations on a stack of equally shaped tensors, (n, rows, columns). None in place of a direction
# is no step: decay, which the frame applies, neither.
def update(
    g, p, t, exp_avg, exp_avg_sq, left, right, q_left, q_right,
    *, lr, beta1, beta2, shampoo_beta, eps, precondition_frequency, correct_bias, max_precond_dim,
):  # fmt: skip
    weight = 1 - (beta2 if shampoo_beta is None else shampoo_beta)
    if left.numel():
        left = torch.baddbmm(left, g, g.mT, beta=1 - weight, alpha=weight)  # (n, rows, rows)
    if right.numel():
        right = torch.baddbmm(right, g.mT, g, beta=1 - weight, alpha=weight)  # (n, columns, columns)
    t = t - 1
    if t == 0:
        return None, exp_avg, exp_avg_sq, left, right, first_basis(left), first_basis(right)
    exp_avg = exp_avg.lerp(g, 1 - beta1)  # (n, rows, columns)
    exp_avg_sq = exp_avg_sq.lerp(projected(g, q_left, q_right).square(), 1 - beta2)
    direction = projected(exp_avg, q_left, q_right) / (exp_avg_sq.sqrt() + eps)
    direction = projected(direction, q_left.mT, q_right.mT)
    direction = direction * (bias_correction(beta1, beta2, t) if correct_bias else 1.0)
    if t % precondition_frequency == 0:
        q_left, exp_avg_sq = next_basis(left, q_left, exp_avg_sq, -2)
        q_right, exp_avg_sq = next_basis(right, q_right, exp_avg_sq, -1)
    return lr * direction, exp_avg, exp_avg_sq, left, right, q_left, q_right


def vector_update(g, p, t, exp_avg, exp_avg_sq, *, lr, weight_decay, beta1, beta2, eps, correct_bias):
    first = t == 1
    t = maximum(t - 1, 1)
    exp_avg = where(first, exp_avg, ema(exp_avg, g, beta1))
    exp_avg_sq = where(first, exp_avg_sq, ema_square(exp_avg_sq, g, beta2))
    factor = bias_correction(beta1, beta2, t) if correct_bias else 1.0
    direction = factor * (exp_avg / (sqrt(exp_avg_sq) + eps)) + weight_decay * p
    return where(first, 0, lr * direction), exp_avg, exp_avg_sq


class SOAP(Optimizer):
    """SOAP: fewer steps than AdamW where batches are large, at the cost of two square matrices per layer and side.

    Cost: for a matrix of n x m, 2 (n^2 + m^2) numbers of state in addition to Adam's 2 n m, and a QR decomposition
    every `precondition_frequency` steps. Sides longer than `max_precond_dim` (embeddings, heads) have no eigenbasis.
    Vectors are updated by Adam. Against AdamW: the same betas and weight decay, lr the same or twice as large.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`); `process_group` divides the matrices over
            the processes of DistributedDataParallel. Convolution kernels are matrices of the first dimension by all
            others. For a matrix, exp_avg and the eigenbases stay fp32 in every format: rounding errors of exp_avg are
            divided by second moments that can be almost zero, and rounded bases would not stay orthogonal. "bf16",
            "int8" and "int4" store L and R in 16 bits and exp_avg_sq in their own format: a square matrix has 24, 18,
            17 and 16.5 bytes per element in the four formats.
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        shampoo_beta: decay rate of L and R, in [0, 1); None: beta2.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        precondition_frequency: steps between two updates of the eigenbasis, at least 1.
        max_precond_dim: the longest side that has an eigenbasis, at least 0.
        correct_bias: correct both averages for their start at zero.

    Reference: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", arXiv 2409.11321, algorithm 3 with the
    refresh of algorithm 4. As in the authors' code, the first gradient of each parameter initializes L and R and makes
    no step, also for vectors. The paper makes this step, but in the gradient's own eigenbasis most of the gradient is
    zero, so in float32 the step divides rounding errors by rounding errors. In that code a convolution kernel has one
    eigenbasis per dimension; here it has one per side of its matrix.

    Warns once where a matrix has a gradient that is not finite or second moments that overflow, and makes no step
    there.

    >>> optimizer = SOAP(model.parameters(), lr=3e-3, weight_decay=0.01)
    """

    rule, decay, view = update, "decoupled", "matrix"
    decay_by_rule = "decoupled"
    slots = (
        EXACT_EXP_AVG,
        MOMENTS[1],
        Slot("left", per="left", limit="max_precond_dim"),
        Slot("right", per="right", limit="max_precond_dim"),
        Slot("q_left", per="left", limit="max_precond_dim", wide=True),
        Slot("q_right", per="right", limit="max_precond_dim", wide=True),
    )
    others = {"vector": RuleSignature(vector_update, MOMENTS)}
    ranges = {
        "shampoo_beta": Range(0, 1, optional=True),
        "precondition_frequency": Range(1, whole=True),
        "max_precond_dim": Range(0, math.inf, open_high=False, whole=True),
    }
    facts = Facts(
        kind="matrix",
        lr={"default": (3e-4, 3e-2), "cnn": (3e-4, 3e-2), "transformer": (3e-4, 3e-2), "toy": (1e-3, 1.0)},
        method="matrix",
        lr_against_adamw=1.5,
        needs_warmup=True,
        source="Vyas et al. 2409.11321 (3e-3 at batches of 2M tokens), Wen et al. 2509.02046 (8e-3 to 1.6e-2 where "
        "AdamW has 8e-3)",
        length="lr",
        eps_bounds=True,
    )

    def __init__(
        self, params: Params, lr: float = 3e-3, betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None, eps: float = 1e-8, weight_decay: float = 0.01,
        precondition_frequency: int = 10, max_precond_dim: int = 10_000, *, correct_bias: bool = True,
        **options: Unpack[MatrixOptions],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        return "" if tensor.ndim >= 2 else "vector"

    @classmethod
    def work(cls, group: Mapping[str, Any], shape: Sequence[int]) -> float:
        return work_of_sides(shape, group["max_precond_dim"], group["precondition_frequency"], products=6)

    def decay_of(self, group: Mapping[str, Any]) -> str | None:
        return None  # see `choose`

    def choose(
        self, group: Mapping[str, Any], tensor: Tensor, flags: dict[str, Any], decay: str | None
    ) -> tuple[dict[str, Any], str | None]:
        # The decay of vectors is in their rule: none at the first gradient, which makes no step.
        return flags, "decoupled" if tensor.ndim >= 2 else None
