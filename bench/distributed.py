"""What an update of sharded parameters costs: collectives, bytes and time, in two processes on the CPU (gloo).

    python bench/distributed.py

Collectives are counted at `torch.distributed`, not estimated. Times are medians over rounds in which all candidates
take turns, in one process of two; each candidate updates 400 small tensors that are cut over both.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.processes import in_processes

import stepwell as sw
from stepwell.engine.divided.owners import assigned
from stepwell.optimizers import find

TENSORS, SHAPE, ROUNDS = 400, (32, 16), 60
COUNTED = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "broadcast",
    "all_to_all_single",
)


def counted(act: Callable[[], Any]) -> dict[str, list[int]]:
    """The bytes of each collective that `act` calls, by name."""
    found: dict[str, list[int]] = {}
    plain = {name: getattr(dist, name) for name in COUNTED}

    def watched(name: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            tensor = next(one for one in (*args, *more.values()) if isinstance(one, Tensor))
            sent = tensor.nbytes
            if name == "all_to_all_single":  # without what stays here; its sizes are in bytes
                sent = sum(args[3]) - args[3][dist.get_rank()]
            found.setdefault(name, []).append(sent)
            return plain[name](*args, **more)

        return call

    try:
        for name in COUNTED:
            setattr(dist, name, watched(name))
        act()
    finally:
        for name in COUNTED:
            setattr(dist, name, plain[name])
    return found


def collectives() -> list[tuple[str, str]]:
    """Of one update of a Step with clipping, after the backward pass."""
    rows = []
    for name, kind in (("AdamW", sw.AdamW), ("LAMB", sw.LAMB), ("Prodigy", sw.Prodigy), ("Lion", sw.Lion)):
        torch.manual_seed(0)
        network = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
        fully_shard(network)
        step = sw.Step(kind(network.named_parameters()), model=network, clip_norm=1.0)
        x = torch.randn(4, 64)
        step(network(x).square().mean())
        network(x).square().mean().backward()
        found = counted(step.update)
        rows.append(
            (name, ", ".join(f"{len(sizes)} {kind} of {sizes} bytes" for kind, sizes in found.items()) or "none")
        )
    return rows


def matrices(name: str, way: str) -> dict[str, Any]:
    """Of one update of the matrices of a 6-layer transformer, GPT-2's shapes divided by 4: collectives, bytes sent to
    others against the bound, state here, and the work of the owners."""
    shapes = [(576, 192), (192, 192), (768, 192), (192, 768)] * 6
    torch.manual_seed(0)
    mesh, count = init_device_mesh("cpu", (dist.get_world_size(),)), dist.get_world_size()
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    options: dict[str, Any] = {"process_group": dist.group.WORLD} if way == "copies" else {}
    if way == "cut":
        parameters = [nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in parameters]
    optimizer = find(name)([(f"blocks.{i}.w", p) for i, p in enumerate(parameters)], **options)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    begun = time.perf_counter()
    found = counted(optimizer.step)
    elements = sum(math.prod(shape) for shape in shapes)
    state = torch.tensor([float(optimizer.state_bytes())])
    parts = [torch.empty_like(state) for _ in range(count)]
    taken = 1000 * (time.perf_counter() - begun)
    dist.all_gather(parts, state)
    sizes = [float(part) for part in parts]
    alone = find(name)([(f"blocks.{i}.w", nn.Parameter(torch.ones(shape))) for i, shape in enumerate(shapes)])
    alone.make_state()
    works = [optimizer.work(optimizer.param_groups[0], shape) for shape in shapes]
    loads = [0.0] * count
    for owner, work in zip(assigned(works, count), works, strict=True):
        loads[owner] += work
    bound = elements * 4 * (count - 1) / count * (1 if way == "copies" else 2 / count)
    if name == "Adafactor":
        bound = 8 * sum(sum(shape) for shape in shapes)
    return {
        "collectives": {kind: len(sent) for kind, sent in found.items()},
        "bytes": sum(sum(sent) for kind, sent in found.items()),
        "bound": bound,
        "state": max(sizes) * count / alone.state_bytes(),
        "work": max(loads) * count / sum(loads),
        "ms": taken,
    }


def times() -> dict[str, float]:
    """Milliseconds of one step on 400 small tensors, by candidate."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(SHAPE, generator=generator) for _ in range(TENSORS)]

    def sharded() -> list[nn.Parameter]:
        made = [nn.Parameter(distribute_tensor(one, mesh, [Shard(0)])) for one in whole]
        for one in made:  # as FSDP2 makes it, with the specification of the parameter
            one.grad = DTensor(torch.ones_like(one.to_local()), one._spec, requires_grad=False)
        return made

    def plain() -> list[nn.Parameter]:
        rows = SHAPE[0] // dist.get_world_size()
        made = [nn.Parameter(one[:rows].clone()) for one in whole]
        for one in made:
            one.grad = torch.ones(rows, SHAPE[1])
        return made

    candidates = {
        "stepwell, plain tensors": sw.AdamW(plain()),
        "stepwell, DTensors": sw.AdamW(sharded()),
        "torch fused, plain tensors": torch.optim.AdamW(plain(), fused=True),
        "torch fused, DTensors": torch.optim.AdamW(sharded(), fused=True),
        "torch foreach, DTensors": torch.optim.AdamW(sharded(), foreach=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(ROUNDS):
        for name, optimizer in candidates.items():
            begun = time.perf_counter()
            optimizer.step()
            if number >= ROUNDS // 4:
                taken[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    of_matrices = {
        f"{name}, {way}": partial(matrices, name, way)
        for way in ("cut", "copies")
        for name in ("Muon", "SOAP", "Shampoo", "Adafactor")
        if (name, way) != ("Adafactor", "copies")
    }
    found = in_processes({"collectives": collectives, "times": times, **of_matrices}, 2, timeout=300)[0]
    four = in_processes(dict(of_matrices), 4, timeout=300)[0]
    print("collectives of one update with clipping, FSDP2, two processes")
    for name, said in found["collectives"]:
        print(f"    {name:8} {said}")
    print("the 24 matrices of a 6-layer transformer: bytes sent by a process over 2Pb(N-1)/N^2 (copies: Pb(N-1)/N;")
    print("Adafactor: 8 for a row or column), the largest state over 1/N of all, the most work over the mean")
    for count, answers in ((2, found), (4, four)):
        for name in of_matrices:
            one = answers[name]
            calls = ", ".join(f"{number} {kind}" for kind, number in one["collectives"].items())
            print(
                f"    {count} processes, {name:17} {calls:35} bytes {one['bytes'] / one['bound']:.3f} "
                f"state {one['state']:.3f} work {one['work']:.3f} {one['ms']:7.1f} ms"
            )
    print(f"one step on {TENSORS} tensors of {SHAPE[0]} x {SHAPE[1]}, cut over two processes, ms")
    for name, value in found["times"].items():
        print(f"    {name:28} {value:7.2f}")
    ours = found["times"]["stepwell, DTensors"]
    print(f"    DTensors over plain tensors: {ours / found['times']['stepwell, plain tensors']:.2f}")
    print(f"    over torch fused on DTensors: {ours / found['times']['torch fused, DTensors']:.3f}")


if __name__ == "__main__":
    main()
