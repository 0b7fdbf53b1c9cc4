"""Uniform averages: torch's, points where they are asked for, and statistics of batch norm that come back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.errors import UsageError
from stepwell.optimizers import SGD
from stepwell.step import SWA, Average, Step
from tests.step.small import data, flat, loss, model, same


def averaged(step: Step, network: nn.Module) -> Tensor:
    with step.averaged():
        return flat(network)


@pytest.mark.parametrize(("start", "every"), [(1, 1), (3, 1), (4, 3), (2, 5)])
def test_the_average_is_torchs_at_the_points_that_were_asked_for(start: int, every: int) -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.3, momentum=0.9), average=SWA(start, every))
    theirs = torch.optim.swa_utils.AveragedModel(network)
    seen = []
    for number in range(1, 15):
        step(loss(network, *data(seed=number)))
        if number >= start and (number - start) % every == 0:
            theirs.update_parameters(network)
            seen.append(flat(network).double())
    # torch divides the difference where we multiply it: a rounding each time
    torch.testing.assert_close(averaged(step, network), flat(theirs.module), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(averaged(step, network).double(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-7)


def test_before_the_first_point_there_is_no_copy_and_the_weights_are_shown() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.3), ema=SWA(start=3))
    for _ in range(2):
        step(loss(network, *data()))
    assert step.average is not None
    assert step.average.averages == []
    assert torch.equal(averaged(step, network), flat(network))
    step(loss(network, *data()))
    assert torch.equal(averaged(step, network), flat(network))  # of one point
    step(loss(network, *data()))
    assert not torch.equal(averaged(step, network), flat(network))


def test_a_skipped_update_is_no_point() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.3), average=SWA(start=2, every=2))
    points = []
    for number in range(8):
        done = step(loss(network, *data(seed=number)) * (torch.nan if number in (1, 4) else 1.0))
        if done.updated and step.number % 2 == 0:
            points.append(flat(network))
    assert len(points) == 3
    torch.testing.assert_close(averaged(step, network), torch.stack(points).mean(0))


def test_narrow_weights_are_averaged_in_fp32() -> None:
    network = model(dtype=torch.bfloat16)
    step = Step(SGD(network.parameters(), lr=0.1), average=SWA(start=1))
    points = []
    for seed in range(9):
        step(loss(network, data(seed=seed)[0].bfloat16(), data(seed=seed)[1]))
        points.append(flat(network).float())
    mean = torch.stack(points).mean(0)
    before = flat(network)
    held = torch.cat([average.reshape(-1) for average in step.average.averages])  # type: ignore[union-attr]
    torch.testing.assert_close(held, mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(averaged(step, network), held.bfloat16())
    assert torch.equal(flat(network), before)


def test_a_group_that_comes_later_has_a_mean_of_its_own() -> None:
    network, more = model(), model(1)
    optimizer = SGD(network.parameters(), lr=0.3)
    step = Step(optimizer, average=SWA(start=1))
    points: list[Tensor] = []
    for number in range(6):
        if number == 4:
            optimizer.add_param_group({"params": list(more.parameters())})
            assert torch.equal(averaged(step, more), flat(more))  # until the next point it has none
        value = loss(network, *data(seed=number))
        step(value if number < 4 else value + loss(more, *data(seed=number)))
        points += [flat(more)] if number >= 4 else []
    torch.testing.assert_close(averaged(step, more), torch.stack(points).mean(0))
    assert set(step.average.counts) == {6, 2}  # type: ignore[union-attr]


def test_averages_follow_their_weights_into_another_order() -> None:
    a, b = torch.zeros(2), torch.zeros(3)
    swa = SWA(start=1)
    swa.update([a], 1)
    swa.update([a + 1, b], 2)
    swa.follow([1, 0])
    swa.update([b + 2, a + 5], 3)
    assert [average.tolist() for average in swa.averages] == [[1.0] * 3, [2.0] * 2]
    late = SWA(start=1)
    late.update([a], 1)
    with pytest.raises(UsageError, match="some weights were added after the last point"):
        late.follow([1, 0])
    SWA(start=5).follow([1, 0])


def _normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


@pytest.mark.parametrize("average", [lambda: SWA(start=2), lambda: Average(0.5)], ids=["SWA", "EMA"])
def test_statistics_taken_anew_inside_do_not_stay(average: Callable[[], Any]) -> None:
    network = _normed()
    step = Step(SGD(network.parameters(), lr=0.3), average=average(), model=network)
    for number in range(5):
        step(loss(network, *data(seed=number)))
    batches = [data(seed=number)[0] for number in range(4)]
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with step.averaged():
        first = network[1].running_mean.clone()
        assert torch.equal(first, before["1.running_mean"]) == isinstance(step.average, SWA)  # they are not averaged
        assert stepwell.recalibrate(network, batches) == 4
        anew = copy.deepcopy(network)
    assert same(dict(network.named_buffers()), before)
    assert not torch.equal(anew[1].running_mean, first)
    fresh = copy.deepcopy(anew)
    torch.optim.swa_utils.update_bn(batches, fresh)
    assert same(fresh.state_dict(), anew.state_dict())
    with step.averaged():  # and the averages are what they were
        assert torch.equal(network[1].running_mean, first)


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_run_goes_on_bit_for_bit(at: int, tmp_path: Any) -> None:
    def run() -> tuple[nn.Module, Step]:
        network = _normed()
        return network, Step(SGD(network.named_parameters(), lr=0.3), average=SWA(start=3, every=2), model=network)

    def updates(network: nn.Module, step: Step, numbers: range) -> None:
        for number in numbers:
            step(loss(network, *data(seed=number)))

    whole, whole_step = run()
    updates(whole, whole_step, range(11))
    first, first_step = run()
    updates(first, first_step, range(at))
    first_step.save(tmp_path / "run.pt")
    second, second_step = run()
    updates(second, second_step, range(5))  # has averages already
    second_step.load(tmp_path / "run.pt")
    updates(second, second_step, range(at, 11))
    assert torch.equal(flat(whole), flat(second))
    assert torch.equal(averaged(whole_step, whole), averaged(second_step, second))


def _saved(average: Any) -> dict[str, Any]:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=0.1), average=average)
    step(loss(network, *data()))
    return step.state_dict()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "start": (lambda: SWA(0), "SWA: start=0; it must be a whole number of at least 1"),
    "every": (lambda: SWA(5, every=0.5), "SWA: every=0.5; it must be a whole number of at least 1"),  # type: ignore[arg-type]
    "two": (
        lambda: Step(SGD(model().parameters()), ema=0.9, average=SWA(5)),
        r"ema=0.9 and average=SWA\(start=5, every=1\) are both given; give one",
    ),
    "number": (lambda: Step(SGD(model().parameters()), average=2.0), r"average=2.0; it must be in \[0, 1\)"),
    "another kind": (
        lambda: Step(SGD(model().named_parameters()), ema=0.9).load_state_dict(_saved(SWA(1))),
        "the checkpoint has averages of SWA, this Step has Average; use the same kind",
    ),
    "the other kind": (
        lambda: Step(SGD(model().named_parameters()), average=SWA(1)).load_state_dict(_saved(0.9)),
        "the checkpoint has averages of Average, this Step has SWA",
    ),
    "another model": (
        lambda: Step(SGD(nn.Linear(5, 8).named_parameters()), average=SWA(1)).load_state_dict(_saved(SWA(1))),
        "SWA: the checkpoint has averages of 4 tensors, this model has 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_state_of_before_there_were_kinds_is_an_exponential_average() -> None:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=0.1), ema=0.9)
    state = _saved(0.9)
    del state["average"]["kind"]
    step.load_state_dict(state)
    assert same(step.state_dict()["average"]["averages"], state["average"]["averages"])
