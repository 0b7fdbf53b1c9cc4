"""Models with matrices that are divided over processes: trained, saved and switched (see test_matrices.py)."""

from __future__ import annotations

import os
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
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import stepwell as sw
from tests.sharding.checkpoints import full


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
    return [full(p) for p in model.parameters()]


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


def switched() -> list[list[Tensor]]:
    """The weights after a switch of the optimizer, which carries the momentum over."""
    found = []
    for begin, end in (("Muon", "AdamW"), ("AdamW", "Muon"), ("SOAP", "AdamW"), ("AdamW", "SOAP")):
        model = network()
        if dist.is_initialized():
            for block in model:
                fully_shard(block)
            fully_shard(model)
        optimizer = getattr(sw, begin)(model if begin == "Muon" else model.named_parameters(), lr=0.01)
        step = sw.Step(optimizer, model=model)
        train(model, step, 3)
        step.switch(end, lr=0.01)
        train(model, step, 2, first=3)
        found.append([full(p) for p in model.parameters()])
    return found


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
    kinds: tuple[tuple[Any, Any], ...] = ((sw.Muon, "world"), (sw.AdamW, dist.group.WORLD))
    for kind, value in kinds:
        try:
            kind([("w", nn.Parameter(torch.ones(4, 4)))], process_group=value)
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
        before = [full(p) for p in models[1].parameters()]
        set_optimizer_state_dict(models[1], steps[1].optimizer, state, options=loading)
        after = [full(p) for p in models[1].parameters()]
        for model, step in zip(models, steps, strict=True):
            train(model, step, 2, first=3)
        ends = [[full(p) for p in model.parameters()] for model in models]
        found[name] = all(map(torch.equal, before, after)), all(map(torch.equal, *ends))
    return found
