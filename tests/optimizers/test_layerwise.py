"""Which tensors LAMB and LARS scale to their own norm: by role where a model says so, else by their dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell import groups
from stepwell.errors import UsageError

ALIKE = pytest.mark.parametrize("name", ["LAMB", "LARS"])


class Net(nn.Module):
    """A token of one dimension, and a gain of three: where roles and dimensions do not say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.full((4,), 2.0))
        self.conv = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.layer_scale = nn.Parameter(torch.full((4, 1, 1), 2.0))
        self.head = nn.Linear(4, 2)


def moves(optimizer: Any, model: nn.Module) -> dict[str, Tensor]:
    """How far each parameter moves under a gradient of ones."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def excluded(optimizer: Any, model: nn.Module) -> set[str]:
    """What moves by lr times the first direction of its method, which is 1 under a gradient of ones."""
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(2.0)
    return {name for name, moved in moves(optimizer, model).items() if (moved + 0.1).abs().max() < 1e-6}


def make(name: str, params: Any, **options: Any) -> Any:
    return getattr(stepwell, name)(params, lr=0.1, weight_decay=0.3, **options)


BY_ROLE = {"conv.bias", "norm.weight", "norm.bias", "layer_scale", "head.bias"}
BY_SHAPE = {"cls_token", "conv.bias", "norm.weight", "norm.bias", "head.bias"}


@ALIKE
def test_a_model_tells_roles_and_a_list_tells_dimensions(name: str) -> None:
    for given, expected in (
        (lambda model: model, BY_ROLE),
        (lambda model: groups.by_role(model, merge=False), BY_ROLE),
        (lambda model: model.named_parameters(), BY_SHAPE),
        (lambda model: model.parameters(), BY_SHAPE),
        (lambda model: [{"params": model.parameters(), "exclude": "none"}], set()),
        (lambda model: [{"params": model.parameters(), "exclude": "all"}], {n for n, _ in Net().named_parameters()}),
    ):
        torch.manual_seed(0)
        model = Net()
        assert excluded(make(name, given(model)), model) == expected
    model = Net()
    assert excluded(make(name, model, exclude="none"), model) == set()
    model = Net()
    assert excluded(stepwell.create(name.lower(), model, lr=0.1, weight_decay=0.3), model) == BY_ROLE


@ALIKE
def test_groups_of_a_model_keep_their_hyperparameters_and_names(name: str) -> None:
    model = Net()
    made = groups.by_role(model, lr=0.1, weight_decay=0.3, roles={"head": {"lr": 0.7}})
    optimizer = make(name, made)
    rows = {
        n: (group["lr"], group["weight_decay"], group["exclude"])
        for group in optimizer.param_groups
        for n, p in zip(group["param_names"], group["params"], strict=True)
    }
    assert rows["head.weight"] == (0.7, 0.3, "none")
    assert rows["conv.weight"] == (0.1, 0.3, "none")
    assert rows["norm.weight"] == (0.1, 0.0, "all")
    assert rows["cls_token"] == (0.1, 0.0, "none")  # no decay, but a ratio
    assert set(rows) == {n for n, _ in model.named_parameters()}


@ALIKE
def test_explain_says_who_is_excluded_and_why(name: str) -> None:
    text = make(name, Net()).explain()
    assert "norm, bias or scalar: no trust ratio and no decay (layer_scale, conv.bias, norm.weight and 2 more)" in text
    text = make(name, Net().named_parameters()).explain()
    assert (
        "fewer than two dimensions: no trust ratio and no decay (cls_token, conv.bias, norm.weight and 2 more)" in text
    )
    assert "no trust ratio" not in make(name, Net(), exclude="none").explain()


@ALIKE
def test_a_checkpoint_keeps_what_is_excluded(name: str) -> None:
    model, other = Net(), Net()
    other.load_state_dict(model.state_dict())
    first, second = make(name, model), make(name, other)
    moves(first, model)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(first.state_dict())
    a, b = moves(first, model), moves(second, other)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match=r"exclude='bias'.*'vectors', 'all', 'none'"):
        make("LARS", Net(), exclude="bias")
