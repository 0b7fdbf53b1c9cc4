"""Averages belong to names: what comes late, goes, or changes its place moves no other one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepwell.errors import UsageError
from stepwell.optimizers import SGD
from stepwell.step import SWA, Average, Step


class Late(nn.Module):
    """Makes a buffer with its first batch; all tensors have one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 1.0))
        self.shift = nn.Parameter(torch.full((4,), -5.0))
        self.register_buffer("first", torch.full((4,), 7.0))

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "seen"):
            self.register_buffer("seen", torch.full((4,), 100.0))
        return x * self.scale + 1e-3 * self.shift


def trained(average: Any, names: bool = True, updates: int = 3) -> tuple[Late, Step]:
    network = Late()
    parameters = network.named_parameters() if names else network.parameters()
    step = Step(SGD(parameters, lr=1e-4), average=average, model=network)
    for _ in range(updates):
        step(network(torch.ones(2, 4)).square().mean())
    return network, step


def values(network: Late) -> list[float]:
    tensors = (network.scale, network.shift, network.first, network.seen)
    return [round(float(tensor.mean().detach()), 2) for tensor in tensors]  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("average", [lambda: Average(0.5, warmup=False), lambda: SWA(start=1)], ids=["EMA", "SWA"])
def test_a_buffer_that_appears_late_moves_no_other_average(average: Any, names: bool, tmp_path: Path) -> None:
    network, step = trained(average(), names)
    with step.averaged():
        assert values(network) == [1.0, -5.0, 7.0, 100.0]
    step.save(tmp_path / "run.pt")
    other, other_step = trained(average(), names, updates=1)
    other_step.load(tmp_path / "run.pt")
    with other_step.averaged():
        assert values(other) == [1.0, -5.0, 7.0, 100.0]


def test_a_buffer_that_goes_or_changes_its_shape() -> None:
    network, step = trained(Average(0.5, warmup=False))
    del network.first
    step(network(torch.ones(2, 4)).square().mean())
    network.register_buffer("seen", torch.full((2,), 3.0))
    with step.averaged():  # it has no average yet
        assert float(network.seen[0]) == 3.0  # type: ignore[index]
    step(network(torch.ones(2, 4)).square().mean())
    with step.averaged():
        assert round(float(network.scale[0].detach()), 2) == 1.0
        assert float(network.seen[0]) == 3.0  # type: ignore[index]


def test_averages_of_an_earlier_version_have_no_names() -> None:
    _, step = trained(Average(0.5))
    state = step.state_dict()
    state["average"] = {key: value for key, value in state["average"].items() if key != "names"}
    _, other_step = trained(Average(0.5))
    other_step.load_state_dict(state)
    for one, another in zip(step.average.averages, other_step.average.averages, strict=True):  # type: ignore[union-attr]
        assert torch.equal(one, another)


def test_an_average_of_another_name_is_refused() -> None:
    _, step = trained(Average(0.5))
    state = step.state_dict()
    state["average"]["names"][0] = "'other'"
    _, other = trained(Average(0.5))
    with pytest.raises(UsageError, match="contains an average of 'other', which this model does not have"):
        other.load_state_dict(state)
