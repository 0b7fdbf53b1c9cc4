"""Three tables of measurements, each with its own small network: breast cancer, wine and iris, with batch norm.

The columns keep their units (from 0.001 to 4254), and the first layer of each network is a batch norm, whose averages
must be right when the metric is read. One optimizer trains the three networks together; the loss is the mean of the
three cross entropies.

The metric is the accuracy over the held-out rows of all three tables. A third of the rows of each table is trained on.

Data: scikit-learn's bundled tables, 569 + 178 + 150 rows; 298 to train on, 599 held out, by class (fixed split).

References: W. Street et al., Nuclear feature extraction for breast tumor diagnosis, 1993; S. Aeberhard et al.,
Comparison of classifiers in high dimensional settings, 1992; R. A. Fisher, The use of multiple measurements in
taxonomic problems, 1936.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.errors import MissingExtra
from stepwell.tasks.task import Metric, Task

BATCH = 16  # rows of each table
WIDTH = 64
HELD_OUT = 2 / 3
SPLIT_SEED = 0

Batch = tuple[tuple[Tensor, Tensor], ...]  # rows [n, columns] and classes [n] of each table


@dataclass(frozen=True)
class Table:
    """One table: rows to train on and held-out rows, [n, columns], float32, with their classes [n]."""

    train: Tensor
    train_class: Tensor
    held_out: Tensor
    held_out_class: Tensor


@lru_cache(maxsize=1)
def tables() -> tuple[Table, ...]:
    """Breast cancer, wine and iris. Raises MissingExtra without scikit-learn."""
    try:
        from sklearn.datasets import load_breast_cancer, load_iris, load_wine
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingExtra("scikit-learn", "tools", "the task 'tabular'") from None
    found = []
    for load in (load_breast_cancer, load_wine, load_iris):
        x, y = load(return_X_y=True)
        a, b, c, d = train_test_split(x, y, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=y)
        rows, others = (torch.as_tensor(part, dtype=torch.float32) for part in (a, b))
        found.append(Table(rows, torch.as_tensor(c).long(), others, torch.as_tensor(d).long()))
    return tuple(found)


class Networks(nn.Module):
    """One network for each table: [n, columns] of each -> logits [n, classes] of each."""

    def __init__(self) -> None:
        super().__init__()
        self.of_tables = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(table.train.shape[1]),
                nn.Linear(table.train.shape[1], WIDTH, bias=False),
                nn.BatchNorm1d(WIDTH),
                nn.ReLU(),
                nn.Linear(WIDTH, WIDTH, bias=False),
                nn.BatchNorm1d(WIDTH),
                nn.ReLU(),
                nn.Linear(WIDTH, int(table.train_class.max()) + 1),
            )
            for table in tables()
        )

    def forward(self, rows: tuple[Tensor, ...]) -> list[Tensor]:
        return [network(x) for network, x in zip(self.of_tables, rows, strict=True)]


def model(seed: int) -> nn.Module:
    """The three networks with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks()


def batches(seed: int) -> Iterator[Batch]:
    """Endless batches of 16 random rows of each table."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = [torch.randperm(len(table.train), generator=generator)[:BATCH] for table in tables()]
        yield tuple((t.train[at], t.train_class[at]) for t, at in zip(tables(), rows, strict=True))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean of the cross entropies of the three tables, in nats."""
    logits = model(tuple(x for x, _ in batch))
    return torch.stack([functional.cross_entropy(of, y) for of, (_, y) in zip(logits, batch, strict=True)]).mean()


def held_out_accuracy(model: nn.Module) -> float:
    """The share of the 599 held-out rows whose class is right."""
    device = next(model.parameters()).device
    logits = model(tuple(table.held_out.to(device) for table in tables()))
    right = [of.argmax(1).cpu() == table.held_out_class for of, table in zip(logits, tables(), strict=True)]
    return torch.cat(right).float().mean().item()


task = Task(
    name="tabular",
    summary="breast cancer, wine and iris, three small networks with batch norm",
    family="cnn",  # its ranges of learning rates fit small networks
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("held-out accuracy", "max", held_out_accuracy),
    steps=120,
    target=0.96,
    batch_size=3 * BATCH,
    about={"data": "scikit-learn's breast cancer, wine and iris: 298 rows to train on, 599 held out by class"},
)
