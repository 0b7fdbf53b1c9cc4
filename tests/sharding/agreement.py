"""Cases for two processes: what one of them decides from its own data must be decided by all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
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
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import stepwell as sw

SIZES = (2, 6)  # samples of each process where weights differ


def model(outputs: int = 3) -> nn.Module:
    """One output fewer than processes leaves a process without a row of the last layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))


def rows(rank: int, number: int = 0, count: int = 4) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(100 * number + rank))


def loss(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).square().mean()


def whole(network: nn.Module) -> list[float]:
    parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in network.parameters()]
    return [float(x) for p in parts for x in p.detach().flatten()]


# Weights that differ


def weighted(spread: bool, sizes: Sequence[int]) -> tuple[list[float], float]:
    """Weights after one update, and the norm, where each process has another number of samples."""
    network = model()
    if spread:
        fully_shard(network)
    parallel = network if spread else DistributedDataParallel(network)
    step = sw.Step(sw.SGD(network.named_parameters(), lr=0.1), model=parallel)
    size = sizes[dist.get_rank()]
    done = step(loss(parallel, rows(dist.get_rank(), count=size)), weight=size)
    return whole(network), float(done.grad_norm)


def weighted_alone(sizes: Sequence[int]) -> tuple[list[float], float]:
    """The same in one process, with the samples of all."""
    network = model()
    step = sw.Step(sw.SGD(network.named_parameters(), lr=0.1))
    done = step(loss(network, torch.cat([rows(rank, count=size) for rank, size in enumerate(sizes)])))
    return whole(network), float(done.grad_norm)


def weighted_sharded() -> Any:
    return weighted(True, SIZES)


def weighted_replicated() -> Any:
    return weighted(False, SIZES)


def one_sample_on_one_rank() -> Any:
    """All weights of one process are 1."""
    return weighted(False, (1, 6))


# Empty shards


