"""Nothing is left unsynchronised by a Step: not for another Step, not for a loop without one."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stepwell.errors import UsageError
from stepwell.optimizers import SGD
from stepwell.step import Step
from tests.processes import in_two_processes
from tests.step.small import data, flat, loss, model
from tests.step.test_order import Distributed


def _sgd(network: nn.Module) -> SGD:
    return SGD(network.parameters(), lr=0.1)


# One process: what the model is told


def test_a_second_step_takes_over() -> None:
    network = Distributed(model())
    first = Step(_sgd(network), accumulate=4, model=network)
    for seed in range(5):  # one micro-batch of the second update is in
        first(loss(network, *data(seed=seed)))
    network.forwards.clear()
    second = Step(_sgd(network), model=network)
    for seed in range(3):
        second(loss(network, *data(seed=seed)))
    assert network.forwards == [True] * 3
    assert not network.quiet


def test_nothing_is_left_off_between_the_calls() -> None:
    network = Distributed(model())
    step = Step(_sgd(network), accumulate=3, model=network)
    for seed in range(7):
        assert not network.quiet
        step(loss(network, *data(seed=seed)))
    del step
    gc.collect()
    network(data()[0])
    assert network.forwards[-1]


def test_a_forward_pass_that_is_interrupted_leaves_nothing_off() -> None:
    network = Distributed(model())
    step = Step(_sgd(network), accumulate=3, model=network)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = network.inner.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        network(data()[0])
    handle.remove()
    del step
    gc.collect()
    network(data()[0])
    assert network.forwards[-1]
    assert not network.quiet


def test_evaluating_within_an_accumulation_is_left_alone() -> None:
    network = Distributed(model())
    step = Step(_sgd(network), accumulate=3, model=network)
    step(loss(network, *data()))
    with torch.no_grad():
        network(data()[0])
    assert network.forwards == [False, True]


def test_a_loop_without_the_step_is_refused_where_nothing_can_be_made_up_for() -> None:
    network = Distributed(model())
    step = Step(_sgd(network), accumulate=3, model=network)
    with pytest.raises(UsageError, match=r"delete the Step before a loop without it \(del step\)"):
        loss(network, *data()).backward()
    del step
    gc.collect()
    loss(network, *data()).backward()


def test_a_copy_of_the_model_is_no_model_of_the_step() -> None:
    network = Distributed(model())
    step = Step(_sgd(network), accumulate=3, model=network)
    step(loss(network, *data()))
    other = copy.deepcopy(network)
    other(data()[0])
    assert other.forwards[-1]


# Two processes: the replicas stay equal


def _data(rank: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return data(seed=100 * rank + k)


def _loop(step: Step, network: nn.Module, count: int = 8) -> None:
    rank = torch.distributed.get_rank()
    for k in range(count):
        step(loss(network, *_data(rank, k)))


def _plain(network: nn.Module) -> None:
    rank, optimizer = torch.distributed.get_rank(), torch.optim.SGD(network.parameters(), lr=0.1)
    for k in range(3):
        optimizer.zero_grad()
        loss(network, *_data(rank, k)).backward()
        optimizer.step()


def _two(first: int, second: int, keep: bool) -> Callable[[nn.Module], None]:
    def act(network: nn.Module) -> None:
        step = Step(_sgd(network), accumulate=first, model=network)
        _loop(step, network)
        if not keep:
            del step
            gc.collect()
        _loop(Step(_sgd(network), accumulate=second, model=network), network)

    return act


def _bound_anew(network: nn.Module) -> None:
    step = Step(_sgd(network), accumulate=4, model=network)
    _loop(step, network)
    step = Step(_sgd(network), accumulate=4, model=network)
    _loop(step, network)


def _plain_after(network: nn.Module) -> None:
    step = Step(_sgd(network), accumulate=4, model=network)
    _loop(step, network)
    _plain(network)
    _loop(step, network)


def _in_turn(network: nn.Module) -> None:
    steps = [Step(_sgd(network), accumulate=n, model=network) for n in (2, 4)]
    for _ in range(3):
        for step in steps:
            _loop(step, network, step.accumulate)


def _interleaved(network: nn.Module) -> None:
    """The forward pass of one is asked for by the other."""
    parts = list(network.parameters())
    steps = [Step(SGD(half, lr=0.1), accumulate=2, model=network) for half in (parts[:2], parts[2:])]
    rank = torch.distributed.get_rank()
    for k in range(6):
        value = loss(network, *_data(rank, k))
        steps[k % 2](value)


def _stop(_: torch.Tensor) -> None:
    raise MemoryError


def _dropped(network: nn.Module) -> None:
    step = Step(_sgd(network), accumulate=4, model=network)
    _loop(step, network, 3)
    broken = loss(network, *data())
    broken.register_hook(_stop)
    with pytest.raises(MemoryError):
        step(broken)
    _loop(step, network)


def _pass_with_a_rest(network: nn.Module) -> None:
    step, rank = Step(_sgd(network), accumulate=4, model=network), torch.distributed.get_rank()
    for k in step.batches(range(6)):
        step(loss(network, *_data(rank, k)))
    _plain(network)


CASES: dict[str, Callable[[nn.Module], None]] = {
    "4 then 1, kept": _two(4, 1, True),
    "4 then 1": _two(4, 1, False),
    "4 then 4, kept": _two(4, 4, True),
    "1 then 4, kept": _two(1, 4, True),
    "bound anew": _bound_anew,
    "a plain loop afterwards": _plain_after,
    "two in turn": _in_turn,
    "two interleaved": _interleaved,
    "an accumulation dropped": _dropped,
    "a pass with a rest": _pass_with_a_rest,
}


def _process(rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", world_size=2, rank=rank)
    found = {}
    for name, act in CASES.items():
        network = DistributedDataParallel(model())
        act(network)
        ends = [torch.zeros_like(flat(network)) for _ in range(2)]
        torch.distributed.all_gather(ends, flat(network))
        found[name] = float((ends[0] - ends[1]).abs().max()), flat(network).tolist()
    results.put((rank, found))
    torch.distributed.destroy_process_group()


def _whole(network: nn.Module, first: int, second: int) -> None:
    """What two Steps come to in one process."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for accumulate in (first, second):
        for start in range(0, 8, accumulate):
            for k in range(start, start + accumulate):
                for rank in range(2):
                    (loss(network, *_data(rank, k)) / (2 * accumulate)).backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.slow
def test_replicas_stay_equal() -> None:
    found = dict(in_two_processes(_process))
    assert {name: apart for name, (apart, _) in found[0].items()} == dict.fromkeys(CASES, 0.0)
    for name, parts in {"4 then 1, kept": (4, 1), "4 then 4, kept": (4, 4), "bound anew": (4, 4)}.items():
        whole = model()
        _whole(whole, *parts)
        torch.testing.assert_close(torch.tensor(found[0][name][1]), flat(whole), rtol=1e-5, atol=1e-6)
