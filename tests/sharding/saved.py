"""One of two processes that save and load a model under FSDP2; run by test_sharding.py.

python -m tests.sharding.saved RANK FILE OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import stepwell as sw
from stepwell.errors import UsageError
from tests.sharding.fsdp import model


def make() -> tuple[nn.Module, sw.Step]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network = model()
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    return network, sw.Step(sw.AdamW(network.named_parameters(), lr=0.05), ema=0.9, model=network)


def train(network: nn.Module, step: sw.Step, begin: int, end: int) -> None:
    for number in range(begin, end):
        generator = torch.Generator().manual_seed(number)
        x, y = torch.randn(6, 7, generator=generator), torch.randn(6, 1, generator=generator)
        step((network(x) - y).square().mean())


def whole(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.full_tensor().detach().reshape(-1) for p in network.parameters()])  # type: ignore[operator]


def main() -> None:
    rank, file, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    folder = Path(out).parent
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    said = []
    try:
        network, step = make()
        train(network, step, 0, 3)
        step.save(folder / f"own-{rank}.pt")
        for call in (lambda: step.save(folder / "common.pt"), lambda: make()[1].load(folder / "common.pt")):
            try:
                call()
            except UsageError as error:
                said.append(str(error))
            dist.barrier()
        train(network, step, 3, 5)
        again, again_step = make()
        again_step.load(folder / f"own-{rank}.pt")
        train(again, again_step, 3, 5)
        one, other = whole(network), whole(again)
        answers: list[list[str]] = [[], []]
        dist.all_gather_object(answers, said)
        if rank == 0:
            torch.save({"one": one, "other": other, "said": answers}, out)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
