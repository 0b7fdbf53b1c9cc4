"""Optimizers of whole matrices: what they claim, which tensors they take, stacks, and faults that were public."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell import UsageError
from stepwell.groups import muon as muon_split
from stepwell.optimizers.muon import normalised, orthogonalised
from stepwell.optimizers.shampoo import inverse_root
from tests.contract.test_contract import assert_bits_equal, leaves, run


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(count: int, *shape: int) -> list[list[Tensor]]:
    return [[drawn(*shape, seed=i + 1)] for i in range(count)]


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(drawn(size, size, seed=seed)).Q


def end(name: str, start: Tensor, grads: list[list[Tensor]], **options: Any) -> Tensor:
    ours = leaves([start])
    run(getattr(stepwell, name)(ours, **options), ours, grads)
    return ours[0].detach()


class Net(nn.Module):
    """Every role: embedding, position, hidden matrix, convolution, norm, bias, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.stem = nn.Conv1d(8, 8, 3, padding=1)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.fc1, self.fc2, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.position
        h = self.conv(self.stem(h.mT)).mT
        return self.head(self.norm(self.fc2(self.fc1(h).relu())))


# Muon


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 2, 3, 3)])
def test_muon_turns_with_its_gradients(shape: tuple[int, ...]) -> None:
    """Rotating rows and columns of weights and gradients rotates the trajectory."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    left, right = rotation(rows, 1), rotation(columns, 2)
    start, grads = drawn(*shape), gradients(5, *shape)
    turn = lambda x: (left @ x.reshape(rows, columns) @ right).reshape(shape)  # noqa: E731
    plain = end("Muon", start, grads, lr=0.1)
    turned = end("Muon", turn(start), [[turn(g) for g in row] for row in grads], lr=0.1)
    torch.testing.assert_close(turn(plain), turned, rtol=1e-9, atol=1e-11)


def test_muon_pushes_singular_values_to_one() -> None:
    x = orthogonalised(drawn(3, 40, 25), (3.4445, -4.775, 2.0315), 1e-7, 5, torch.float64)
    values = torch.linalg.svdvals(x)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25


def test_muon_takes_matrices_by_role_and_leaves_the_rest_to_adamw() -> None:
    model = Net()
    optimizer = stepwell.Muon(model, lr=0.02, adamw_lr=1e-3)
    hidden, rest = optimizer.param_groups
    assert (hidden["use_muon"], rest["use_muon"]) == (True, False)
    assert set(hidden["param_names"]) == {"conv.weight", "fc1.weight", "fc2.weight"}
    assert {"embed.weight", "position", "stem.weight", "norm.weight", "head.weight"} <= set(rest["param_names"])
    assert (hidden["lr"], rest["lr"]) == (0.02, 1e-3)
    model(torch.arange(5)[None]).square().mean().backward()
    optimizer.step()
    assert set(optimizer.state[model.fc1.weight]) == {"step", "momentum_buffer"}
    assert set(optimizer.state[model.embed.weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_muon_and_its_adamw_equal_two_optimizers_and_share_a_checkpoint() -> None:
    torch.manual_seed(0)
    one, two = Net(), Net()
    two.load_state_dict(one.state_dict())
    split = muon_split(two, lr=0.02, adamw={"lr": 1e-3})
    together = stepwell.Muon(one, lr=0.02, weight_decay=0.1, adamw_lr=1e-3, adamw_weight_decay=0.0)
    pair = [
        stepwell.Muon([p for g in split.of("muon") for p in g["params"]], lr=0.02, weight_decay=0.1),
        stepwell.AdamW(
            [p for g in split.of("adamw") for p in g["params"]], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]

    def advance(model: Net, optimizers: list[Any], seed: int) -> None:
        x = torch.randint(20, (3, 5), generator=torch.Generator().manual_seed(seed))
        model(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    for seed in range(4):
        advance(one, [together], seed)
        advance(two, pair, seed)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    third = copy.deepcopy(one)
    resumed = stepwell.Muon(third, lr=9.0)
    resumed.load_state_dict(together.state_dict())
    advance(one, [together], 9)
    advance(third, [resumed], 9)
    assert_bits_equal(list(one.parameters()), list(third.parameters()))


def test_groups_made_for_muon_say_what_goes_where() -> None:
    model = Net()
    optimizer = stepwell.Muon(muon_split(model, lr=0.02, adamw={"lr": 3e-4}, mark="use_muon"))
    names = {name for g in optimizer.param_groups if g["use_muon"] for name in g["param_names"]}
    assert names == {"conv.weight", "fc1.weight", "fc2.weight"}
    assert {g["lr"] for g in optimizer.param_groups if not g["use_muon"]} == {3e-4}


REFUSED: list[tuple[Any, str]] = [
    ([{"params": [("a.bias", torch.zeros(3))], "use_muon": True}], r"'?a\.bias'? of shape \(3,\) is no matrix"),
    ([{"params": [("model.embed.weight", torch.zeros(9, 3))], "use_muon": True}], "looks like an embedding"),
    ([{"params": [("lm_head.weight", torch.zeros(9, 3))], "use_muon": True}], "looks like a head"),
]


@pytest.mark.parametrize(("groups", "said"), REFUSED)
def test_muon_refuses_what_is_no_hidden_matrix(groups: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        stepwell.Muon(groups)
    if "looks like" in said:
        stepwell.Muon(groups, force=True)


def test_muon_without_a_model_goes_by_shape_and_name() -> None:
    named = [("wte.weight", torch.zeros(9, 3)), ("h.0.weight", torch.zeros(3, 3)), ("h.0.bias", torch.zeros(3))]
    optimizer = stepwell.Muon(named)
    assert [g["param_names"] for g in optimizer.param_groups] == [["h.0.weight"], ["wte.weight", "h.0.bias"]]
    optimizer.add_param_group({"params": [("x.weight", torch.zeros(2, 3)), ("x.bias", torch.zeros(2))]})
    assert [g["use_muon"] for g in optimizer.param_groups] == [True, False, True, False]


def test_muon_and_torch_take_each_others_checkpoints() -> None:
    start, grads = drawn(12, 7, dtype=torch.float32), [[drawn(12, 7, seed=i, dtype=torch.float32)] for i in range(8)]
    theirs = leaves([start])
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    run(peer, theirs, grads[:4])
    ours = leaves(theirs)
    optimizer = stepwell.Muon(ours, lr=9.0)
    optimizer.load_state_dict(copy.deepcopy(peer.state_dict()))
    run(peer, theirs, grads[4:])
    run(optimizer, ours, grads[4:])
    # both iterate in bfloat16: singular values are right to about a hundredth
    torch.testing.assert_close(ours[0], theirs[0], rtol=0.02, atol=2e-3)
    back = leaves(ours)
    again = torch.optim.Muon(back, lr=9.0)
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[back[0]]["momentum_buffer"], optimizer.state[ours[0]]["momentum_buffer"])


# Stacks


@pytest.mark.parametrize("name", ["Muon", "Adafactor", "Shampoo", "SOAP"])
def test_equal_shapes_are_one_stack_and_nothing_else_changes(name: str) -> None:
    options = {"lr": 0.01}
    starts = [drawn(8, 8, seed=i) for i in range(5)]
    grads = [[drawn(8, 8, seed=10 * step + i) for i in range(5)] for step in range(4)]
    together = leaves(starts)
    optimizer = getattr(stepwell, name)(together, **options)
    run(optimizer, together, grads)
    assert len(optimizer._plan.launches) == 1
    for i, start in enumerate(starts):
        alone = leaves([start])
        run(getattr(stepwell, name)(alone, **options), alone, [[row[i]] for row in grads])
        torch.testing.assert_close(together[i], alone[0], rtol=1e-9, atol=1e-11)


def test_a_large_stack_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.engine.backends import stacks

    starts, grads = [drawn(8, 8, seed=i) for i in range(5)], [[drawn(8, 8, seed=9 + i) for i in range(5)]]
    whole, cut = leaves(starts), leaves(starts)
    run(stepwell.Muon(whole), whole, grads)
    monkeypatch.setattr(stacks, "LARGEST", {"cpu": 400})
    run(stepwell.Muon(cut), cut, grads)
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["Muon", "Adafactor", "Shampoo", "SOAP"])
def test_a_backend_for_elements_is_refused(name: str) -> None:
    weight = drawn(8, 8).requires_grad_()
    weight.grad = drawn(8, 8, seed=1)
    optimizer = getattr(stepwell, name)([("w", weight)], backend="cpu")
    before = weight.detach().clone()
    with pytest.raises(UsageError, match=r"cannot update 'w'.*whole matrices"):
        optimizer.step()
    assert torch.equal(weight, before)


# Adafactor


@pytest.mark.parametrize("variant", ["torch", "shazeer"])
def test_adafactor_is_the_same_for_tall_and_wide(variant: str) -> None:
    """A row factor was lost for matrices taller than wide."""
    start, grads = drawn(20, 3), gradients(6, 20, 3)
    tall = end("Adafactor", start, grads, variant=variant)
    wide = end("Adafactor", start.T.contiguous(), [[g.T.contiguous() for g in row] for row in grads], variant=variant)
    torch.testing.assert_close(tall, wide.T, rtol=1e-12, atol=1e-14)


def test_adafactor_equals_torch_and_exchanges_checkpoints_with_it() -> None:
    starts = [drawn(12, 5), drawn(5, 12, seed=1), drawn(9, seed=2), drawn(3, 4, 2, 2, seed=3)]
    grads = [[drawn(*p.shape, seed=10 * step + i) for i, p in enumerate(starts)] for step in range(9)]
    options: dict[str, Any] = {"lr": 0.05, "beta2_decay": -0.7, "d": 1.1, "weight_decay": 0.1}
    theirs, ours = leaves(starts), leaves(starts)
    peer = torch.optim.Adafactor(theirs, foreach=False, **options)
    run(peer, theirs, grads[:5])
    optimizer = stepwell.Adafactor(ours)
    run(optimizer, ours, grads[:1])
    ours = leaves(theirs)
    optimizer = stepwell.Adafactor(ours)
    optimizer.load_state_dict(copy.deepcopy(peer.state_dict()))
    run(peer, theirs, grads[5:])
    run(optimizer, ours, grads[5:])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)  # torch counts steps in float32
    again = torch.optim.Adafactor(leaves(ours))
    again.load_state_dict(optimizer.state_dict())


def test_adafactor_clips_its_step() -> None:
    """max, not min: a step of usual size is left alone, a large one is cut to d."""
    start = torch.ones(6, 6, dtype=torch.float64)
    options = {"lr": 0.1, "variant": "shazeer", "relative_step": False, "scale_parameter": False}
    small = end("Adafactor", start, [[torch.ones(6, 6, dtype=torch.float64)]], d=2.0, **options)
    torch.testing.assert_close(small, start - 0.1)
    cut = end("Adafactor", start, [[torch.ones(6, 6, dtype=torch.float64)]], d=0.5, **options)
    torch.testing.assert_close(cut, start - 0.05)


# Shampoo and SOAP


def test_inverse_root() -> None:
    x = drawn(2, 5, 9)
    second = x @ x.mT
    root = inverse_root(second, 0.25, 1e-12)
    fourth = root @ root @ root @ root
    torch.testing.assert_close(fourth @ second, torch.eye(5, dtype=torch.float64).expand(2, 5, 5), rtol=0, atol=1e-8)


def test_shampoo_leaves_out_long_sides() -> None:
    """One side alone is full-matrix Adagrad along it: L^(-1/2) g."""
    start, g = drawn(4, 9), drawn(4, 9, seed=1)
    weight = leaves([start])
    optimizer = stepwell.Shampoo(weight, lr=0.1, eps=1e-3, max_precond_dim=4)
    run(optimizer, weight, [[g]])
    values, vectors = torch.linalg.eigh(g @ g.T + 1e-3 * torch.eye(4, dtype=torch.float64))
    expected = start - 0.1 * (vectors * values**-0.5) @ vectors.T @ g
    torch.testing.assert_close(weight[0].detach(), expected)
    assert optimizer.state[weight[0]]["right"].numel() == 0
    plain = end("Shampoo", start, [[g]], lr=0.1, max_precond_dim=3)
    torch.testing.assert_close(plain, start - 0.1 * g)


def test_shampoo_takes_the_step_size_of_another() -> None:
    start, grads = drawn(5, 7), gradients(1, 5, 7)
    for grafting, size in (("sgd", float(grads[0][0].norm())), ("adam", 35**0.5), ("adagrad", 35**0.5)):
        moved = end("Shampoo", start, grads, lr=0.1, grafting=grafting) - start
        assert float(moved.norm()) == pytest.approx(0.1 * size, rel=1e-6)


def test_soap_turns_with_its_gradients() -> None:
    left, right = rotation(6, 3), rotation(6, 4)
    start, grads = drawn(6, 6), gradients(6, 6, 6)
    options = {"lr": 0.05, "precondition_frequency": 2}
    turned = end("SOAP", left @ start @ right, [[left @ g @ right for g in row] for row in grads], **options)
    torch.testing.assert_close(left @ end("SOAP", start, grads, **options) @ right, turned, rtol=1e-6, atol=1e-8)


def test_soap_bases_stay_orthogonal_and_turn_only_when_due() -> None:
    weight = leaves([drawn(12, 5)])
    optimizer = stepwell.SOAP(weight, precondition_frequency=3)
    seen = []
    for row in gradients(7, 12, 5):
        run(optimizer, weight, [row])
        q = optimizer.state[weight[0]]["q_left"].clone()
        torch.testing.assert_close(q.T @ q, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-10)
        seen.append(q)
    turns = [step + 2 for step, (a, b) in enumerate(pairwise(seen)) if not torch.equal(a, b)]
    assert turns == [4, 7]  # the first gradient only makes the basis


# Rates found over all tensors


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam"])
def test_the_rate_found_does_not_depend_on_where_it_starts(name: str) -> None:
    """The initial d only has to be small (the claim of both papers)."""
    target = drawn(30)
    found = []
    for d0 in (1e-8, 1e-5):
        weight = leaves([torch.zeros(30, dtype=torch.float64)])
        optimizer = getattr(stepwell, name)(weight, d0=d0)
        for _ in range(400):
            weight[0].grad = torch.sign(weight[0].detach() - target)  # |x - target|
            optimizer.step()
        found.append(float(optimizer.state[weight[0]]["d"]))
    assert found[0] > 1e-3
    assert 0.4 < found[0] / found[1] < 2.5


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_all_tensors_share_what_is_found(backend: str) -> None:
    """Also tensors of other dtypes, without a gradient now, and that come later; resumed, too."""
    weights = [torch.zeros(8, requires_grad=True), torch.zeros(5, dtype=torch.bfloat16, requires_grad=True)]
    later, absent = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = stepwell.Prodigy([*weights, later, absent], d0=1e-3, backend=backend)
    for step in range(30):
        for p in (*weights, *([later] if step > 20 else [])):
            p.grad = torch.sign(p.detach() - 1.0)
        weights[0].grad = None if step % 5 == 4 else weights[0].grad
        if step == 0:
            absent.grad = torch.ones(2)
        optimizer.step()
        absent.grad = None
        rates = {float(optimizer.state[p]["d"]) for p in (*weights, later, absent) if "d" in optimizer.state[p]}
        assert len(rates) == 1
    assert rates.pop() > 2e-3


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e37, torch.float32), (1e-36, torch.float32), (1e200, torch.float64), (1e-200, torch.float64)],
)
def test_matrices_of_any_size_are_normalized(scale: float, dtype: torch.dtype) -> None:
    """Also where the norm, or its square, is outside the range of numbers; others in the stack keep their bits."""
    usual = torch.randn(1, 64, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    stack = torch.cat([usual, usual * scale])
    found = normalised(stack, 1e-300)
    assert torch.equal(found[:1], normalised(usual, 1e-300))
    norms = torch.linalg.matrix_norm(found.double())
    torch.testing.assert_close(norms, torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0.0)
