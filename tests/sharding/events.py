"""Events in one of two processes: all processes do the same, or all raise the same error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import stepwell as sw
from tests.sharding.agreement import loss, model, rows

MODELS = ("DDP", "FSDP2", "stages")


class Run:
    """A model of two processes with its Step; `stages`: each process has another part, and runs backward by itself.

    Args:
        outputs: of the model; 1 leaves the second process without a row of the last layer under FSDP2.
    """

    def __init__(self, how: str, outputs: int = 3, kind: Any = sw.AdamW, rate: float = 0.1, **options: Any) -> None:
        self.how, self.network = how, model(outputs)
        if how == "stages":
            torch.manual_seed(dist.get_rank())
            self.network = nn.Linear(6, 2)
            options["group"] = dist.group.WORLD
        elif how == "FSDP2":
            fully_shard(self.network)
        self.model = DistributedDataParallel(self.network) if how == "DDP" else self.network
        optimizer = kind(self.network.named_parameters(), lr=rate)
        self.step = sw.Step(optimizer, model=self.model, clip_norm=1.0, warn_skipped=None, **options)

    def update(self, number: int = 0, factor: float = 1.0, count: int = 4, **more: Any) -> Any:
        value = factor * loss(self.model, rows(dist.get_rank(), number, count))
        if self.how != "stages":
            return self.step(value, **more)
        value.backward()
        return self.step.update()

    def weights(self) -> list[float]:
        parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in self.network.parameters()]
        return [float(x) for p in parts for x in p.detach().flatten()]


def second(other: Any, usual: Any) -> Any:
    """`other` in the second process."""
    return other if dist.get_rank() == 1 else usual


def skipped(how: str, factor: float) -> Any:
    run = Run(how)
    before = run.weights()
    run.update(factor=second(factor, 1.0))
    unchanged = run.weights() == before
    run.update(1)
    return run.step.skipped, run.step.number, unchanged


def not_finite(how: str) -> Any:
    return skipped(how, float("nan"))


def infinite_loss(how: str) -> Any:
    return skipped(how, float("inf"))


def one_sample(how: str) -> Any:
    run = Run(how)
    done = run.update(count=second(1, 5), **({} if how == "stages" else {"weight": second(1, 5)}))
    return float(done.grad_norm), run.step.number


def weight_in_one(how: str) -> Any:
    Run(how).update(**second({"weight": 4}, {}))


def another_accumulation(how: str) -> Any:
    run = Run(how, accumulate=second(2, 1))
    run.update()
    run.update(1)


def another_optimizer(how: str) -> Any:
    Run(how, kind=second(sw.Lion, sw.AdamW)).update()


def another_rate(how: str) -> Any:
    Run(how, rate=second(0.2, 0.1)).update()


def shorter_loader(how: str) -> Any:
    run = Run(how)
    loader = list(range(second(3, 5)))
    for number in run.step.batches(loader):
        run.update(number)
    return run.step.number


def no_gradient(how: str) -> Any:
    """In the second process a parameter has no gradient."""
    run = Run(how)
    loss(run.model, rows(dist.get_rank())).backward()
    if dist.get_rank() == 1 and how != "DDP":  # DDP gives every process the mean
        next(iter(run.network.parameters())).grad = None
    return run.step.update().updated


def another_metric(how: str) -> Any:
    """A Plateau that would lower the rate of the second process alone."""
    run = Run(how, plateau=sw.Plateau(factor=0.5, patience=0))
    for number in range(3):
        run.update(number)
        run.step.observe(second(1.0, 10.0 - 5 * number))
    return run.step.optimizer.param_groups[0]["lr"]


def interrupted(how: str) -> Any:
    run = Run(how)

    def stop(*_: Any) -> None:
        if dist.get_rank() == 1:
            raise KeyboardInterrupt

    handle = run.step.optimizer.register_step_post_hook(stop)
    try:
        run.update()
    except KeyboardInterrupt:
        run.step.flush()  # a repair, as the next call of a loop
    handle.remove()
    run.update(1)
    return run.step.number, run.weights() if how != "stages" else None


def empty_part(how: str) -> Any:
    run = Run(how, outputs=1)
    return [float(run.update(number).grad_norm) for number in range(3)], run.step.number


EVENTS: tuple[Callable[[str], Any], ...] = (
    not_finite, infinite_loss, one_sample, weight_in_one, another_accumulation, another_optimizer, another_rate,
    shorter_loader, no_gradient, another_metric, interrupted, empty_part,
)  # fmt: skip
# Stages run backward by themselves, and may have different optimizers.
APART = ("weight_in_one", "another_accumulation", "another_optimizer", "another_rate")
CASES: dict[str, Callable[[], Any]] = {
    f"{event.__name__}, {how}": partial(event, how)
    for event in EVENTS
    for how in MODELS
    if how != "stages" or event.__name__ not in APART
}
