"""Gradients in the form for updates: dense with the shape of the parameter, or row-sparse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepwell.engine.pointers import has_memory, lies_in_its_storage
from stepwell.errors import UsageError


def usable(gradient: Tensor, parameter: Tensor, name: str, takes_rows: bool) -> Tensor:
    """The gradient of one parameter; a row-sparse gradient with sorted and unique rows, or as dense if the rule needs
    the whole tensor (`takes_rows` is False).

    Raises UsageError, naming the parameter, for a gradient of another shape or layout, without memory, or with rows
    that the parameter does not have.
    """
    gradient, shape = gradient.detach(), tuple(parameter.shape)
    if gradient.shape != shape:
        raise UsageError(
            f"{name!r} has shape {shape}, its gradient {tuple(gradient.shape)}: it was resized after backward(); "
            "call zero_grad() and backward() again"
        )
    if not gradient.is_sparse:
        if gradient.layout != torch.strided:
            raise UsageError(
                f"the gradient of {name!r} has the layout {gradient.layout}; dense gradients and row-sparse ones "
                "(torch.sparse_coo) are supported; set p.grad = p.grad.to_dense()"
            )
        if has_memory(gradient) and not lies_in_its_storage(gradient):
            raise UsageError(
                f"the gradient of {name!r} has no memory for its elements: its storage was freed or made smaller; "
                "call zero_grad() and backward() again"
            )
        return gradient
    _check_rows(gradient, name)
    if not takes_rows:
        return gradient.to_dense()
    if not parameter.is_contiguous():
        raise UsageError(
            f"the gradient of {name!r} is row-sparse, and its parameter of shape {shape} is not contiguous; "
            "make the parameter contiguous, or its gradient dense"
        )
    return by_rows(gradient)


def _check_rows(gradient: Tensor, name: str) -> None:
    """Raise UsageError for a sparse gradient with indices that its parameter does not have."""
    places, values = gradient._indices(), gradient._values()
    if not (lies_in_its_storage(places) and lies_in_its_storage(values)) or len(values) != places.shape[1]:
        raise UsageError(
            f"the sparse gradient of {name!r} is damaged: its indices and values do not match; compute it again"
        )
    if places.numel() == 0:
        return
    limits = torch.tensor(gradient.shape[: gradient.sparse_dim()], device=places.device)[:, None]
    if bool(((places < 0) | (places >= limits)).any()):  # waits, as coalesce() does
        low, high = int(places.min()), int(places.max())
        raise UsageError(
            f"the sparse gradient of {name!r} has indices from {low} to {high}, outside of its shape "
            f"{tuple(gradient.shape)}; check the code that computed them"
        )


def by_rows(gradient: Tensor) -> Tensor:
    """A sparse gradient, coalesced, with one sparse dimension: of one that is sparse in several, each place of these
    is a row, as in a view of the parameter where they are one dimension."""
    gradient, depth = gradient.coalesce(), gradient.sparse_dim()
    if depth == 1:
        return gradient
    lengths = gradient.shape[:depth]
    rows = torch.zeros(gradient._nnz(), dtype=torch.int64, device=gradient.device)
    for length, places in zip(lengths, gradient.indices(), strict=True):
        rows = rows * length + places
    shape = (math.prod(lengths), *gradient.shape[depth:])
    return torch.sparse_coo_tensor(rows[None], gradient.values(), shape, is_coalesced=True, check_invariants=False)
