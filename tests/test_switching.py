"""Another optimizer in the middle of a run: what a run of constant gradients cannot tell, formats, decay, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell.engine import formats, halves
from stepwell.errors import UsageError
from stepwell.groups import by_role
from stepwell.optimizers import (
    LBFGS,
    SAM,
    SGD,
    Adam,
    AdamW,
    Lion,
    Lookahead,
    RMSprop,
    ScheduleFreeAdamW,
    create,
    find,
)
from stepwell.switching import MEMORIES, switch
from stepwell.wrappers.swats import Swats
from tests.contract.table import rows
from tests.contract.test_contract import problem, run
from tests.step.small import model, same

FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}
GRADIENT = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.8, "dampening": 0.3},
    "Signum": {"momentum": 0.7},
    "RMSprop": {"alpha": 0.9},
    "Adan": {"betas": (0.8, 0.9, 0.95)},
    "Lion": {"betas": (0.8, 0.9)},
    "Sophia": {"betas": (0.85, 0.95)},
}


def run_constant(make: Callable[..., Any], steps: int, **options: Any) -> tuple[Any, Tensor]:
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = make([p], lr=0.01, **options)
    for _ in range(steps):
        p.grad = GRADIENT.clone()
        if hasattr(optimizer, "add_hessian"):
            optimizer.add_hessian({p: torch.ones(3)})
        optimizer.step()
    return optimizer, p


def pairs() -> list[Any]:
    """Every pair of which the second can be filled from the first."""
    means = [name for name, memory in MEMORIES.items() if memory.mean is not None]
    both = [name for name in means if MEMORIES[name].square is not None]
    targets = {"SGD": means, "Lion": means, "Signum": means, "RMSprop": [*both, "RMSprop"]}
    anew = ("Adan", "NAdam", "SGD", "Lion", "Signum", "RMSprop", "Adamax", "AdaBelief", "Sophia")
    targets |= {name: both for name in both if name not in anew}
    return [(old, new) for new, sources in targets.items() for old in sources]


@pytest.mark.parametrize(("old", "new"), pairs())
@pytest.mark.parametrize("steps", [1, 7])
def test_a_run_of_constant_gradients_cannot_tell(old: str, new: str, steps: int) -> None:
    """After t equal gradients the new optimizer has the slots that it would have after t of them itself."""
    theirs = {"betas": (0.7, 0.9)} if "betas" in find(old)([torch.zeros(1)]).defaults else {}
    before, p = run_constant(find(old), steps, **{**theirs, **OPTIONS.get(old, {})})
    ours = {"betas": (0.85, 0.95)} if "betas" in find(new)([torch.zeros(1)]).defaults else {}
    ours = {**ours, **OPTIONS.get(new, {})}
    ours |= {"weight_decay": 0.0} if new != "SparseAdam" else {}  # which has none
    kept = copy.deepcopy((p.detach(), before.state_dict()))
    after = switch(before, new, lr=0.01, **{"weight_decay": 0.0, **ours})
    expected, q = run_constant(find(new), steps, **ours)
    assert set(after.state[p]) == set(expected.state[q])
    for name, value in expected.state[q].items():
        torch.testing.assert_close(after.state[p][name], value, **FLOAT64)
    assert same(kept, (p.detach(), before.state_dict()))  # the old one is what it was
    p.grad = GRADIENT.clone()
    after.step()
    assert same(kept[1], before.state_dict())  # and shares nothing with the new one


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_optimizers_of_torch_can_be_left_for_ours(name: str) -> None:
    options = {"SGD": {"momentum": 0.8}, "RMSprop": {"alpha": 0.9}}.get(name, {"betas": (0.7, 0.9)})
    theirs, p = run_constant(getattr(torch.optim, name), 7, **options)
    ours, q = run_constant(find(name), 7, **options)
    for to, more in (("Lion", {}), ("SGD", {"momentum": 0.5}), ("AdamW", {"betas": (0.8, 0.99)}), ("RMSprop", {})):
        one, other = (switch(old, to, lr=0.1, weight_decay=0.0, **more) for old in (theirs, ours))
        assert one.state.keys() == ({p} if other.state else set())
        for key, value in dict(other.state.get(q, {})).items():
            if name == "SGD":  # torch's does not count: its buffer is taken to be 1 / (1 - momentum) gradients
                mean = 0.2 * theirs.state[p]["momentum_buffer"]
                expected = {"step": torch.tensor(1e6), "exp_avg": mean, "momentum_buffer": 2 * mean}
                torch.testing.assert_close(one.state[p][key], expected[key])
            else:
                torch.testing.assert_close(one.state[p][key], value, rtol=1e-6, atol=0.0)


def test_what_cannot_be_filled_begins_anew() -> None:
    """An Adam that took SGD's buffer and step count over without a second moment would divide by almost nothing."""
    for old, options, new in (
        ("SGD", {"momentum": 0.9}, "AdamW"),
        ("Lion", {}, "AdamW"),
        ("SGD", {}, "Lion"),
        ("AdamW", {}, "Adan"),
        ("AdamW", {}, "NAdam"),
        ("Adagrad", {}, "AdamW"),
        ("AdamW", {}, "Adagrad"),
        ("Adamax", {}, "Adam"),
    ):
        before, p = run_constant(find(old), 30, **options)
        after = switch(before, new, lr=0.01, weight_decay=0.0)
        assert not after.state
        place = p.detach().clone()
        p.grad = GRADIENT.clone()
        after.step()
        assert (p - place).abs().max() < 0.011 * (3 if new == "NAdam" else 1)
    before, p = run_constant(AdamW, 3)
    assert not switch(before, "adamw", lr=0.1, carry=False).state