def trained(kind: Any, spread: bool = True, **options: Any) -> tuple[nn.Module, Any]:
    network = model(1)
    if spread:
        fully_shard(network)
    optimizer = kind(network.named_parameters(), **options)
    for number in range(6):
        batches = [rows(rank, number) for rank in range(2)]
        loss(network, batches[dist.get_rank()] if spread else torch.cat(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network, optimizer


def numbers(optimizer: Any) -> list[dict[str, float]]:
    """The numbers in the state of each parameter."""
    names = ("step", "d", "mu_product", "d_numerator")
    return [{name: float(state[name]) for name in names if name in state} for state in optimizer.state.values()]


def estimated() -> list[tuple[list[float], list[dict[str, float]]]]:
    """Optimizers whose sums go over all parameters, and one with a number for each tensor."""
    found = []
    for kind in (sw.Prodigy, sw.DAdaptAdam, sw.NAdam):
        network, optimizer = trained(kind)
        found.append((whole(network), numbers(optimizer)))
    return found


def state_of_empty_shards() -> Any:
    """Through torch's functions for checkpoints, sharded and whole."""
    network, optimizer = trained(sw.AdamW, state="int8")
    state = get_optimizer_state_dict(network, optimizer)
    again = sw.AdamW(network.named_parameters(), state="int8")
    set_optimizer_state_dict(network, again, state)
    entire = get_optimizer_state_dict(network, optimizer, options=StateDictOptions(full_state_dict=True))
    shapes = {name: tuple(value["exp_avg"].shape) for name, value in entire["state"].items()}
    return sorted(state["state"]), numbers(again), shapes


# Rounding


def rounded(spread: bool, state: str, weights: str, shard: int = 0) -> Tensor:
    start = torch.linspace(-1, 1, 2 * 4 * 64).reshape(8, 64).bfloat16()
    grads = [torch.randn(8, 64, generator=torch.Generator().manual_seed(n)).bfloat16() for n in range(5)]
    mesh = init_device_mesh("cpu", (2,)) if spread else None

    def placed(tensor: Tensor) -> Tensor:
        return tensor.clone() if mesh is None else distribute_tensor(tensor, mesh, [Shard(shard)])

    parameter = nn.Parameter(placed(start))
    optimizer = sw.AdamW([("p", parameter)], lr=1e-3, state=state, weights=weights)
    for gradient in grads:
        parameter.grad = placed(gradient)
        optimizer.step()
    result = parameter.detach()
    return result.full_tensor().float() if isinstance(result, DTensor) else result.float()


def halves_round_alike() -> float:
    """The share of equal elements in two equal halves, which lie in different processes."""
    mesh = init_device_mesh("cpu", (2,))
    parameter = nn.Parameter(distribute_tensor(torch.ones(8, 64, dtype=torch.bfloat16), mesh, [Shard(0)]))
    optimizer = sw.SGD([("p", parameter)], lr=1e-3, weights="stochastic")
    parameter.grad = distribute_tensor(torch.ones(8, 64, dtype=torch.bfloat16), mesh, [Shard(0)])
    optimizer.step()
    full = parameter.detach().full_tensor()
    return float((full[:4] == full[4:]).float().mean())


def rounded_by_rows() -> list[Any]:
    return [rounded(True, state, weights).tolist() for state, weights in ROUNDED]


ROUNDED = [("bf16", "native"), ("bf16", "stochastic"), ("fp32", "stochastic"), ("fp32", "split")]


def rounded_by_columns() -> list[Any]:
    return [rounded(True, state, weights, shard=1).tolist() for state, weights in ROUNDED]


# One reduction


def reductions() -> dict[str, int]:
    """How many all-reduces a Step makes in one update, with clipping."""
    found = {}
    for name, kind in (("AdamW", sw.AdamW), ("LAMB", sw.LAMB), ("Prodigy", sw.Prodigy)):
        network = model()
        fully_shard(network)
        step = sw.Step(kind(network.named_parameters()), model=network, clip_norm=0.1)
        step(loss(network, rows(dist.get_rank())))
        calls: list[int] = []
        plain = dist.all_reduce

        def counted(tensor: Tensor, *args: Any, calls: list[int] = calls, plain: Any = plain, **more: Any) -> Any:
            calls.append(tensor.numel())
            return plain(tensor, *args, **more)

        dist.all_reduce = counted
        try:
            step(loss(network, rows(dist.get_rank(), 1)))
        finally:
            dist.all_reduce = plain
        found[name] = len(calls)
    return found


# Stages of a pipeline


def stages() -> Any:
    """Each process has another part of the model, and runs backward by itself."""
    torch.manual_seed(dist.get_rank())
    part = nn.Linear(6, 2)
    step = sw.Step(sw.SGD(part.named_parameters(), lr=0.1), clip_norm=0.1, group=dist.group.WORLD, warn_skipped=None)
    loss(part, rows(dist.get_rank())).backward()
    norms = [float(done.grad_norm) for done in [step.update()]]
    gradients = [p.grad for p in part.parameters()]
    loss(part, rows(dist.get_rank()) * (float("nan") if dist.get_rank() else 1.0)).backward()
    step.update()
    return norms, step.number, step.skipped, gradients


# What cannot work


def not_a_number_on_one_rank() -> Any:
    network = model()
    fully_shard(network)
    step = sw.Step(sw.AdamW(network.named_parameters()), model=network, warn_skipped=None)
    before = whole(network)
    factor = float("nan") if dist.get_rank() else 1.0
    step(loss(network, rows(dist.get_rank()) * factor))
    return step.number, step.skipped, whole(network) == before


def made_before() -> Any:
    network = model()
    optimizer = sw.AdamW(network.named_parameters())
    fully_shard(network)
    loss(network, rows(dist.get_rank())).backward()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer.step()
        optimizer.step()
    return [(str(one.message), Path(one.filename).name) for one in said if one.category is UserWarning]


def made_before_a_step() -> Any:
    network = model()
    optimizer = sw.AdamW(network.named_parameters())
    fully_shard(network)
    sw.Step(optimizer, model=network)(loss(network, rows(dist.get_rank())))


def _sharded(kind: Any) -> Any:
    network = model()
    fully_shard(network)
    return kind(network.named_parameters())


def zero_prodigy() -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ZeroRedundancyOptimizer(model().parameters(), sw.Prodigy)


def zero_adamw() -> Any:
    """Exact there: each process updates some parameters, and sends them to the others."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ends = []
    for inside in (False, True):
        network = model()
        parameters = network.parameters()
        optimizer: Any = (
            ZeroRedundancyOptimizer(parameters, sw.AdamW, lr=0.1) if inside else sw.AdamW(parameters, lr=0.1)
        )
        for number in range(3):
            loss(network, rows(0, number)).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(whole(network))
    return ends[0] == ends[1]


def lbfgs() -> Any:
    _sharded(sw.LBFGS)


class Weighted(sw.Optimizer):
    """A rule of whole matrices that reads all weights."""

    rule, view = (lambda g, p, t: g * p.norm()), "matrix"

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0}, options)


def reads_weights() -> Any:
    _sharded(Weighted)


def _flat() -> Any:
    return FullyShardedDataParallel(model(), use_orig_params=True, device_id=torch.device("cpu"))


def fsdp1_step() -> Any:
    network = _flat()
    sw.Step(sw.AdamW(network.named_parameters()), model=network)


def fsdp1_muon() -> Any:
    sw.Muon(_flat())


def fsdp1_lamb() -> Any:
    sw.LAMB(_flat().named_parameters())


def fsdp1_adamw() -> Any:
    """An optimizer of single elements, which needs no norm: as torch's."""
    ends = []
    for kind in (sw.AdamW, torch.optim.AdamW):
        network = _flat()
        optimizer = kind(network.parameters(), lr=0.1)
        for number in range(3):
            loss(network, rows(dist.get_rank(), number)).backward()
            optimizer.step()
            optimizer.zero_grad()
        with FullyShardedDataParallel.summon_full_params(network):
            ends.append(torch.cat([p.detach().flatten() for p in network.parameters()]).clone())
    return float((ends[0] - ends[1]).abs().max())


CASES: dict[str, Callable[[], Any]] = {
    case.__name__: case
    for case in (
        weighted_sharded, weighted_replicated, one_sample_on_one_rank, estimated, state_of_empty_shards,
        halves_round_alike, rounded_by_rows, rounded_by_columns, reductions, stages, not_a_number_on_one_rank,
        made_before, made_before_a_step, zero_prodigy, zero_adamw, lbfgs, reads_weights, fsdp1_step, fsdp1_muon,
        fsdp1_lamb, fsdp1_adamw,
    )
}  # fmt: skip
