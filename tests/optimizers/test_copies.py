"""A copy of an optimizer goes on as the original, with `copy.deepcopy` and with `pickle`."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from stepwell import optimizers


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: Any, steps: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (model(torch.linspace(-1, 1, 15).view(5, 3)) - 0.3).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        if optimizer.facts.needs_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", optimizers.TABLE)
def test_a_copy_goes_on_as_the_original(name: str, how: str) -> None:
    model = network()
    # eager: nothing to compile; two of L-BFGS's own steps: 20 are at the minimum
    by_kind: dict[str, dict[str, Any]] = {"closure": {"max_iter": 2}, "matrix": {}, "wrapper": {}}
    options = by_kind.get(optimizers.find(name).facts.kind, {"backend": "eager"})
    optimizer = optimizers.create(name, model, **options)
    train(model, optimizer, 3)
    both = model, optimizer
    copied, other = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    before = [p.detach().clone() for p in copied.parameters()]
    train(model, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, copied.parameters(), strict=True))
    train(copied, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, copied.parameters(), strict=True))


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Muon", "Sophia"])
def test_a_copy_takes_further_groups(name: str) -> None:
    model = network()
    model, optimizer = copy.deepcopy((model, optimizers.create(name, model)))
    added = nn.Linear(2, 2)
    optimizer.add_param_group({"params": list(added.named_parameters())})
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} >= {id(p) for p in added.parameters()}
