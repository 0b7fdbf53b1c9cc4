"""Cases for two processes: matrices that are divided over them (`stepwell.engine.divided`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import stepwell as sw
from stepwell.engine import together
from stepwell.engine.backends import stack, stacks
from stepwell.engine.divided import exchange
from stepwell.engine.whole import Whole
from tests.sharding.matrix_models import (
    few_matrices,
    many_matrices,
    many_sums,
    owned_copies,
    switched,
    through_torch,
    under_fsdp,
    under_fsdp_and_tensor,
    wrong_groups,
)

SHAPES = ((16, 12), (16, 12), (9, 24), (1, 7), (24, 8), (6,))  # one row less than processes, and a vector


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def gradient(number: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * number + sum(shape)))


class Run:
    """Parameters with given gradients, cut in rows over all processes; whole in one process."""

    def __init__(self, kind: Any, **options: Any) -> None:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),)) if dist.is_initialized() else None
        self.parameters = [
            nn.Parameter(one if mesh is None else distribute_tensor(one, mesh, [Shard(0)])) for one in start()
        ]
        self.optimizer = kind([(f"p{i}", p) for i, p in enumerate(self.parameters)], **options)
        self.number = 0

    def give(self, leave_out: tuple[int, ...] = (), factor: float = 1.0) -> None:
        """Set the gradients of the next update, but for some parameters."""
        for place, p in enumerate(self.parameters):
            whole = factor * gradient(self.number, tuple(p.shape))
            one = distribute_tensor(whole, p.device_mesh, p.placements) if isinstance(p, DTensor) else whole
            p.grad = None if place in leave_out else one

    def update(self, updates: int = 1, **more: Any) -> None:
        for _ in range(updates):
            self.give(**more)
            self.optimizer.update()
            self.number += 1

    def weights(self) -> list[Tensor]:
        return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for p in self.parameters]


def quiet(act: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act()


SHAMPOO: dict[str, Any] = {"grafting": "adam", "momentum": 0.9}


# What processes decide together


def a_gradient_that_one_process_lacks() -> Any:
    """An error in both, and nothing is changed; then they continue."""
    run = Run(sw.Shampoo)
    run.update()
    before = run.weights()
    run.give()
    if dist.get_rank() == 1:
        run.parameters[2].grad = None
    said = ""
    try:
        run.optimizer.update()
    except sw.UsageError as error:
        said = str(error)
    same = all(map(torch.equal, run.weights(), before))
    run.update(2)
    return said, same, run.weights()


def a_gradient_that_is_missing_everywhere() -> Any:
    run = Run(sw.Shampoo)
    run.update(leave_out=(1, 3))
    run.update(2)
    return run.weights()


def found_inf() -> Any:
    run = Run(sw.Shampoo)
    run.update()
    run.give()
    run.optimizer.update(1.0, torch.ones(()))
    run.update(2)
    return run.weights()


def found_inf_in_one_process() -> Any:
    run = Run(sw.Shampoo)
    run.give()
    run.optimizer.update(1.0, torch.tensor(float(dist.get_rank())))


def a_matrix_that_is_not_finite() -> Any:
    """Only that matrix makes no step, in every process; its owner says so."""
    run = Run(sw.Shampoo)
    run.update()
    run.give()
    grad: Any = run.parameters[2].grad
    local = grad.to_local() if isinstance(grad, DTensor) else grad
    if not dist.is_initialized() or dist.get_rank() == 1:
        local[-1, -1] = float("inf")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.optimizer.update()
    run.number += 1
    quiet(lambda: run.update(2))
    counts = [float(run.optimizer.state[p]["step"]) for p in run.parameters]
    return run.weights(), counts, [str(one.message).split(":")[0] for one in said]


def interrupted() -> Any:
    """Ctrl-C in the middle of an update: it is completed, and then raised."""
    found = []
    places: tuple[tuple[Any, str, Any, dict[str, Any]], ...] = (
        (stacks, "_is_sound", sw.Shampoo, SHAMPOO),
        (exchange, "parts_here", sw.Shampoo, SHAMPOO),
        (stack, "apply_in_place", sw.Adafactor, {}),
        (Whole, "here", sw.Adafactor, {}),
    )
    for module, name, kind, options in places:
        run = Run(kind, **options)
        run.update()
        plain, calls = getattr(module, name), [int(name == "parts_here")]

        def once(*args: Any, plain: Any = plain, calls: list[int] = calls, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == 2 and dist.get_rank() == 0:
                raise KeyboardInterrupt
            return plain(*args, **more)

        setattr(module, name, once)
        raised = False
        try:
            run.update()
        except KeyboardInterrupt:
            raised, run.number = True, run.number + 1
        finally:
            setattr(module, name, plain)
        run.update()
        found.append((raised, run.weights()))
    return found


# State


def state_is_with_the_owner() -> Any:
    """Bytes of state here, and how many matrices have state here."""
    run = Run(sw.Shampoo, **SHAMPOO)
    run.update()
    states = [run.optimizer.state[p] for p in run.parameters]
    return run.optimizer.state_bytes(), [state["left"].numel() > 0 for state in states], str(run.optimizer.explain())


def replanned() -> Any:
    """Another format of state, and a new group: the matrices keep their owners and their state."""
    run = Run(sw.Shampoo, **SHAMPOO)
    run.update(2)
    run.optimizer.param_groups[0]["state"] = "bf16"
    run.update()
    more = torch.randn(30, 30, generator=torch.Generator().manual_seed(5))
    first: Any = run.parameters[0]
    if dist.is_initialized():
        more = distribute_tensor(more, first.device_mesh, [Shard(0)])
    run.parameters.append(nn.Parameter(more))
    run.optimizer.add_param_group({"params": [("p6", run.parameters[-1])]})
    run.update(2)
    run.optimizer.param_groups[0]["state"] = "fp32"
    run.update()
    return run.weights()


def copied() -> Any:
    """A state that is loaded into another optimizer, and one that is cleared."""
    run, other = Run(sw.Shampoo, **SHAMPOO), Run(sw.Shampoo, **SHAMPOO)
    run.update(3)
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    for mine, theirs in zip(other.parameters, run.parameters, strict=True):
        mine.data.copy_(theirs.data)
    other.number = run.number
    run.update(2)
    other.update(2)
    same = all(map(torch.equal, run.weights(), other.weights()))
    other.optimizer.state.clear()
    other.update()
    return same, other.weights(), [float(other.optimizer.state[p]["step"]) for p in other.parameters]


def state_dict_in_one_process() -> Any:
    run = Run(sw.Shampoo)
    run.update()
    together.PATIENCE = 1.0
    try:
        if dist.get_rank() == 0:
            run.optimizer.state_dict()
    finally:
        together.PATIENCE = 120.0
        dist.barrier()


CASES: dict[str, Callable[[], Any]] = {
    case.__name__: case
    for case in (
        a_gradient_that_one_process_lacks, a_gradient_that_is_missing_everywhere, found_inf, found_inf_in_one_process,
        a_matrix_that_is_not_finite, interrupted, state_is_with_the_owner, replanned, copied,
        state_dict_in_one_process, under_fsdp, few_matrices, many_matrices, many_sums, switched, owned_copies,
        wrong_groups, through_torch,
    )
}  # fmt: skip
FOUR: dict[str, Callable[[], Any]] = {
    case.__name__: case for case in (under_fsdp_and_tensor, many_matrices, a_gradient_that_is_missing_everywhere)
}
