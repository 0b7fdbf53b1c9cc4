"""Muon: momentum, orthogonalised: every direction in a matrix's row and column space moves equally far.

b <- momentum * b + (1 - momentum) * g
u  = (1 - momentum) * g + momentum * b                    (Nesterov), or b
x  = u / max(||u||, eps)                                  (transposed if it has more rows than columns)
x <- a * x + (b' * A + c * A A) x,  A = x x^T             ns_steps times; (a, b', c) = ns_coefficients
p <- p - lr * weight_decay * p - lr * adjustment * x
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.anatomy import find_roles, role_by_name
from stepwell.engine import OneOf, Optimizer, Range, Slot, as_groups
from stepwell.errors import UsageError
from stepwell.optimizers.adamw import AdamW
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.parted import named, parted

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def update(  # type: ignore[no-untyped-def]
    g, p, t, momentum_buffer, *, momentum, nesterov, ns_coefficients, eps, ns_steps, ns_dtype, adjust_lr_fn
):
    momentum_buffer = momentum_buffer.lerp(g, 1 - momentum)
    u = g.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer
    dtype = u.dtype if u.dtype == torch.float64 else DTYPES[ns_dtype]
    x = orthogonalised(u, ns_coefficients, eps, ns_steps, dtype)
    return adjustment(g.shape[-2], g.shape[-1], adjust_lr_fn) * x, momentum_buffer


def orthogonalised(
    u: Tensor, coefficients: tuple[float, float, float], eps: float, steps: int, dtype: torch.dtype
) -> Tensor:
    """u (n, rows, columns) with singular values near 1: U V^T of each matrix, by Newton-Schulz iterations in `dtype`.

    An odd polynomial of the singular values, steep at 0, that leaves them between 0.7 and 1.2 after five steps.
    """
    a, b, c = coefficients
    x = u.mT if u.shape[-2] > u.shape[-1] else u
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)).to(dtype)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)  # as `@`, which first copies the transposed
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(u.dtype)
    return x.mT if u.shape[-2] > u.shape[-1] else x


def adjustment(rows: int, columns: int, adjust_lr_fn: str | None) -> float:
    """The factor that makes one lr suit matrices of all shapes."""
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


class Muon(Optimizer):
    """Muon, for the hidden matrices of a network; embeddings, heads, norms and biases are updated by AdamW, in here.

    The fastest known optimizer for hidden layers of transformers at most scales; it costs matrix products (a few
    percent of a training step where batches are large) and one slot. Give it the model: `Muon(model)` splits by role.

    Args:
        params: a model; or parameters, (name, parameter) pairs, or groups of them. Without a model, tensors of two and
            more dimensions are matrices unless their name is that of an embedding or a head. A group may say
            `use_muon` itself. Convolution kernels are matrices of the first dimension by all others.
        lr: learning rate, at least 0.
        weight_decay: at least 0; shrinks the weights by lr * weight_decay per step.
        momentum: decay of the average, in [0, 1).
        nesterov: look one gradient ahead.
        ns_coefficients: (a, b', c) of the iteration.
        eps: the least norm that is divided by, above 0.
        ns_steps: iterations, at least 1.
        adjust_lr_fn: "original" or None: sqrt(max(1, rows / columns)), for an lr of Muon's own, around 0.02.
            "match_rms_adamw": 0.2 * sqrt(max(rows, columns)), steps as large as AdamW's, for AdamW's lr and decay.
        adamw_lr: lr of what AdamW updates; None: `lr`, which suits "match_rms_adamw".
        adamw_betas, adamw_eps, adamw_weight_decay: AdamW's own; None of the last: `weight_decay`.
        ns_dtype: "bf16", as the authors and torch iterate, or "fp32". float64 parameters iterate in float64.
        force: orthogonalise embeddings and heads too, where a group asks for it with `use_muon`.
        options: `maximize`, `state`, `weights`, `backend` (see `stepwell.Optimizer`).

    Reference: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024 (github.com/KellerJordan/
    Muon); "match_rms_adamw" is Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982. As in torch, the
    norm is bounded below by eps (Jordan adds it), sides are those of the matrix, and a missing gradient is left out.

    >>> optimizer = Muon(model, lr=0.02, weight_decay=0.1, adamw_lr=3e-4)

    Raises UsageError for a vector, an embedding or a head in a group with `use_muon`.
    """

    rule, slots, decay, view = update, (Slot("momentum_buffer", memory="momentum"),), "decoupled", "matrix"
    others = {"adamw": AdamW.signature}
    ranges = {
        "eps": Range(0, open_low=True),
        "ns_coefficients": Range(-math.inf),
        "ns_steps": Range(1, whole=True),
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
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        adamw_lr: float | None = None,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float | None = None,
        ns_dtype: str = "bf16",
        force: bool = False,
        **options: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "ns_dtype": ns_dtype,
            "betas": adamw_betas,
            "amsgrad": False,
            "use_muon": True,
        }
        inner = {
            "lr": lr if adamw_lr is None else adamw_lr,
            "eps": adamw_eps,
            "weight_decay": weight_decay if adamw_weight_decay is None else adamw_weight_decay,
        }
        self.force, self.inner = force, inner
        super().__init__(_split(params, inner), defaults, options)

    def method_of(self, group: Mapping[str, Any], tensor: Tensor) -> str:
        return "" if group["use_muon"] else "adamw"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; without `use_muon` in it, two, where it has hidden matrices and other parameters."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            return super().add_param_group(param_group)  # which refuses it
        groups = _split([param_group], self.inner)
        for group in groups:
            if group["use_muon"]:
                self._check_matrices(group)
        for group in groups:
            super().add_param_group(group)

    def _check_matrices(self, group: Mapping[str, Any]) -> None:
        for name, tensor in named(group):
            if not _is_matrix(tensor):
                raise UsageError(
                    f"Muon: {name or 'a parameter'} of shape {tuple(tensor.shape)} is no matrix, so it cannot be "
                    "orthogonalised; give its group use_muon=False, and AdamW updates it"
                )
            role = None if self.force else role_by_name(name)
            if role is not None:
                raise UsageError(
                    f"Muon: {name} looks like {'an' if role == 'embedding' else 'a'} {role}, whose rows should not be "
                    "orthogonalised; give its group use_muon=False, or force=True if it is none"
                )


def _split(params: Any, inner: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups that say `use_muon`: hidden matrices, and the rest with the hyperparameters of AdamW."""
    if isinstance(params, nn.Module):
        hidden = {id(m.tensor) for m in find_roles(params).members if m.is_hidden_matrix}
        pairs = list(params.named_parameters())
        groups = _halves({"params": pairs}, inner, lambda name, tensor: id(tensor) in hidden)
    else:
        groups = []
        for group in as_groups(params, "Muon"):
            if "use_muon" in group:
                groups.append(group if group["use_muon"] else {**inner, **group})
            else:
                groups += _halves(group, inner)
    return [group for group in groups if group["params"] or len(groups) == 1]


def _halves(group: Mapping[str, Any], inner: Mapping[str, Any], is_hidden: Any = None) -> list[dict[str, Any]]:
    """The two groups a group falls into."""
    matrices, others = parted(group, is_hidden or (lambda name, tensor: _is_matrix(tensor) and not role_by_name(name)))
    return [{**matrices, "use_muon": True}, {**inner, **others, "use_muon": False}]


def _is_matrix(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.ndim >= 2 and sum(size > 1 for size in tensor.shape) >= 2