@pytest.mark.parametrize(("name", "options"), rows())
def test_to_itself_nothing_changes(name: str, options: dict[str, Any]) -> None:
    params, grads = problem()
    kept = [p.clone().requires_grad_() for p in params]
    moved = [p.clone().requires_grad_() for p in params]
    optimizer, other = (find(name)(ps, backend="eager", **options) for ps in (kept, moved))
    run(optimizer, kept, grads[:7])
    run(other, moved, grads[:7])
    if other.facts.needs_modes:
        other.eval()
        optimizer.eval()
    again = switch(other, name, lr=options["lr"])
    if other.facts.needs_modes:
        again.train()
        optimizer.train()
    run(optimizer, kept, grads[7:])
    run(again, moved, grads[7:])
    assert same([p.detach() for p in kept], [p.detach() for p in moved])
    assert again.backend == "eager"


# Groups


def test_groups_keep_names_ratios_and_decay() -> None:
    network = model()
    groups = by_role(network, lr=1e-3, weight_decay=0.1, roles={"head": {"lr": 5e-3}})
    old = AdamW(groups, maximize=True, state="bf16", weights="stochastic", seed=7, betas=(0.8, 0.9), eps=1e-5)
    for group in old.param_groups:  # a schedule is half way
        group["initial_lr"], group["lr"] = group["lr"], group["lr"] * 0.5
    new = switch(old, SGD, lr=0.4, momentum=0.9)
    ratios = [group["lr"] / new.param_groups[0]["lr"] for group in new.param_groups]
    theirs = [group["initial_lr"] / old.param_groups[0]["initial_lr"] for group in old.param_groups]
    assert ratios == pytest.approx(theirs)
    assert new.param_groups[0]["lr"] == 0.4
    for mine, before in zip(new.param_groups, old.param_groups, strict=True):
        for key in ("params", "param_names", "name", "maximize", "state", "weights", "seed"):
            assert mine[key] == before[key]
        # what shrinks the weights is lr * weight_decay: as much as before
        assert mine["decoupled_weight_decay"] is True or before["weight_decay"] == 0
        assert mine["lr"] * mine["weight_decay"] == pytest.approx(before["initial_lr"] * before["weight_decay"])
        assert "initial_lr" not in mine
    again = switch(old, "adam", lr=0.1, weight_decay=0.3)
    assert {group["weight_decay"] for group in again.param_groups} == {0.0, 0.3}
    assert (again.param_groups[0]["betas"], again.param_groups[0]["eps"]) == ((0.8, 0.9), 1e-5)  # of the same moments
    assert switch(old, "lion", lr=0.1).param_groups[0]["betas"] == (0.9, 0.99)  # Lion's are others


