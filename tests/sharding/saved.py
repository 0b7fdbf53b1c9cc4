"""One of two processes that save and load a model under FSDP2; run by test_sharding.py.

python -m tests.sharding.saved RANK FILE OUT
"""

from __future__ import annotations

import copy
import gc
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


def through_a_distributed_checkpoint(folder: Path, state: str, rows: int) -> list[torch.Tensor]:
    """Weights one update after a checkpoint: of the run that went on, of one that loaded it, and, where shards are
    whole blocks, of one that loaded it in one process (whose later updates round other codes)."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def start() -> tuple[nn.Module, sw.AdamW]:
        torch.manual_seed(0)
        network = nn.Linear(64, rows)
        fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
        return network, sw.AdamW(network.named_parameters(), lr=0.05, state=state)

    def go_on(network: nn.Module, optimizer: sw.AdamW, begin: int, end: int) -> None:
        for number in range(begin, end):
            x = torch.randn(6, 64, generator=torch.Generator().manual_seed(number))
            network(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    network, optimizer = start()
    go_on(network, optimizer, 0, 3)
    weights, slots = get_state_dict(network, optimizer)
    dcp.save({"model": weights, "optimizer": slots}, checkpoint_id=folder / f"{state}-{rows}")
    entire = copy.deepcopy(get_state_dict(network, optimizer, options=StateDictOptions(full_state_dict=True)))
    go_on(network, optimizer, 3, 4)
    again, another = start()
    weights, slots = get_state_dict(again, another)
    content = {"model": weights, "optimizer": slots}
    dcp.load(content, checkpoint_id=folder / f"{state}-{rows}")
    set_state_dict(again, another, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    go_on(again, another, 3, 4)
    ends = [whole(network), whole(again)]
    if rows % 8 == 0 and dist.get_rank() == 0:
        alone = nn.Linear(64, rows)
        single = sw.AdamW(alone.named_parameters(), lr=0.05, state=state)
        set_state_dict(alone, single, model_state_dict=entire[0], optim_state_dict=entire[1])
        go_on(alone, single, 3, 4)
        ends.append(torch.cat([p.detach().reshape(-1) for p in alone.parameters()]))
    return ends


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
        dist.barrier()
        try:
            make()[1].load(folder / f"own-{1 - rank}.pt")
        except UsageError as error:
            said.append(str(error))
        train(network, step, 3, 5)
        again, again_step = make()
        again_step.load(folder / f"own-{rank}.pt")
        train(again, again_step, 3, 5)
        one, other = whole(network), whole(again)
        distributed = [
            through_a_distributed_checkpoint(folder, *case)
            for case in (("int8", 66), ("int4", 66), ("int8", 64), ("int4", 64))
        ]
        answers: list[list[str]] = [[], []]
        dist.all_gather_object(answers, said)
        if rank == 0:
            torch.save({"one": one, "other": other, "said": answers, "distributed": distributed}, out)
        dist.barrier()
    finally:
        gc.collect()  # torch 2.13 may abort where FSDP's objects outlive the groups of gloo
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
