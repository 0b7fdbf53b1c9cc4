"""Products of the Hessian of a loss with vectors, for estimates of its diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepwell.errors import UsageError


def hessian_products(loss: Tensor, params: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor | None]:
    """H @ vectors for a loss, one tensor per parameter; None for a parameter that the loss does not depend on.

    The graph is kept. Raises UsageError for a loss without a second derivative.
    """
    grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    bent = [(p, g, v) for p, g, v in zip(params, grads, vectors, strict=True) if g is not None and g.requires_grad]
    products: dict[int, Tensor | None] = {}
    if bent:
        parts, directions = [g for _, g, _ in bent], [v.to(g.dtype) for _, g, v in bent]
        inputs = [p for p, _, _ in bent]
        try:
            found = torch.autograd.grad(parts, inputs, directions, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if not any(said in str(error) for said in ("not implemented", "differentiate twice", "double backward")):
                raise
            raise UsageError(
                f"Hutchinson: the loss has no second derivative ({str(error).splitlines()[0]:.120}); use "
                "GaussNewtonBartlett, or compute attention with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
            ) from error
        products = {id(p): product for p, product in zip(inputs, found, strict=True)}
    # a gradient that does not change with the weights has curvature 0
    return [
        None if g is None else torch.zeros_like(p) if products.get(id(p)) is None else products[id(p)]
        for p, g in zip(params, grads, strict=True)
    ]
