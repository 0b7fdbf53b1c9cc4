"""The depth of a parameter in the model: the number of its block, counted over trainable blocks.

Layers before the first block have depth 0, blocks have 1 to n, layers after the blocks have n + 1. A layer between two
blocks (a downsampling) belongs to the next block. In a model without blocks, layers with weights are counted instead.
Only blocks with a trainable parameter count: a frozen copy or a frozen second network adds none. Parallel towers end at
the same depth: each has the rates that it would have alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from stepwell.anatomy.parts import Node, Towers, Unit, units

_FINAL = re.compile(r"(^|_)(final|ln_f|norm_f)(_|$)", re.IGNORECASE)
_LAYERS = ("matrix", "convolution", "recurrent")
_SHOWN = 6  # stacks that a note lists


@dataclass(frozen=True)
class Depths:
    """Args:
    of: depth, by the id of a tensor.
    outside: whether a tensor is outside of blocks, by its id.
    blocks: number of blocks on the longest path through the model.
    how: a description of the count.
    """

    of: dict[int, int]
    outside: dict[int, bool]
    blocks: int
    how: str


@dataclass(frozen=True)
class _Place:
    """The number of blocks from a unit to the output, and from the inputs and outputs of its tower."""

    height: int
    inputs: int
    outputs: int


def find_depths(row: list[Node], role: dict[int, str], trains: Callable[[nn.Parameter], bool]) -> Depths:
    """The depths of all tensors of a model that consists of `row`.

    Args:
        row: the parts of the model.
        role: the role of each tensor, by its id.
        trains: whether a tensor counts.
    """
    count = _Count(role, trains)
    total = count.blocks_in(row, plain=not has_trained_blocks(row, trains))
    count.place(row, 0, seen=False, plain=not has_trained_blocks(row, trains))
    of: dict[int, int] = {}
    outside: dict[int, bool] = {}
    for unit in units(row):
        place = count.places[id(unit)]
        is_head = any(role[id(tensor)] == "head" for _, tensor in unit.parameters)
        for _, tensor in unit.parameters:
            if id(tensor) not in of:
                height = place.height if unit.is_block or unit.declared else _moved(unit, tensor, role, is_head, place)
                of[id(tensor)] = max(0, total + 1 - height)
                outside[id(tensor)] = not unit.is_block
    return Depths(of, outside, total, _words(row, count, trains, total))


def has_trained_blocks(row: list[Node], trains: Callable[[nn.Parameter], bool]) -> bool:
    return any(unit.is_block and any(trains(tensor) for _, tensor in unit.parameters) for unit in units(row))


def _moved(unit: Unit, tensor: nn.Parameter, role: dict[int, str], is_head: bool, place: _Place) -> int:
    """The position by role: some libraries define modules in another order than they run."""
    mine = role[id(tensor)]
    if is_head and mine in ("head", "bias"):  # its bias goes with it
        return place.outputs
    if mine in ("embedding", "tied head", "position"):
        return place.inputs
    if mine == "norm":
        name = unit.path.rpartition(".")[2]
        if "embedding" in name:
            return place.inputs
        if place.height == place.inputs and _FINAL.search(name):
            return place.outputs
    return place.height


class _Count:
    """Counts blocks, or layers in a model without blocks (`plain`)."""

    def __init__(self, role: dict[int, str], trains: Callable[[nn.Parameter], bool]) -> None:
        self.role, self.trains = role, trains
        self.places: dict[int, _Place] = {}

    def counts(self, unit: Unit, plain: bool) -> bool:
        live = [tensor for _, tensor in unit.parameters if self.trains(tensor)]
        return any(self.role[id(tensor)] in _LAYERS for tensor in live) if plain else unit.is_block and bool(live)

    def _rows(self, towers: Towers, plain: bool) -> list[tuple[list[Node], bool]]:
        """The towers, and for each whether layers count: in a tower without blocks next to a tower with blocks."""
        blocks = [has_trained_blocks(branch, self.trains) for branch in towers.branches]
        return [
            (branch, plain or (any(blocks) and not mine)) for branch, mine in zip(towers.branches, blocks, strict=True)
        ]

    def blocks_in(self, row: list[Node], plain: bool) -> int:
        return sum(
            self.counts(node, plain)
            if isinstance(node, Unit)
            else max(self.blocks_in(branch, layers) for branch, layers in self._rows(node, plain))
            for node in row
        )

    def place(self, row: list[Node], above: int, seen: bool, plain: bool) -> None:
        """Assign each unit its position; `above` is the number of blocks after the row, `seen` whether a block came
        before."""
        left = above + self.blocks_in(row, plain)
        inputs = left + 1
        for node in row:
            if isinstance(node, Towers):
                left -= self.blocks_in([node], plain)
                for branch, layers in self._rows(node, plain):
                    self.place(branch, left, seen, layers)
                seen = seen or self.blocks_in([node], plain) > 0
            elif self.counts(node, plain):
                self.places[id(node)] = _Place(left, inputs, above)
                left, seen = left - 1, True
            else:  # of layers, what follows one, its norm, belongs to it; of blocks, what precedes
                self.places[id(node)] = _Place(left + (plain or not seen), inputs, above)


def _words(row: list[Node], count: _Count, trains: Callable[[nn.Parameter], bool], total: int) -> str:
    """A description of the count, for the notes under a table."""
    if not has_trained_blocks(row, trains):
        layers = f"{total} layer{'' if total == 1 else 's'} with weights"
        return f"no repeated block was found; depth counts the {layers} instead"
    frozen = sum(unit.is_block and not count.counts(unit, plain=False) for unit in units(row))
    left_out = f"; {frozen} frozen block{' does' if frozen == 1 else 's do'} not count" if frozen else ""
    return f"depth counts {total} block{'' if total == 1 else 's'}: {_listed(row, count)}{left_out}"


def _listed(row: list[Node], count: _Count) -> str:
    found: list[tuple[str, int]] = []
    for node in row:
        if isinstance(node, Towers):
            towers = [said for said in (_listed(branch, count) for branch in node.branches) if said]
            if towers:
                found.append((f"in parallel [{' | '.join(towers)}]" if len(towers) > 1 else towers[0], 0))
        elif count.counts(node, plain=False):
            stack = node.path.rpartition(".")[0] or node.path
            if found and found[-1][0] == stack:
                found[-1] = (stack, found[-1][1] + 1)
            else:
                found.append((stack, 1))
    said = [f"{stack} ({number})" if number else stack for stack, number in found if stack]
    return ", then ".join(said[:_SHOWN]) + (f", and {len(said) - _SHOWN} more" if len(said) > _SHOWN else "")
