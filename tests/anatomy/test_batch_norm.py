"""Running statistics are renewed or kept, whatever happens on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.anatomy.batch_norm import norms_of, statistics_kept
from stepwell.errors import UsageError
from tests.step.small import same


def model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Dropout(dropout), nn.Linear(6, 4), nn.BatchNorm1d(4)
    )
    network(torch.randn(7, 5))
    return network


def batches(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 5, generator=generator) * 3 + 1 for _ in range(count)]


def buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: (b, 3), lambda b: [b], lambda b: {"input": b}])
def test_statistics_are_those_of_torchs_pass_over_the_data(wrap: Any) -> None:
    ours, theirs = model(), model()
    ours.eval()
    torch.optim.swa_utils.update_bn(batches(), theirs)
    assert stepwell.recalibrate(ours, [wrap(batch) for batch in batches()]) == 4
    assert same(buffers(ours), buffers(theirs))
    assert not ours[1].training  # modes and momenta are what they were
    assert ours[1].momentum == 0.3
    assert not torch.equal(ours[1].running_mean, model()[1].running_mean)


def test_nothing_is_dropped_out() -> None:
    plain, dropping = model(), model(0.5)
    for network in (plain, dropping):
        network.load_state_dict(model().state_dict())
        stepwell.recalibrate(network, batches(), forward=lambda batch, network=network: network(batch))
    assert same(buffers(plain), buffers(dropping))
    assert dropping.training


def test_without_norms_no_batch_is_read() -> None:
    def unread() -> Any:
        raise AssertionError
        yield

    network = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.LayerNorm(6))
    assert stepwell.recalibrate(network, unread()) == 0


@pytest.mark.parametrize(("data", "error"), [([], UsageError), ([*batches(2), torch.zeros(3, 9)], RuntimeError)])
def test_after_a_failure_all_is_as_it_was(data: list[Tensor], error: type[Exception]) -> None:
    network = model()
    network[1].eval()
    before = copy.deepcopy(buffers(network))
    with pytest.raises(error):
        stepwell.recalibrate(network, data)
    assert same(buffers(network), before)
    assert (network.training, network[1].training, network[1].momentum) == (True, False, 0.3)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_statistics_are_kept_bit_for_bit(error: type[BaseException] | None) -> None:
    network = nn.Sequential(model(), nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True))
    network(batches()[0])
    before = buffers(network)
    try:
        with statistics_kept(network):
            network(torch.full((8, 5), torch.inf))
            assert not same(buffers(network), before)
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert same(buffers(network), before)
    assert len(norms_of(network)) == 3
    with statistics_kept(None):
        pass
