"""The place of a finding in the user's terms: a line of a file, a tensor of a model, a trial of a comparison, a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, order=True)
class Source:
    """A place in a file. Lines and columns count from 1, as editors show them.

    Attributes:
        file: the path as the user gave it.
        line, column: the beginning. Without a column, the whole line.
        end: (line, column) after its last character, or None.
        cell: the number of the cell of a notebook, or None; `line` then counts inside the cell.

    >>> str(Source("train.py", 31, 5))
    'train.py:31:5'
    """

    file: str
    line: int
    column: int | None = None
    end: tuple[int, int] | None = None
    cell: int | None = None

    def __str__(self) -> str:
        cell = "" if self.cell is None else f":cell {self.cell}"
        column = "" if self.column is None else f":{self.column}"
        return f"{self.file}{cell}:{self.line}{column}"


@dataclass(frozen=True, order=True)
class Tensor:
    """A tensor of a model, by its name, and the update of the observation.

    >>> str(Tensor("layer2.conv1.weight", step=300))
    'layer2.conv1.weight at step 300'
    """

    name: str
    step: int | None = None

    def __str__(self) -> str:
        return self.name if self.step is None else f"{self.name} at step {self.step}"


@dataclass(frozen=True, order=True)
class Trial:
    """A trial of a comparison, or all trials of an optimizer.

    >>> str(Trial("adamw", seed=2))
    'adamw, seed 2'
    """

    optimizer: str
    seed: int | None = None

    def __str__(self) -> str:
        return self.optimizer if self.seed is None else f"{self.optimizer}, seed {self.seed}"


@dataclass(frozen=True, order=True)
class Run:
    """A whole run, and the update of the observation.

    >>> str(Run())
    'this run'
    """

    name: str = "this run"
    step: int | None = None

    def __str__(self) -> str:
        return self.name if self.step is None else f"{self.name} at step {self.step}"


Place: TypeAlias = Source | Tensor | Trial | Run