def test_decay_that_is_part_of_the_loss_keeps_its_coefficient() -> None:
    p = torch.ones(2, requires_grad=True)
    for old in (Adam([p], lr=1e-3, weight_decay=0.1), torch.optim.Adam([p], lr=1e-3, weight_decay=0.1)):
        (group,) = switch(old, "sgd", lr=0.5).param_groups
        assert (group["weight_decay"], group["decoupled_weight_decay"]) == (0.1, False)
    (group,) = switch(torch.optim.AdamW([p], lr=1e-3, weight_decay=0.1), "sgd", lr=0.5).param_groups
    assert group["decoupled_weight_decay"]
    assert group["weight_decay"] * 0.5 == pytest.approx(1e-4)


# Formats


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("carry", [True, False])
def test_the_low_bits_of_split_weights_go_along(carry: bool, dtype: torch.dtype) -> None:
    params, grads = problem(dtype)
    ours = [p.clone().requires_grad_() for p in params]
    old = AdamW(ours, weights="split", lr=1e-3)
    run(old, ours, grads[:7])
    whole = [halves.join(p.detach(), old.state[p]["low_bits"]) for p in ours]
    new = switch(old, "sgd", lr=0.0, momentum=0.9, carry=carry)
    run(new, ours, grads[7:9])
    for p, expected in zip(ours, whole, strict=True):
        assert torch.equal(halves.join(p.detach(), new.state[p]["low_bits"]), expected)
        assert int(new.state[p]["step"]) == (int(old.state[p]["step"]) if carry else 0) + 2


@pytest.mark.parametrize("state", ["bf16", "int8", "int4"])
def test_slots_of_every_format_are_converted(state: str) -> None:
    p = torch.zeros(80, 64, requires_grad=True)
    old = AdamW([p], state=state, betas=(0.5, 0.9), lr=0.1)
    for _ in range(5):
        p.grad = torch.linspace(-1, 1, p.numel()).view_as(p)
        old.step()
    same_one, scaled = switch(old, "adam", lr=0.1, weight_decay=0.0), switch(old, "lion", lr=0.1, state="fp32")
    for key in formats.state_names("exp_avg", state):
        assert torch.equal(same_one.state[p][key], old.state[p][key])
    # int4 has one code per octave: a third
    error = {"bf16": 0.01, "int8": 0.1, "int4": 0.5}[state]
    expected = torch.linspace(-1, 1, p.numel()).view_as(p) * (1 - 0.99**5)
    assert ((scaled.state[p]["exp_avg"] - expected).abs() <= error * expected.abs() + 1e-3).all()
    for one in (same_one, scaled):
        p.grad = torch.ones_like(p)
        one.step()


def test_largest_second_moments_begin_with_the_present_ones() -> None:
    before, p = run_constant(AdamW, 5)
    after = switch(before, "adamw", lr=0.1, amsgrad=True)
    assert torch.equal(after.state[p]["max_exp_avg_sq"], before.state[p]["exp_avg_sq"])
    further = switch(after, "adam", lr=0.1, weight_decay=0.0)
    assert further.param_groups[0]["amsgrad"]
    assert torch.equal(further.state[p]["max_exp_avg_sq"], after.state[p]["max_exp_avg_sq"])


# Wrappers


def test_what_is_around_stays_around() -> None:
    params, grads = problem()
    ours = [p.clone().requires_grad_() for p in params]
    old = Lookahead(Swats(AdamW(ours, lr=0.01)), k=4, alpha=0.3, pullback="pullback")
    run(old, ours, grads[:6])
    kept = copy.deepcopy(old.state_dict())
    new = switch(old, "sgd", lr=0.1, momentum=0.9)
    assert repr(new) == "Lookahead(k=4, alpha=0.3, pullback='pullback') around SGD"  # Swats has done its work
    assert new.clock == 6
    for p in ours:
        assert torch.equal(new.own[p]["slow"], old.own[p]["slow"])
        assert "momentum" not in new.own[p]
    run(new, ours, grads[6:])
    assert same(old.state_dict(), kept)
    assert new.clock == 20

    sharp = SAM(AdamW([{"params": ours[:2]}, {"params": ours[2:]}]), rho=0.3)
    sharp.param_groups[1]["sam_rho"] = 0.1
    sharp.param_groups[1]["initial_sam_rho"] = 0.2
    other = switch(sharp, Lion, lr=1e-4)
    assert [group["sam_rho"] for group in other.param_groups] == [0.3, 0.2]
    assert (type(other), type(other.base)) == (SAM, Lion)


