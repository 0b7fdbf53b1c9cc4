"""The parts of a model in the order in which they run: units in rows, and parallel towers of units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn


@dataclass(eq=False)
class Unit:
    """One block, or one module outside of blocks, with the paths of the modules that own its parameters."""

    path: str
    is_block: bool
    parameters: tuple[tuple[str, nn.Parameter], ...]
    declared: bool = False  # by the model, so its place is not guessed at


@dataclass(eq=False)
class Towers:
    """Parallel parts of the model, each with its own input."""

    branches: list[list[Node]] = field(default_factory=list)


Node = Unit | Towers


def units(row: list[Node]) -> Iterator[Unit]:
    """All units of a row, with the units of its towers one tower after another."""
    for node in row:
        if isinstance(node, Unit):
            yield node
        else:
            for branch in node.branches:
                yield from units(branch)


def has_blocks(row: list[Node]) -> bool:
    return any(unit.is_block for unit in units(row))


def weights(module: nn.Module) -> int:
    """The number of weights; a part with a single weight, such as a convolution with its norm, is a layer of a
    block."""
    return sum(sum(size > 1 for size in parameter.shape) > 1 for parameter in module.parameters())
