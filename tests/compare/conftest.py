"""A small task in a file of its own, with faults on request; one thread, since test processes share the cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


TASK = '''
"""A line to fit: 8 weights, noise in the batches, and faults on request."""
import os, signal, time
import torch
from torch import nn
from stepwell.tasks import Metric, Task

FAULT = {fault!r}

class Line(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.weight = nn.Parameter(torch.randn(8, generator=torch.Generator().manual_seed(seed)))

def model(seed):
    return Line(seed)

def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(7):
        yield torch.randn(16, 8, generator=generator)

def loss(model, batch):
    if FAULT == "raises in seed 2" and model.seed == 2:
        raise RuntimeError("the cable\\nis broken")
    if FAULT == "exits in seed 2" and model.seed == 2:
        raise SystemExit(7)
    if FAULT == "killed in seed 2" and model.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT == "raises far out" and model.weight.abs().max() > 20:
        raise ValueError("far out")
    if FAULT == "slow":
        time.sleep(0.02)
    return (batch @ (model.weight - 1)).pow(2).mean()

def distance(model):
    return (model.weight - 1).pow(2).sum().item()

task = Task(name="line", summary="a line to fit", family="toy", model=model, batches=batches, loss=loss,
            metric=Metric("squared distance", "min", distance), steps=40, target=0.5, batch_size=16, evaluations=8)
'''


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes the task, with a fault if one is named, and gives what `compare` calls it."""

    def write(fault: str = "") -> str:
        path = tmp_path / f"line{fault.replace(' ', '_')}.py"
        path.write_text(TASK.replace("{fault!r}", repr(fault)))
        return f"{path}:task"

    return write
