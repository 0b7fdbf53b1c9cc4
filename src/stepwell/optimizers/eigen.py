"""Eigenvalues of the second moments of Shampoo and SOAP, matrices that are often close to singular."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepwell.engine.rule import as_matrix


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


def work_of_sides(shape: Sequence[int], longest: float, frequency: int, products: int) -> float:
    """About how many multiplications an update of a matrix takes that has a second moment for each side of at most
    `longest`: `products` of the matrix with one of them, its share of them, and every `frequency` steps about 10 times
    the cube of a side for eigenvectors or a QR decomposition."""
    rows, columns = as_matrix(shape)
    sides = [side for side in (rows, columns) if side <= longest]
    return float(sum(side * rows * columns * (products / 2 + 1) + 10 * side**3 / frequency for side in sides)) or 1.0
