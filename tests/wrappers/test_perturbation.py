"""SAM and ASAM move weights by kernels where they can: as torch's operations do."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell.optimizers import ASAM, SAM, SGD
from stepwell.wrappers import sam


class Run:
    """Parameters of several kinds, and a step that notes where the second gradient was asked for."""

    def __init__(self, method: Any, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        made = [
            torch.randn(7, 5, generator=generator),
            torch.randn(9, generator=generator),
            torch.randn(300, 40, generator=generator),
        ]
        self.params = [t.to(dtype).requires_grad_() for t in made]
        self.params.append(torch.randn(3, 3, generator=generator, dtype=torch.float32).requires_grad_())
        groups = [
            {"params": [("a.weight", self.params[0]), ("a.bias", self.params[1])], "sam_rho": 0.3},
            {"params": [("b.weight", self.params[2]), ("c.weight", self.params[3])], "maximize": True},
        ]
        inside = SGD([{k: v for k, v in group.items() if k != "sam_rho"} for group in groups], lr=0.1, momentum=0.9)
        self.optimizer = method(inside, rho=0.7)
        self.optimizer.param_groups[0]["sam_rho"] = 0.3
        self.generator = generator
        self.visited: list[list[Tensor]] = []

    def step(self, absent: int = -1, scale: float = 1.0) -> None:
        points: list[list[Tensor]] = []

        def closure() -> Tensor:
            points.append([p.detach().clone() for p in self.params])
            for place, p in enumerate(self.params):
                p.grad = None if place == absent else scale * (p.detach() - 1).sin()
            return torch.zeros(())

        before = [p.detach().clone() for p in self.params]
        self.optimizer.step(closure)
        assert all(map(torch.equal, points[0], before))
        self.visited.append(points[1])


def test_other_names_are_other_weights() -> None:
    p = torch.full((4,), 3.0, requires_grad=True)
    optimizer = ASAM(SGD([("weight", p)], lr=0.0), rho=1.0, eta=0.0)
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(p.detach().clone())
        p.grad = torch.tensor([1.0, 0.0, 0.0, 0.0])
        return torch.zeros(())

    optimizer.step(closure)
    optimizer.param_groups[0]["param_names"] = ["bias"]
    optimizer.step(closure)
    assert [float(point[0]) for point in seen] == pytest.approx([3.0, 6.0, 3.0, 4.0])  # size 3, then 1


def path_of(run: Run) -> list[Tensor]:
    run.step()
    run.optimizer.param_groups[0]["sam_rho"] = 1.5
    run.step(absent=0)
    run.step(absent=2)
    new = torch.full((4, 6), 0.5, dtype=torch.float64, requires_grad=True)
    run.optimizer.add_param_group({"params": [("d.weight", new)], "sam_rho": 2.0})
    run.params.append(new)
    run.step()
    run.optimizer = copy.deepcopy(run.optimizer)
    run.params = [p for group in run.optimizer.param_groups for p in group["params"]]
    run.step()
    run.optimizer = pickle.loads(pickle.dumps(run.optimizer))
    run.params = [p for group in run.optimizer.param_groups for p in group["params"]]
    run.optimizer.param_groups[0]["sam_rho"] = 0.01
    run.step()
    return [t for point in run.visited for t in point] + [p.detach() for p in run.params]


@pytest.mark.parametrize("method", [SAM, ASAM])
def test_kernels_move_as_torch_does(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    original = sam.Perturbation.move
    monkeypatch.setattr(sam.Perturbation, "move", lambda *args: (moved.append(1), original(*args))[1])
    quick = path_of(Run(method))
    assert len(moved) == 6
    monkeypatch.setattr(sam, "can_move", lambda tensor: False)
    plain = path_of(Run(method))
    assert len(moved) == 6
    for a, b in zip(quick, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)  # torch's norm of a float32 tensor is a float32


@pytest.mark.parametrize("method", [SAM, ASAM])
def test_without_a_gradient_nothing_moves(method: Any) -> None:
    run = Run(method)
    before = [p.detach().clone() for p in run.params]
    run.step(scale=0.0)
    assert all(map(torch.equal, run.visited[0], before))


@pytest.mark.parametrize("method", [SAM, ASAM])
def test_weights_come_back_from_where_they_became_nan(method: Any) -> None:
    run = Run(method)
    before = [p.detach().clone() for p in run.params]
    points = []

    def closure() -> Tensor:
        points.append([p.detach().clone() for p in run.params])
        if len(points) == 2:
            raise KeyboardInterrupt
        for p in run.params:
            p.grad = torch.full_like(p, math.inf)
        return torch.zeros(())

    with pytest.raises(KeyboardInterrupt):
        run.optimizer.step(closure)
    assert bool(points[1][0].isnan().any())
    assert all(torch.equal(a, b) for a, b in zip(run.params, before, strict=True))


def test_a_sparse_gradient_moves_its_rows() -> None:
    table = torch.nn.Embedding(10, 4, sparse=True)
    dense = torch.nn.Embedding(10, 4)
    dense.weight.data.copy_(table.weight.data)
    seen: list[Tensor] = []
    for layer in (table, dense):
        optimizer = stepwell.SAM(SGD(layer.parameters(), lr=0.1), rho=0.5)

        def closure(layer: Any = layer, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = layer(torch.tensor([1, 3, 3])).square().sum()
            loss.backward()
            seen.append(layer.weight.detach().clone())
            return loss

        optimizer.step(closure)
    torch.testing.assert_close(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("method", [SAM, ASAM])
def test_a_step_inside_of_a_step_leaves_the_outer_weights(method: Any) -> None:
    p = torch.zeros(4, requires_grad=True)
    optimizer = method(SGD([("weight", p)], lr=0.0), rho=1.0)
    calls = []

    def inner() -> Tensor:
        p.grad = torch.ones(4)
        return torch.zeros(())

    def outer() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            optimizer.step(inner)
        p.grad = torch.ones(4)
        return torch.zeros(())

    for _ in range(2):
        calls.clear()
        optimizer.step(outer)
        assert torch.equal(p.detach(), torch.zeros(4))


def test_parameters_that_share_memory_move_as_torchs_operations_move_them() -> None:
    memory = torch.zeros(8)
    params = [torch.nn.Parameter(memory[:6]), torch.nn.Parameter(memory[2:])]
    optimizer = SAM(torch.optim.SGD(params, lr=0.1), rho=1.0)

    def closure() -> Tensor:
        for p in params:
            p.grad = torch.ones(6)
        return torch.zeros(())

    optimizer.step(closure)
    torch.testing.assert_close(memory, torch.tensor([-0.1, -0.1, -0.2, -0.2, -0.2, -0.2, -0.1, -0.1]))


def test_a_step_in_inference_mode_and_one_outside() -> None:
    p = torch.zeros(4, requires_grad=True)
    optimizer = SAM(SGD([p], lr=0.1), rho=1.0)

    def closure() -> Tensor:
        p.grad = torch.ones(4)
        return torch.zeros(())

    with torch.inference_mode():
        optimizer.step(closure)
    optimizer.step(closure)
    torch.testing.assert_close(p.detach(), torch.full((4,), -0.2))
