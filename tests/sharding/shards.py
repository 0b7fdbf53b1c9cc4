"""One of two processes that train the same small problem with parameters cut over both; run by test_sharding.py.

python -m tests.sharding.shards RANK FILE OUT CASES      (CASES: JSON, a list of [name, options])
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from stepwell.optimizers import find

SHAPES = ((7, 6), (90, 64), (1, 5), (9,))  # uneven, large enough for codes, empty on the second process, a vector
PLACEMENTS = (Shard(0), Shard(1), Shard(0), Replicate())


def problem() -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return params, [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(4)]


def train(name: str, options: dict[str, Any]) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))
    params, grads = problem()
    spread = [
        torch.nn.Parameter(distribute_tensor(p, mesh, [place])) for p, place in zip(params, PLACEMENTS, strict=True)
    ]
    optimizer = find(name)([(f"p{i}", p) for i, p in enumerate(spread)], **options)
    norms = []
    for row in grads:
        for p, g, place in zip(spread, row, PLACEMENTS, strict=True):
            p.grad = distribute_tensor(g, mesh, [place])
        norms.append(float(optimizer.gradient_norm()))
        optimizer.step()
    state = optimizer.state_dict()["state"]
    kinds = {key: isinstance(value, DTensor) for key, value in state[1].items()}
    again = find(name)([(f"p{i}", p) for i, p in enumerate(spread)], **options)
    again.load_state_dict(optimizer.state_dict())
    for p, g, place in zip(spread, grads[0], PLACEMENTS, strict=True):
        p.grad = distribute_tensor(g, mesh, [place])
    again.step()
    return {"params": [p.full_tensor().detach() for p in spread], "norms": norms, "kinds": kinds}


def main() -> None:
    rank, file, out, cases = int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        results = [train(name, options) for name, options in cases]
        if rank == 0:
            torch.save(results, out)
        dist.barrier()
    finally:
        gc.collect()  # torch 2.13 may abort where FSDP's objects outlive the groups of gloo
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
