"""Eigenvalues of the second moments of Shampoo and SOAP, matrices that are often close to singular."""

from __future__ import annotations

import torch
from torch import Tensor


def eigh(second: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n, side), ascending, and eigenvectors (n, side, side) of a stack of symmetric matrices.

    LAPACK's float32 routine fails for some finite matrices, and then for the whole stack. The stack is then decomposed
    in float64, scaled to 1. Raises torch.linalg.LinAlgError where numbers are not finite.
    """
    try:
        return tuple(torch.linalg.eigh(second))
    except torch.linalg.LinAlgError:
        if second.dtype == torch.float64:
            raise
    largest = second.abs().amax(dim=(-2, -1), keepdim=True).double()
    scale = torch.where(largest > 0, largest, 1.0)
    values, vectors = torch.linalg.eigh(second.double() / scale)
    return (values * scale[..., 0]).to(second.dtype), vectors.to(second.dtype)
