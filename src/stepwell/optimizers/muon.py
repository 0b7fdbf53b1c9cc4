"""Muon: orthogonalized momentum, so that the step has the same size in every direction of a matrix.

momentum_buffer <- momentum * momentum_buffer + (1 - momentum) * g
u                = (1 - momentum) * g + momentum * momentum_buffer        (nesterov; without: momentum_buffer)
x                = u / max(||u||, eps)                                    (transposed if it has more rows than columns)
x               <- a * x + (b * A + c * A A) x,  A = x x^T                ns_steps times; (a, b, c) = ns_coefficients
p               <- p - lr * weight_decay * p - lr * adjustment * x
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.anatomy import is_matrix
from stepwell.engine import MatrixOptions, OneOf, Optimizer, Params, Range, Slot, Unpack, hyperparameters
from stepwell.engine.kernels.squares import total_squares
from stepwell.engine.rule import check_hyperparameters, read
from stepwell.optimizers.adamw import AdamW
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.muon_groups import split

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_SMALL, _LARGE = 2.0**-60, 2.0**60  # norms between them are exact in float32, and their squares in float64


# A matrix rule: torch operations on a stack of equally shaped tensors, (n, rows, columns).
def update(g, p, t, momentum_buffer, *, momentum, nesterov, ns_coefficients, eps, ns_steps, ns_dtype, adjust_lr_fn):
    momentum_buffer = momentum_buffer.lerp(g, 1 - momentum)
    u = g.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer  # (n, rows, columns)
    dtype = u.dtype if u.dtype == torch.float64 else DTYPES[ns_dtype]
    x = orthogonalised(u, ns_coefficients, eps, ns_steps, dtype)
    factor = adjustment(g.shape[-2], g.shape[-1], adjust_lr_fn)
    return (x if factor == 1 else x.mul_(factor)), momentum_buffer


def orthogonalised(
    u: Tensor, coefficients: tuple[float, float, float], eps: float, steps: int, dtype: torch.dtype
) -> Tensor:
    """About U V^T of each matrix U S V^T of a stack (n, rows, columns), by Newton-Schulz iterations in `dtype`.

    Each iteration is an odd polynomial of the singular values, steep at 0. Five leave them between 0.7 and 1.2.
    """
    a, b, c = coefficients
    x = normalised(u, eps).to(dtype)
    x = x.mT.contiguous() if u.shape[-2] > u.shape[-1] else x  # (n, short, long); products of copied rows are faster
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)  # (n, short, short); not `@`, which copies the transposed tensor
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # (n, short, long)
    x = x.to(u.dtype)
    return x.mT if u.shape[-2] > u.shape[-1] else x  # (n, rows, columns)


def normalised(u: Tensor, eps: float) -> Tensor:
    """u / max(||u||, eps) of each matrix of a stack, with the Frobenius norm."""
    norm = frobenius(u)
    if bool(((norm > _SMALL) & (norm < _LARGE)).all()):
        return u / norm.clamp(min=eps).to(u.dtype)
    # Neither the norm nor its square may leave the range of numbers: first by a power of two, which rounds nothing.
    reach = 1000 if u.dtype == torch.float64 else 100
    exponent = torch.frexp(u.abs().amax(dim=(-2, -1), keepdim=True)).exponent.clamp(-reach, reach)  # (n, 1, 1)
    scale = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent)
    u = u * scale.to(u.dtype)
    return u / frobenius(u).maximum(eps * scale).to(u.dtype)


def frobenius(u: Tensor) -> Tensor:
    """The Frobenius norm of each matrix of a stack, (n, 1, 1), by sums in float64."""
    return total_squares(u).sqrt()


def adjustment(rows: int, columns: int, adjust_lr_fn: str | None) -> float:
    """The factor with which one lr suits matrices of all shapes."""
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


class Muon(Optimizer):
    """Muon, for the hidden matrices of a network; embeddings, heads, norms and biases are updated by AdamW inside it.

    Use it for transformers: it is the fastest known optimizer for their hidden layers at most scales. Cost: one slot,
    half of AdamW's state, and matrix products (a few percent of a training step where batches are large). Against
    AdamW: lr about 20 times larger, or the same with `adjust_lr_fn="match_rms_adamw"`.

    Pass the model: `Muon(model)` splits its parameters by role. AdamW also updates output convolutions, layers that
    read the raw input, depthwise convolutions, recurrent weights and codebooks. Muon updates the rest, routers of
    experts included (`stepwell.groups.muon` says more, and lets you decide).

    Args:
        params: a model, or groups of `stepwell.groups`, whose tensors are chosen by role (`stepwell.groups.muon` says
            which layers count as hidden); a split by `groups.muon` is kept. Or (name, parameter) pairs, chosen by name
            and shape; or parameters, chosen by shape alone, with a warning. A group may contain `use_muon`. Convolution
            kernels are matrices of the first dimension by all others.
        lr: learning rate, at least 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        momentum: decay rate of the average, in [0, 1).
        nesterov: look one gradient ahead.
        ns_coefficients: (a, b, c) of the Newton-Schulz iteration.
        eps: lower bound of the norm in the denominator, above 0.
        ns_steps: iterations, from 1 to 100; more than 10 only change rounding errors.
        adjust_lr_fn: "original" or None: sqrt(max(1, rows / columns)), for an lr of Muon's own, around 0.02.
            "match_rms_adamw": 0.2 * sqrt(max(rows, columns)), for AdamW's lr and weight decay: steps are as large as
            AdamW's.
        adamw_lr: lr of the parameters that AdamW updates; None: `lr`, which suits "match_rms_adamw".
        adamw_betas, adamw_eps, adamw_weight_decay: AdamW's other hyperparameters; None for the last: `weight_decay`.
        ns_dtype: "bf16", as the authors and torch iterate, or "fp32". float64 parameters iterate in float64.
        force: orthogonalize embeddings and heads, too, in groups with `use_muon=True`.
        options: as for every optimizer (see `stepwell.Optimizer`); `process_group` divides the matrices over the
            processes of DistributedDataParallel.

    Reference: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024 (github.com/KellerJordan/
    Muon); "match_rms_adamw" is Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982. As in torch, eps is a
    lower bound of the norm (Jordan adds it), sides are those of the matrix, and parameters without a gradient are
    skipped.

    >>> muon = Muon(model, lr=0.02, weight_decay=0.1, adamw_lr=3e-4)
    >>> muon = Muon(stepwell.groups.muon(model, lr=0.02, adamw={"lr": 3e-4}, keep_out=["pooler"]))
    >>> optimizer = Muon(model.named_parameters(), lr=0.02, adamw_lr=3e-4)  # by names: a model tells more

    Raises UsageError where no tensor is a trained hidden matrix (AdamW would update them all), and for a vector, an
    embedding or a head in a group with `use_muon`. Warns once where tensors without names are chosen by shape.
    """

    rule, slots, decay, view = update, (Slot("momentum_buffer", memory="momentum"),), "decoupled", "matrix"
    others = {"adamw": AdamW.signature}
    splits_by_role = True
    construction = ("adamw_lr", "adamw_eps", "adamw_weight_decay", "force")
    ranges = {
        **dict.fromkeys(("eps", "adamw_eps"), Range(0, open_low=True)),  # a group has one eps
        "ns_coefficients": Range(-math.inf),
        "ns_steps": Range(1, 100, open_high=False, whole=True),
        "use_muon": OneOf((True, False)),
        "adjust_lr_fn": OneOf((None, "original", "match_rms_adamw")),
        "ns_dtype": OneOf(tuple(DTYPES)),
    }
    facts = Facts(
        kind="matrix",
        lr={"default": (1e-3, 1e-1), "cnn": (1e-3, 3e-1), "transformer": (1e-3, 1e-1), "toy": (1e-3, 1.0)},
        method="matrix",
        lr_against_adamw=20.0,
        matrices_only=True,
        source="Jordan et al. 2024 (0.02 where AdamW has 3e-4), Wen et al. 2509.02046 (0.008 to 0.016 where a tuned "
        "AdamW has 0.008; no warm-up), Liu et al. 2502.16982 (AdamW's lr with match_rms_adamw)",
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95,
        nesterov: bool = True, ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None, *, adamw_lr: float | None = None,
        adamw_betas: tuple[float, float] = (0.9, 0.95), adamw_eps: float = 1e-8,
        adamw_weight_decay: float | None = None, ns_dtype: str = "bf16", force: bool = False,
        **options: Unpack[MatrixOptions],
    ) -> None:  # fmt: skip
        defaults = {**hyperparameters(locals()), "amsgrad": False, "use_muon": True}
        defaults["betas"] = read("Muon", "adamw_betas", defaults.pop("adamw_betas"), self.all_ranges["adamw_betas"])
        defaults |= check_hyperparameters("Muon", defaults, self.ranges_with(defaults))
        self.force = defaults["force"]
        self.inner = {
            "lr": defaults["lr" if adamw_lr is None else "adamw_lr"],
            "eps": defaults["adamw_eps"],
            "weight_decay": defaults["weight_decay" if adamw_weight_decay is None else "adamw_weight_decay"],
        }
        groups = split(params, self.inner, self.force)
        self._parting = False  # the groups are split already
        super().__init__(groups, defaults, options)
        del self._parting

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        return "" if group["use_muon"] else "adamw"

    @classmethod
    def group_for(cls, settings: Mapping[str, Any], group: Mapping[str, Any], tensor: Tensor) -> dict[str, Any]:
        betas = settings.get("betas", settings.get("adamw_betas"))
        return {"use_muon": is_matrix(tensor), "amsgrad": False, "betas": betas, **settings, **group}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Without `use_muon`, it becomes two groups where it has hidden matrices and other parameters."""
        if not self._parting or not isinstance(param_group, dict) or "params" not in param_group:
            return super().add_param_group(param_group)  # which refuses it
        for group in split([param_group], self.inner, self.force, whole=False):
            super().add_param_group(group)

    _parting = True
