"""Which optimizers train under DistributedDataParallel and FSDP2, and load a checkpoint there: the table of
docs/distributed.md.

    python -m tests.sharding.support
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import stepwell as sw
from stepwell.engine.update import needs_closure
from stepwell.optimizers import TABLE, create, find
from tests.processes import in_processes

COLUMNS = ("DistributedDataParallel", "FSDP2", "checkpoint under FSDP2")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def made(name: str, network: nn.Module) -> sw.Step:
    optimizer = create(name, network)
    estimator = sw.Hutchinson() if find(name).__name__ == "Sophia" else None
    return sw.Step(optimizer, model=network, estimator=estimator)


def train(step: sw.Step, network: nn.Module, begin: int, end: int) -> None:
    for number in range(begin, end):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * number + dist.get_rank()))

        def value(x: torch.Tensor = x) -> torch.Tensor:
            mean: torch.Tensor = network(x).square().mean()
            return mean

        if needs_closure(step.optimizer):
            step.closure(value)
        else:
            step(value())


def weights(network: nn.Module) -> torch.Tensor:
    parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in network.parameters()]
    return torch.cat([p.detach().flatten() for p in parts])


def replicated(name: str) -> bool:
    """Whether all ranks have the same weights after three updates."""
    network = model()
    parallel = DistributedDataParallel(network)
    train(made(name, parallel), parallel, 0, 3)
    mine = weights(network)
    others = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(others, mine)
    return all(torch.equal(one, mine) for one in others)


def sharded(name: str, folder: str | None = None) -> bool:
    """Whether a sharded run trains; with a folder, whether a run that loads its checkpoint continues bit for bit."""
    network = model()
    fully_shard(network)
    step = made(name, network)
    train(step, network, 0, 2)
    if folder is None:
        return bool(weights(network).isfinite().all())
    step.save(Path(folder) / name)
    train(step, network, 2, 4)
    again = model()
    fully_shard(again)
    other = made(name, again)
    other.load(Path(folder) / name)
    train(other, again, 2, 4)
    return torch.equal(weights(network), weights(again))


def quietly(act: Callable[[], bool]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act()


def cases(folder: str) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for name in TABLE:
        shown = find(name).__name__
        for column, act in zip(COLUMNS, (replicated, sharded, partial(sharded, folder=folder)), strict=True):
            found[f"{shown}, {column}"] = partial(quietly, partial(act, shown))
    return found


def said(answer: Any) -> str:
    if isinstance(answer, str):
        return "refused by name" if answer.startswith("UsageError: ") else answer.splitlines()[0]
    return "yes" if answer else "NO"


def table() -> str:
    with TemporaryDirectory() as folder:
        found = in_processes(cases(folder), 2, timeout=300)
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in sorted((find(one).__name__ for one in TABLE), key=str.lower):
        answers = [{said(found[rank][f"{name}, {column}"]) for rank in found} for column in COLUMNS]
        rows.setdefault(tuple(" / ".join(sorted(one)) for one in answers), []).append(f"`{name}`")
    lines = ["| optimizers | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {', '.join(names)} | {' | '.join(answers)} |" for answers, names in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
