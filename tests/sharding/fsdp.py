"""One of two processes that train a model under FSDP2 with a Step; run by test_sharding.py.

python -m tests.sharding.fsdp RANK FILE OUT
"""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import stepwell as sw

OPTIONS: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "exclude": "none"}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 1))


def train(step: sw.Step, network: nn.Module) -> list[float]:
    """Four updates of two micro-batches each, the same in every process; their norms before clipping."""
    generator, norms = torch.Generator().manual_seed(1), []
    for _ in range(8):
        x, y = torch.randn(6, 7, generator=generator), torch.randn(6, 1, generator=generator)
        done = step((network(x) - y).square().mean())
        norms += [float(done.grad_norm)] if done.updated else []
    return norms


def around(network: nn.Module) -> list[float]:
    """Norms of a second Step on the model, of one after an accumulation that was dropped, and of a loop without it."""

    def stop(_: Tensor) -> None:
        raise MemoryError

    kept = sw.Step(sw.SGD(network.named_parameters(), lr=0.01), accumulate=2, model=network)
    batches = [
        (torch.randn(6, 7, generator=g), torch.randn(6, 1, generator=g)) for g in [torch.Generator().manual_seed(2)]
    ]
    batches *= 6

    def value(number: int) -> Tensor:
        x, y = batches[number]
        return (network(x) - y).square().mean()

    kept(value(0))
    second = sw.Step(sw.SGD(network.named_parameters(), lr=0.01), model=network)
    broken = value(0)
    broken.register_hook(stop)
    with contextlib.suppress(MemoryError):
        kept(broken)  # its micro-batches are dropped
    found = [float(second(value(1)).grad_norm)]  # type: ignore[arg-type]
    kept(value(2))
    found.append(float(kept(value(3)).grad_norm))  # type: ignore[arg-type]
    plain = torch.optim.SGD(network.parameters(), lr=0.01)
    value(4).backward()
    whole = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in network.parameters()]
    found.append(float(torch.cat([g.reshape(-1) for g in whole]).norm()))  # type: ignore[union-attr]
    plain.step()
    plain.zero_grad()
    return found


def main() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank, file, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        network, mesh = model(), init_device_mesh("cpu", (2,))
        fully_shard(network[0], mesh=mesh)
        fully_shard(network, mesh=mesh)
        optimizer = sw.LAMB(network.named_parameters(), **OPTIONS)
        norms = train(sw.Step(optimizer, clip_norm=0.3, accumulate=2, model=network), network)
        norms += around(network)
        ends: list[Tensor] = [p.full_tensor().detach() for p in network.parameters()]  # type: ignore[operator]
        if rank == 0:
            torch.save({"norms": norms, "params": ends}, out)
        dist.barrier()
    finally:
        gc.collect()  # torch 2.13 may abort where FSDP's objects outlive the groups of gloo
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