# Refusals

P, Q = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)


def trained_schedule_free() -> Any:
    p = torch.ones(2, requires_grad=True)
    optimizer = ScheduleFreeAdamW([p])
    p.grad = torch.ones(2)
    optimizer.step()
    return optimizer


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "name": (lambda: switch(AdamW([P]), "sgdd", lr=0.1), "unknown optimizer 'sgdd': did you mean 'SGD'"),
    "class": (lambda: switch(AdamW([P]), torch.optim.SGD, lr=0.1), "must be the name or the class of an optimizer of"),
    "wrapper": (lambda: switch(AdamW([P]), "sam", lr=0.1), r"SAM wraps another optimizer and makes no step itself; wr"),
    "lr": (lambda: switch(AdamW([P]), "sgd", lr=-0.1), "switch: lr=-0.1 is out of range"),
    "lr text": (lambda: switch(AdamW([P]), "sgd", lr="swats"), "switch: lr='swats' is not a number"),
    "not settled": (lambda: switch(Swats(AdamW([P])), "sgd", lr=Swats(AdamW([P]))), "Swats: no rate has settled after"),
    "option": (lambda: switch(AdamW([P]), "sgd", lr=0.1, momentun=0.9), "unknown option momentun=0.9: did you mean"),
    "decay": (
        lambda: switch(Adam([P], weight_decay=0.1), "lion", lr=0.1),
        r"Adam adds decay to the gradient and Lion shrinks the weights, so no value is equivalent; give weight_decay",
    ),
    "decay of its own": (
        lambda: switch(create("lamb", [P], weight_decay=0.1), "adamw", lr=0.1),
        "LAMB uses another decay and AdamW shrinks the weights",
    ),
    "no decay": (
        lambda: switch(AdamW([P], weight_decay=0.1), "rprop", lr=0.1),
        "Rprop has no weight decay; pass weight_decay=0.0 to drop the decay",
    ),
    "decay below 0": (
        lambda: switch(AdamW([P]), "sgd", lr=0.1, weight_decay=-1.0),
        "weight_decay=-1.0 is out",
    ),
    "groups": (
        lambda: switch(AdamW([{"params": [P]}, {"params": [Q]}], weight_decay=0.0), "lbfgs", lr=1.0),
        "2 parameter groups; it sees all weights as one vector",
    ),
    "maximise": (
        lambda: switch(AdamW([P], maximize=True, weight_decay=0.0), "lbfgs", lr=1.0),
        "LBFGS does not support maximize=True, which the old optimizer uses",
    ),
    "training": (
        lambda: switch(trained_schedule_free(), "adamw", lr=0.1),
        r"ScheduleFreeAdamW is in train mode, .*call optimizer.eval\(\) first",
    ),
    "no momentum": (
        lambda: switch(Lookahead(AdamW([P]), pullback="reset"), "sgd", lr=0.1),
        "pullback='reset', and SGD has no momentum here",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_decay_can_be_left_behind() -> None:
    assert "weight_decay" not in switch(AdamW([P]), "rprop", lr=0.1, weight_decay=0.0).defaults
    assert isinstance(switch(AdamW([P]), LBFGS, lr=1.0, weight_decay=0.0), LBFGS)
    assert isinstance(stepwell.switch(AdamW([P], weight_decay=0.0), "rmsprop", lr=1.0), RMSprop)


def test_to_muon_which_parts_groups() -> None:
    """Matrices begin anew, its inner AdamW goes on from Adam's moments."""
    matrix, vector = torch.randn(4, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    optimizer = find("adamw")([("w", matrix), ("b", vector)], lr=1e-3)
    run(optimizer, [matrix, vector], [[torch.randn(4, 5), torch.randn(5)] for _ in range(3)])
    after = switch(optimizer, "muon", lr=0.02, weight_decay=0.0)
    assert [g["use_muon"] for g in after.param_groups] == [True, False]
    run(after, [matrix, vector], [[torch.randn(4, 5), torch.randn(5)]])
    assert set(after.state[matrix]) == {"step", "momentum_buffer"}
