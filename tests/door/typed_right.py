"""A strictly typed program of a user: every line passes mypy and pyright in strict mode, and runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import stepwell as sw
from stepwell import AdamW, Lion, Step, cosine, warmup
from stepwell.engine import Options, Params, Unpack
from stepwell.optimizers import SGD


def direction(g: Any, p: Any, t: Any) -> Any:
    return sw.ops.sign(g)


class Mine(sw.Optimizer):
    """A rule of the user's own."""

    rule, slots, decay = direction, (), "decoupled"

    def __init__(self, params: Params, lr: float = 1e-4, weight_decay: float = 0.0, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, options)


def loader() -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(4):
        yield torch.ones(2, 4), torch.zeros(2, 1)


def trained(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), state="int8", seed=3, maximize=False)
    assert_type(optimizer, sw.AdamW)
    schedule = warmup(2).then(cosine(8, to=0.1))
    assert_type(schedule, sw.Schedule)
    step = Step(optimizer, schedule, clip_norm=1.0, accumulate=2, model=model, ema=0.99)
    assert_type(step, sw.Step)
    step.clip = sw.ClipNorm(0.5)
    norm: float | None = None
    for inputs, targets in step.batches(batches):
        assert_type(inputs, Tensor)
        done = step((model(inputs) - targets).square().mean(), weight=len(inputs))
        assert_type(done, sw.Done)
        if done.updated:
            norm = done.grad_norm
    assert_type(step.number, int)
    return 0.0 if norm is None else norm


def built(model: nn.Module) -> list[str]:
    """Each way to build an optimizer, and what it explains."""
    by_role = sw.groups.by_role(model, lr=3e-4, weight_decay=0.1)
    assert_type(by_role, sw.groups.Groups)
    optimizers: list[sw.Optimizer] = [
        Lion(model, lr=1e-4, weights="stochastic", backend="eager", cautious=True),
        SGD(model.named_parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=None, fused=False),
        sw.AdamW(by_role),
        sw.AdamW([{"params": list(model.parameters()), "lr": 0.1}], decoupled_weight_decay=True),
        sw.NAdam(model.parameters(), decoupled_weight_decay=True, state="bf16"),
        sw.AdamW4bit(model.parameters(), state="int8", weights="native"),
        sw.Muon(model, lr=0.02, adamw_lr=3e-4),
        sw.create("adamw", model, lr=3e-4),
        Mine(model.parameters(), lr=0.1, maximize=True),
    ]
    sam = sw.SAM(sw.SGD(model.parameters(), lr=0.1), rho=0.05, model=model)
    assert_type(sam, sw.SAM)
    assert_type(sw.SAM.around(model, base="sgd"), sw.SAM)
    assert_type(sw.create("lookahead", model, base="sgd"), sw.Lookahead)
    assert_type(sw.create("lbfgs", model), sw.LBFGS)
    assert_type(optimizers[0].state_bytes(), int)
    assert_type(optimizers[0].gradient_norm(), Tensor)
    return [optimizer.explain() for optimizer in optimizers]


def scheduled(optimizer: torch.optim.Optimizer) -> None:
    scheduler = sw.Scheduler(optimizer, sw.schedules.wsd(10, warmup=2))
    assert_type(scheduler, sw.Scheduler)
    factors: list[float] = [sw.schedules.one_cycle(10)(k) for k in range(10)]
    assert len(factors) == 10


def refused(model: nn.Module) -> str:
    try:
        sw.create("admaw", model)
    except sw.UsageError as error:
        return str(error)
    return ""
