"""Cases for two processes: matrices that are divided over them (`stepwell.engine.divided`)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import stepwell as sw
from stepwell.engine import together
from stepwell.engine.backends import stacks
from stepwell.engine.divided import exchange
from stepwell.engine.whole import Whole

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
        (stacks, "apply_in_place", sw.Adafactor, {}),
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


# Models


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(self.up(x).tanh())
        return y


def network(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), *[Block() for _ in range(blocks)], nn.Linear(16, 3))


def train(model: nn.Module, step: sw.Step, updates: int, first: int = 0) -> None:
    for number in range(first, first + updates):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(number))  # the same in every process
        step(model(x).square().mean())


def trained(cut: str, kind: str = "Muon", updates: int = 5) -> list[Tensor]:
    """The weights of a model with real gradients, cut by FSDP2 or by FSDP2 over tensor parallelism."""
    model = network()
    if cut == "fsdp":
        for block in model:
            fully_shard(block)
        fully_shard(model)
    elif cut == "fsdp and tensor":
        mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "tensor"))
        for block in model:
            if isinstance(block, Block):
                parallelize_module(block, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
                fully_shard(block, mesh=mesh["data"])
    step = sw.Step(getattr(sw, kind)(model, lr=0.02), model=model, clip_norm=1.0)
    train(model, step, updates)
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for p in model.parameters()]


def under_fsdp() -> Any:
    return trained("fsdp")


def under_fsdp_and_tensor() -> Any:
    return trained("fsdp and tensor")


def counted(kind: str, blocks: int) -> Any:
    """The collectives of one update with clipping after the backward pass, with the bytes sent to others, and the bytes
    of all hidden matrices, and rows and columns of all matrices."""
    model = network(blocks)
    for block in model:
        fully_shard(block)
    fully_shard(model)
    step = sw.Step(getattr(sw, kind)(model, lr=0.02), model=model, clip_norm=1.0)
    train(model, step, 1)
    model(torch.ones(2, 8)).square().mean().backward()
    calls: list[tuple[str, int]] = []
    plain = {name: getattr(dist, name) for name in ("all_reduce", "all_to_all_single", "all_gather", "broadcast")}

    def watched(name: str) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            sent = args[0].nbytes if name == "all_reduce" else args[1].nbytes
            if name == "all_to_all_single":
                sent -= args[3][dist.get_rank()]  # what stays here is not sent
            calls.append((name, sent))
            return plain[name](*args, **more)

        return call

    for name in plain:
        setattr(dist, name, watched(name))
    try:
        step.update()
    finally:
        for name, function in plain.items():
            setattr(dist, name, function)
    hidden = sum(
        p.numel() * 4 for name, p in model.named_parameters() if p.ndim == 2 and (".up." in name or ".down." in name)
    )
    sides = sum(sum(p.shape) for p in model.parameters() if p.ndim == 2)
    return calls, hidden, sides


def copies(group: Any, save: str = "") -> Any:
    """The weights and the bytes of state of a model under DistributedDataParallel, and of one that continues from its
    checkpoint."""
    found = []
    for kind, options in (("Muon", {}), ("SOAP", {"state": "bf16"}), ("Shampoo", {})):
        steps: list[sw.Step] = []
        models = [network(), network()]
        for model in models:
            parallel = DistributedDataParallel(model) if dist.is_initialized() else model
            extra = {} if group is None else {"process_group": group}
            steps.append(sw.Step(getattr(sw, kind)(model, lr=0.02, **options, **extra), model=parallel, clip_norm=1.0))
        train(models[0], steps[0], 3)
        path = f"{save}/{kind}.pt"
        steps[0].save(path)
        if dist.is_initialized():
            dist.barrier()
        steps[1].load(path)
        for model, step in zip(models, steps, strict=True):
            train(model, step, 3, first=3)
        held = [step.optimizer.state_bytes() for step in steps]
        found.append(([[p.detach().clone() for p in model.parameters()] for model in models], held))
    return found


def owned_copies() -> Any:
    return copies(dist.group.WORLD, os.environ["STEPWELL_TEST_FOLDER"])


def wrong_groups() -> list[str]:
    said = []
    for kind, value in ((sw.Muon, "world"), (sw.AdamW, dist.group.WORLD)):
        try:
            kind([("w", nn.Parameter(torch.ones(4, 4)))], process_group=value)  # type: ignore[call-arg]  # refused
        except sw.UsageError as error:
            said.append(str(error))
    return said


def few_matrices() -> Any:
    return counted("Muon", 2)


def many_matrices() -> Any:
    return counted("Muon", 12)


def many_sums() -> Any:
    return counted("Adafactor", 12)


def through_torch() -> Any:
    """Through torch's functions for checkpoints of an optimizer: nested, flat, whole, and whole with broadcast."""
    found = {}
    for name, options in {
        "nested": StateDictOptions(),
        "flat": StateDictOptions(flatten_optimizer_state_dict=True),
        "whole": StateDictOptions(full_state_dict=True),
        "broadcast": StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    }.items():
        models, steps = [], []
        for _ in range(2):
            model = network()
            fully_shard(model)
            models.append(model)
            steps.append(sw.Step(sw.Muon(model, lr=0.02, state="bf16"), model=model))
        train(models[0], steps[0], 3)
        state = get_optimizer_state_dict(models[0], steps[0].optimizer, options=options)
        models[1].load_state_dict(models[0].state_dict())
        loading = StateDictOptions(full_state_dict=True) if name == "whole" and not state else options
        before = [p.full_tensor().detach().clone() for p in models[1].parameters()]  # type: ignore[operator]
        set_optimizer_state_dict(models[1], steps[1].optimizer, state, options=loading)
        after = [p.full_tensor().detach().clone() for p in models[1].parameters()]  # type: ignore[operator]
        for model, step in zip(models, steps, strict=True):
            train(model, step, 2, first=3)
        ends = [[p.full_tensor().detach().clone() for p in model.parameters()] for model in models]  # type: ignore[operator]
        found[name] = all(map(torch.equal, before, after)), all(map(torch.equal, *ends))
    return found


CASES: dict[str, Callable[[], Any]] = {
    case.__name__: case
    for case in (
        a_gradient_that_one_process_lacks, a_gradient_that_is_missing_everywhere, found_inf, found_inf_in_one_process,
        a_matrix_that_is_not_finite, interrupted, state_is_with_the_owner, replanned, copied,
        state_dict_in_one_process, under_fsdp, few_matrices, many_matrices, many_sums, owned_copies, wrong_groups,
        through_torch,
    )
}  # fmt: skip
FOUR: dict[str, Callable[[], Any]] = {
    case.__name__: case for case in (under_fsdp_and_tensor, many_matrices, a_gradient_that_is_missing_everywhere)
}
