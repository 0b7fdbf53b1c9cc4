"""A schedule behind torch's interface, and what it writes into groups."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import UsageError
from stepwell.optimizers import find
from stepwell.schedules import (
    Plateau,
    Schedule,
    Scheduler,
    apply,
    constant,
    cosine,
    from_function,
    initial_values,
    linear,
    multi_step,
    one_cycle,
    warmup,
)

RAMP = warmup(5).then(cosine(15, to=0.1))


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(3))


def adamw(**options: Any) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameter()], "lr": 1e-3, "name": "body"},
        {"params": [parameter()], "lr": 1e-2, "name": "head", "weight_decay": 0.5},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1, **options)


def train(optimizer: torch.optim.Optimizer, scheduler: Scheduler, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def test_every_group_keeps_its_ratio_and_update_k_uses_factor_k() -> None:
    optimizer = adamw()
    scheduler = Scheduler(optimizer, RAMP, total_steps=20)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    rates = train(optimizer, scheduler, 20)
    assert rates == [[1e-3 * RAMP(k), 1e-2 * RAMP(k)] for k in range(20)]
    assert scheduler.get_last_lr() == [1e-3 * RAMP(20), 1e-2 * RAMP(20)]
    assert scheduler.total_steps == 20  # what Accelerate reads
    with pytest.raises(UsageError, match="step 21 is past the horizon"):
        scheduler.step()
    assert scheduler.state_dict() == {"step": 20}


def test_lr_decay_and_betas_together_on_a_stepwell_optimizer() -> None:
    optimizer = find("adamw")([("w", parameter())], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.2)
    schedule = {
        "lr": RAMP,
        "weight_decay": linear(20, to=0.5),
        "beta1": warmup(10).between(0.85, 0.95),
        "beta2": constant(20, factor=0.9),
    }
    scheduler = Scheduler(optimizer, schedule, total_steps=20)
    for k in range(20):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        group = optimizer.param_groups[0]
        assert group["lr"] == pytest.approx(1e-3 * RAMP(k))
        assert group["weight_decay"] == pytest.approx(0.2 * (1 - 0.5 * k / 20))
        assert group["betas"] == pytest.approx((min(0.85 + 0.1 * (k + 1) / 10, 0.95), 0.99 * 0.9))
        optimizer.step()
        scheduler.step()


@given(st.integers(0, 20), st.booleans())
def test_resumes_from_any_step_in_either_order(at: int, scheduler_first: bool) -> None:
    schedule = {"lr": RAMP.per_group({"head": 0.5}), "weight_decay": linear(20, to=0.1), "betas": linear(20, to=0.9)}
    optimizer = adamw()
    scheduler = Scheduler(optimizer, schedule)
    train(optimizer, scheduler, at)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    assert saved[1] == {"step": at}
    other = adamw()
    if scheduler_first:
        second = Scheduler(other, schedule)
        other.load_state_dict(saved[0])
    else:
        other.load_state_dict(saved[0])
        second = Scheduler(other, schedule)
    second.load_state_dict(saved[1])
    keys = ("lr", "weight_decay", "betas")
    assert [[g[k] for k in keys] for g in other.param_groups] == [[g[k] for k in keys] for g in optimizer.param_groups]
    assert train(other, second, 20 - at) == train(optimizer, scheduler, 20 - at)


def test_takes_over_from_a_torch_scheduler() -> None:
    optimizer = adamw()
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=20)
    for _ in range(7):
        optimizer.step()
        theirs.step()
    ours = Scheduler(optimizer, linear(20, start=0.5, to=1.0).hold())
    ours.load_state_dict(theirs.state_dict())
    assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr())


def test_a_group_added_later_takes_part_from_the_next_step() -> None:
    optimizer = adamw()
    scheduler = Scheduler(optimizer, {"lr": RAMP.per_group({"head": 2}), "weight_decay": linear(20)})
    train(optimizer, scheduler, 7)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.5, "weight_decay": 0.3})
    assert optimizer.param_groups[2]["lr"] == 0.5
    train(optimizer, scheduler, 1)
    group = optimizer.param_groups[2]
    assert group["lr"] == 0.5 * RAMP(8)
    assert group["weight_decay"] == pytest.approx(0.3 * (1 - 8 / 20))
    assert scheduler.get_last_lr()[1:] == [2 * 1e-2 * RAMP(8), 0.5 * RAMP(8)]


def test_a_rate_held_in_a_tensor_keeps_its_identity() -> None:
    optimizer = torch.optim.AdamW([parameter()], lr=torch.tensor(1e-3, dtype=torch.float64))
    rate = optimizer.param_groups[0]["lr"]
    scheduler = Scheduler(optimizer, RAMP)
    train(optimizer, scheduler, 3)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(1e-3 * RAMP(3), rel=1e-12)


def test_momentum_is_beta1_where_there_is_no_momentum() -> None:
    sgd, adam = torch.optim.SGD([parameter()], momentum=0.9), torch.optim.Adam([parameter()])
    cycle = one_cycle(10).with_momentum(0.8, 0.9)
    for optimizer in (sgd, adam):
        train(optimizer, Scheduler(optimizer, cycle), 2)
    assert sgd.param_groups[0]["momentum"] == pytest.approx(0.8)
    assert adam.param_groups[0]["betas"] == pytest.approx((0.8, 0.999))


def test_a_checkpoint_past_the_horizon_changes_nothing() -> None:
    optimizer = adamw()
    scheduler = Scheduler(optimizer, cosine(10), plateau=Plateau(patience=0))
    before = copy.deepcopy((scheduler.state_dict(), optimizer.param_groups))
    state = {"step": 50, "plateau": {"best": 1.0, "bad": 0, "cooling": 0, "factor": 0.1}}
    with pytest.raises(UsageError, match="step 50 is past the horizon"):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before[0]
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in before[1]]


def test_plateau_multiplies_and_is_saved() -> None:
    optimizer = adamw()
    scheduler = Scheduler(optimizer, RAMP, plateau=Plateau(factor=0.5, patience=0))
    train(optimizer, scheduler, 3)
    for loss in (1.0, 1.0, float("nan")):
        scheduler.observe(torch.tensor(loss))
    assert scheduler.get_last_lr() == [1e-3 * RAMP(3) * 0.25, 1e-2 * RAMP(3) * 0.25]
    other = adamw()
    second = Scheduler(other, RAMP, plateau=Plateau(factor=0.5, patience=0))
    second.load_state_dict(scheduler.state_dict())
    assert second.get_last_lr() == scheduler.get_last_lr()
    with pytest.raises(UsageError, match="make this Scheduler with plateau"):
        Scheduler(adamw(), RAMP).load_state_dict(scheduler.state_dict())
    with pytest.raises(UsageError, match="the Plateau starts without its state"):
        second.load_state_dict({"step": 3})


def test_a_schedule_without_effect_warns() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    with pytest.warns(
        UserWarning, match="the schedule of weight_decay has no effect: it multiplies weight_decay, which is 0"
    ):
        Scheduler(optimizer, {"lr": RAMP, "weight_decay": RAMP})
    Scheduler(adamw(), {"lr": RAMP, "weight_decay": RAMP})  # one group without decay is no reason to warn


def test_nothing_is_written_if_one_value_is_out_of_range() -> None:
    optimizer = adamw()
    schedule: dict[str, Schedule] = {"lr": constant(factor=0.5), "betas": multi_step([1], gamma=1.2)}
    initial = initial_values(schedule, optimizer.param_groups)
    apply(schedule, optimizer.param_groups, initial, 0)
    before = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    with pytest.raises(UsageError, match=r"makes betas 1.08 at step 1; it must be in \[0, 1\)"):
        apply({**schedule, "lr": constant()}, optimizer.param_groups, initial, 1)
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == before


def groups_of_all_kinds() -> list[dict[str, Any]]:
    """Numbers as floats, ints and tensors, betas and momentum, with and without names."""
    return [
        {"name": "body", "lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.99)},
        {"name": "body 2", "lr": 1, "weight_decay": 0.1, "betas": (0.8, 0.99, 0.999)},
        {"lr": torch.tensor(0.5, dtype=torch.float64), "weight_decay": 0.0, "momentum": 0.5, "beta2": 0.7},
        {"name": "head", "lr": 1e-2, "weight_decay": 0.3, "betas": [0.95, 0.98]},
        {"name": "body 3", "lr": 0.1, "weight_decay": 0.1, "betas": (0.7, 0.9)},
    ]


@pytest.mark.parametrize("step", [0, 3, 20])
def test_each_group_gets_what_its_own_schedule_says(step: int) -> None:
    schedule = {
        "lr": RAMP.per_group({"body*": 0.5, "head": linear(20, to=0.1), 2: 3.0}),
        "weight_decay": linear(20, to=0.5),
        "momentum": linear(20, to=0.6),
        "beta2": constant(20, factor=0.7),
    }
    groups = groups_of_all_kinds()
    initial = initial_values(schedule, groups)
    apply(schedule, groups, initial, 7)
    groups[3]["name"], groups[4]["name"] = "body 9", "tail"  # what was found for the names before does not hold
    apply(schedule, groups, initial, step, lr_factor=0.25)
    factors = [0.5 * RAMP(step), 0.5 * RAMP(step), 3.0 * RAMP(step), 0.5 * RAMP(step), RAMP(step)]
    for group, start, factor in zip(groups, groups_of_all_kinds(), factors, strict=True):
        assert group["lr"] == float(start["lr"]) * (factor * 0.25)
        assert isinstance(group["lr"], torch.Tensor) == isinstance(start["lr"], torch.Tensor)
        assert group["weight_decay"] == start["weight_decay"] * linear(20, to=0.5)(step)
        first, second = linear(20, to=0.6)(step), 0.7
        if "betas" in start:
            assert tuple(group["betas"]) == (start["betas"][0] * first, start["betas"][1] * second, *start["betas"][2:])
        else:
            assert (group["momentum"], group["beta2"]) == (0.5 * first, 0.7 * second)


def test_a_schedule_is_asked_once_for_all_groups_that_follow_it() -> None:
    asked: list[int] = []

    def factor(step: int) -> float:
        asked.append(step)
        return 1.0

    groups = [{"name": f"layer {i}", "lr": 1e-3} for i in range(300)]
    other = {"layer 1*": from_function(factor), "layer 2*": from_function(factor)}  # equal, though not the same
    schedule = from_function(lambda step: factor(-step)).per_group({**other, **{i: i / 300 for i in range(30, 300)}})
    initial = initial_values(schedule, groups)
    for step in range(1, 4):
        apply(schedule, groups, initial, step)
    assert sorted(asked) == [-3, -2, -1, 1, 2, 3]
    assert [group["lr"] for group in groups] == [
        1e-3 * (i / 300 if i >= 30 and str(i)[0] > "2" else 1) for i in range(300)
    ]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (0.1, {}, "schedule=0.1; it must be a schedule for lr"),
    ({}, {}, "it must be a schedule for lr"),
    ({"lr": 0.1}, {}, "schedule['lr']=0.1; it must be a schedule"),
    ({"momentun": RAMP, "lr": RAMP}, {}, "has no 'momentun' to schedule: did you mean"),
    ({"beta3": RAMP}, {}, "has no 'beta3' to schedule"),
    ({"momentum": RAMP, "beta1": RAMP}, {}, "both drive 'betas'"),
    ({"betas": RAMP, "beta2": RAMP}, {}, "both drive 'betas'"),
    ({"lr": RAMP, "weight_decay": cosine(30)}, {}, "of lr has 20 steps and that of weight_decay has 30"),
    (RAMP, {"total_steps": 30}, "is 20 steps long and the run has 30"),
    (RAMP, {"total_steps": 0}, "total_steps=0; it must be a whole number of at least 1"),
    (cosine(), {}, "call .over(total_steps) with the length of the run"),
    (RAMP.per_group({"heat": 2}), {}, "no group is called 'heat': did you mean 'head'?"),
    (RAMP.per_group({7: 2}), {}, "there is no group 7; the optimizer has 2"),
    (Plateau(), {}, "a Plateau has state"),
]


@pytest.mark.parametrize(("schedule", "options", "message"), REFUSED, ids=[row[2][:40] for row in REFUSED])
def test_refused(schedule: Any, options: dict[str, Any], message: str) -> None:
    optimizer = adamw()
    before = [group["lr"] for group in optimizer.param_groups]
    with pytest.raises(UsageError) as caught:
        Scheduler(optimizer, schedule, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [group["lr"] for group in optimizer.param_groups] == before


def test_refuses_what_is_no_optimizer_and_no_state() -> None:
    with pytest.raises(UsageError, match=r"list is not a torch\.optim\.Optimizer"):
        Scheduler([], RAMP)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="neither 'step' nor 'last_epoch', only 'a'"):
        Scheduler(adamw(), RAMP).load_state_dict({"a": 1})
    with pytest.raises(UsageError, match="step 21 is past the horizon"):
        Scheduler(adamw(), RAMP).load_state_dict({"step": 21})


def test_torchs_warning_about_the_order_stays() -> None:
    optimizer = adamw()
    scheduler = Scheduler(optimizer, RAMP)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_inside_torchs_own_sequence() -> None:
    """A trainer may wrap what it is given in a SequentialLR."""
    optimizer = adamw()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own use of step(epoch)
        first = torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=100)
        chain = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, Scheduler(optimizer, RAMP)], milestones=[3])
        rates = []
        for _ in range(6):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            chain.step()
    assert rates == pytest.approx([0.5e-3] * 3 + [1e-3 * RAMP(k) for k in range(3)])
    assert chain.get_last_lr() == pytest.approx([1e-3 * RAMP(3), 1e-2 * RAMP(3)])


def test_what_a_trainer_adds_to_torchs_count_of_calls_changes_nothing() -> None:
    optimizer = adamw()
    scheduler = Scheduler(optimizer, RAMP)
    for k in range(20):
        assert scheduler._step_count == k + 1
        scheduler._step_count += 3  # Accelerate: the micro-batches before an update
        train(optimizer, scheduler, 1)
    assert scheduler.state_dict() == {"step": 20}
    scheduler.load_state_dict({"step": 4})
    assert scheduler._step_count == 5


# Set by hand


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_rate_set_by_hand_is_the_new_base(as_tensor: bool) -> None:
    optimizer = torch.optim.SGD([parameter()], lr=torch.tensor(1e-3) if as_tensor else 1e-3)
    scheduler = Scheduler(optimizer, RAMP)
    group = optimizer.param_groups[0]
    group["lr"] = torch.tensor(0.02) if as_tensor else 0.02
    assert train(optimizer, scheduler, 5)[1:] == [pytest.approx([0.02 * RAMP(k)]) for k in range(1, 5)]
    group["lr"] = 0.5
    with pytest.warns(UserWarning, match=r"lr was set to 0\.5 by hand: this value is the new base of warmup"):
        scheduler.step()
    assert train(optimizer, scheduler, 3) == [pytest.approx([0.5 * RAMP(k)]) for k in range(6, 9)]
    assert scheduler.get_last_lr() == pytest.approx([0.5 * RAMP(9)])


def test_a_rate_set_by_hand_under_a_schedule_of_values_is_said_to_have_no_effect() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=1e-3)
    scheduler = Scheduler(optimizer, RAMP.between(0.0, 0.1))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    with pytest.warns(UserWarning, match=r"set to 0\.5 by hand: but .* gives values and not factors"):
        scheduler.step()
    assert train(optimizer, scheduler, 1) == [pytest.approx([0.1 * RAMP(1)])]


@pytest.mark.parametrize("make", [torch.optim.SGD, find("sgd")])
def test_a_rate_that_a_checkpoint_brings_is_not_set_by_hand(make: Any) -> None:
    optimizer = make([parameter()], lr=1e-3)
    scheduler = Scheduler(optimizer, RAMP)
    train(optimizer, scheduler, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    train(optimizer, scheduler, 9)
    optimizer.load_state_dict(saved)  # and the scheduler goes on
    scheduler.step()
    assert train(optimizer, scheduler, 2) == [[1e-3 * RAMP(13)], [1e-3 * RAMP(14)]]


def test_what_a_scheduler_beside_it_writes_is_no_base() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=1e-3)
    scheduler = Scheduler(optimizer, RAMP)
    beside = torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5, 99)
    for k in range(1, 5):
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == 1e-3 * RAMP(k)
        beside.step()
