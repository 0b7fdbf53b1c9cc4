"""Hidden matrices of a model, found only by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stepwell.anatomy.roles import LOGARITHM, role_by_name

_RECURRENT = re.compile(r"weight_(ih|hh|hr)(_l\d+)?(_reverse)?")
_RAW_CHANNELS = 4  # a kernel over so few channels reads images or sound


@dataclass(frozen=True)
class Told:
    """Args:
    hidden: ids of the tensors that appear to be hidden matrices.
    doubted: ids among them that are known only by their shape.
    """

    hidden: set[int]
    doubted: list[tuple[str, torch.Tensor]]


def is_matrix(tensor: torch.Tensor) -> bool:
    """Whether a tensor has rows and columns, by its shape.

    >>> is_matrix(torch.zeros(3, 2)), is_matrix(torch.zeros(3, 1))
    (True, False)
    """
    return tensor.ndim >= 2 and sum(size > 1 for size in tensor.shape) >= 2


def hidden_by_name(pairs: Sequence[tuple[str, torch.Tensor]], whole: bool = True) -> Told:
    """Hidden matrices among (name, tensor) pairs in the order of the model; an empty name means no name.

    Excluded are embeddings, heads and positions (by their names), gates of recurrent layers, logarithms of rates,
    kernels of one channel, and the first kernel, which reads the input. If the pairs are a whole model (`whole`: they
    include vectors) and no name is that of an embedding or a head, the first and the last matrix outside of blocks
    count as input and output layers, as long as another matrix is left.

    >>> shapes = {"embed.weight": (9, 4), "layers.0.fc.weight": (4, 4), "layers.0.fc.bias": (4,)}
    >>> pairs = [(name, torch.zeros(shape)) for name, shape in shapes.items()]
    >>> [name for name, tensor in pairs if id(tensor) in hidden_by_name(pairs).hidden]
    ['layers.0.fc.weight']
    """
    taken: list[tuple[str, torch.Tensor]] = []
    recognised = first_kernel = False
    for name, tensor in pairs:
        role = role_by_name(name)
        recognised = recognised or role in ("embedding", "head")
        if role is not None or not is_matrix(tensor):
            continue
        local = name.rpartition(".")[2]
        if _RECURRENT.fullmatch(local) or LOGARITHM.search(local):
            continue
        if tensor.ndim > 2 and local in ("weight", ""):
            if tensor.shape[1] == 1:  # a filter per channel, or the kernel that reads a gray image
                first_kernel = first_kernel or not taken
                continue
            reads = (
                name and not first_kernel and not taken and (tensor.shape[1] <= _RAW_CHANNELS or not _in_block(name))
            )
            first_kernel = True
            if reads:
                continue
        taken.append((name, tensor))
    unnamed = [pair for pair in taken if not pair[0]]
    if whole and not unnamed and not recognised and any(not is_matrix(tensor) for _, tensor in pairs):
        if len(taken) > 1 and not _in_block(taken[-1][0]):
            taken.pop()
        if len(taken) > 1 and not _in_block(taken[0][0]) and not first_kernel:
            taken.pop(0)
    said_nothing = [pair for pair in taken if whole and pair[0].rpartition(".")[0].replace(".", "").isdigit()]
    return Told({id(tensor) for _, tensor in taken}, unnamed or said_nothing)


def _in_block(name: str) -> bool:
    """Whether the tensor is in a list item of more than one layer: `layers.3.attn.weight`, not `net.3.weight`."""
    return any(part.isdigit() for part in name.split(".")[1:-2])
