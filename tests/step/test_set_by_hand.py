"""A learning rate that is set by hand is the new base of the schedule, or refused; a checkpoint's changes are said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.finder import find_lr
from stepwell.optimizers import SGD, AdamW
from stepwell.schedules import Plateau, Scheduler, constant, cosine, linear, warmup
from stepwell.step import Step
from tests.step.small import data, loss, model

WARM = warmup(5).then(cosine(95))
KINDS = {"stepwell": AdamW, "torch": torch.optim.AdamW}


def rates(step: Step, network: nn.Module, count: int = 8) -> list[float]:
    return [step(loss(network, *data(seed=seed))).lr for seed in range(count)]


def set_lr(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tensor", [False, True])
def test_a_rate_set_after_the_step_was_made_is_the_base(kind: str, tensor: bool) -> None:
    network = model()
    start: Any = torch.tensor(1e-3) if tensor else 1e-3
    optimizer = KINDS[kind](network.parameters(), lr=start)
    step = Step(optimizer, WARM)
    set_lr(optimizer, 0.02)
    assert rates(step, network) == pytest.approx([0.02 * WARM(k) for k in range(8)], rel=1e-5)
    assert float(optimizer.param_groups[0]["initial_lr"]) == pytest.approx(0.02)


def test_a_rate_set_in_the_middle_is_the_base_and_says_so() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.1), linear(10, to=0.0))
    rates(step, network, 5)
    set_lr(step.optimizer, 0.4)
    with pytest.warns(
        UserWarning, match=r"lr was set to 0.4 by hand: this value is the new base .* gives 0.2 at update 5"
    ):
        assert step(loss(network, *data())).lr == pytest.approx(0.2)
    assert rates(step, network, 2) == pytest.approx([0.4 * linear(10, to=0.0)(k) for k in (6, 7)])


def test_a_new_initial_lr_is_the_base() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.1), linear(10, to=0.0))
    rates(step, network, 5)
    step.optimizer.param_groups[0]["initial_lr"] = 0.4
    assert rates(step, network, 1) == pytest.approx([0.4 * linear(10, to=0.0)(5)])


@pytest.mark.filterwarnings("ignore:Step. .* was set to")
def test_every_hyperparameter_that_is_driven_and_only_the_group_that_was_set() -> None:
    network = model()
    parts = list(network.parameters())
    optimizer = AdamW([{"params": parts[:2]}, {"params": parts[2:]}], lr=0.1, weight_decay=0.1)
    step = Step(optimizer, {"weight_decay": linear(10, to=0.0), "beta1": linear(10, to=0.5)})
    rates(step, network, 4)
    optimizer.param_groups[1]["weight_decay"] = 0.5
    optimizer.param_groups[0]["betas"] = (0.8, 0.99)
    rates(step, network, 1)
    groups = optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == pytest.approx([0.1 * 0.5, 0.5 * 0.5])
    assert [group["betas"][0] for group in groups] == pytest.approx([0.8 * 0.75, 0.9 * 0.75])
    assert groups[0]["betas"][1] == 0.99


def test_an_absolute_schedule_refuses_it_and_goes_on() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.1), linear(10, to=0.0).between(0.0, 0.3))
    before = rates(step, network, 2)
    set_lr(step.optimizer, 0.4)
    with pytest.raises(
        UsageError, match=r"lr was set to 0\.4 by hand, but the schedule .* gives values and not factors"
    ):
        step(loss(network, *data()))
    assert step(loss(network, *data())).lr < before[1]


def test_a_plateau_and_a_number_that_is_asked_for_change_nothing() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=1.0), constant(), plateau=Plateau(factor=0.5, patience=0))
    step.observe(1.0)
    step.observe(2.0)
    assert rates(step, network, 2) == [0.5, 0.5]
    set_lr(step.optimizer, 4.0)
    assert step.number == 2
    with pytest.warns(UserWarning, match="gives 2 at update 2"):
        assert rates(step, network, 1) == [2.0]


# Another Step on the same optimizer


def test_a_second_step_takes_the_rate_that_was_set() -> None:
    network = model()
    optimizer = SGD(network.parameters(), lr=1e-3)
    for make in (lambda: Step(optimizer, WARM), lambda: Scheduler(optimizer, WARM)):
        make()
        set_lr(optimizer, 0.02)
        assert max(rates(Step(optimizer, WARM), network)) == pytest.approx(0.02)
        set_lr(optimizer, 1e-3)


def test_a_second_step_on_an_optimizer_that_nobody_touched_has_the_base_of_the_first() -> None:
    network = model()
    optimizer = SGD(network.parameters(), lr=0.1)
    rates(Step(optimizer, linear(20, to=0.0)), network, 5)
    assert rates(Step(optimizer, WARM), network, 6)[5] == pytest.approx(0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_that_was_loaded_keeps_its_initial_lr(kind: str) -> None:
    network = model()
    optimizer = KINDS[kind](network.parameters(), lr=0.1)
    step = Step(optimizer, linear(20, to=0.0))
    rates(step, network, 5)
    saved = optimizer.state_dict()
    for make_first in (False, True):
        again = KINDS[kind](network.parameters(), lr=0.5)
        if make_first:
            step = Step(again, linear(20, to=0.0))
        again.load_state_dict(saved)
        if not make_first:
            step = Step(again, linear(20, to=0.0))
        assert rates(step, network, 1) == pytest.approx([0.1])


def test_after_find_lr_the_suggestion_can_be_set() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=1e-3), WARM, clip_norm=1.0)
    batches = [data(seed=seed) for seed in range(8)]
    find_lr(network, step, batches, lambda m, b: loss(m, *b), iterations=30, progress=False)
    assert step.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * WARM(0))  # as it was
    set_lr(step.optimizer, 0.02)
    assert max(rates(step, network)) == pytest.approx(0.02)


# A scheduler beside the Step


def test_a_scheduler_beside_the_schedule_is_refused_at_its_first_change() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=1.0), linear(10, to=0.0))
    scheduler = torch.optim.lr_scheduler.StepLR(step.optimizer, 1)
    step(loss(network, *data()))
    scheduler.step()
    with pytest.raises(UsageError, match=r"StepLR.step\(\) has set lr, but lr is driven by the Step's schedule"):
        step(loss(network, *data()))
    assert rates(step, network, 2) == pytest.approx([linear(10, to=0.0)(k) for k in (1, 2)])


def test_a_scheduler_that_has_ended_is_no_scheduler_beside() -> None:
    network = model()
    optimizer = SGD(network.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step = Step(optimizer, linear(10, to=0.0))
    set_lr(optimizer, 4.0)
    assert rates(step, network, 2) == pytest.approx([4.0 * linear(10, to=0.0)(k) for k in (0, 1)])
    assert scheduler.last_epoch == 0


# Checkpoints


def saved(path: Path, lr: float = 0.1, length: int = 10, **options: Any) -> Path:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=lr, **options), linear(length, to=0.0), model=network)
    rates(step, network, 5)
    return step.save(path / "c.pt")


def fresh(lr: float = 0.1, length: int = 10, **options: Any) -> tuple[nn.Module, Step]:
    network = model(1)
    return network, Step(SGD(network.named_parameters(), lr=lr, **options), linear(length, to=0.0), model=network)


def test_what_a_checkpoint_overrode_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path, weight_decay=0.01)
    network, step = fresh(0.4, weight_decay=0.3)
    with pytest.warns(UserWarning, match="the checkpoint set") as caught:
        step.load(path)
    (said,) = [str(one.message) for one in caught]
    assert "weight_decay 0.01 (before: 0.3), lr 0.1 (before: 0.4)" in said
    assert "\n" not in said
    assert rates(step, network, 1) == pytest.approx([0.05])


def test_a_checkpoint_that_overrode_nothing_says_nothing(tmp_path: Path) -> None:
    network, step = fresh()
    step.load(saved(tmp_path))
    assert rates(step, network, 1) == pytest.approx([0.05])


def test_overrides(tmp_path: Path) -> None:
    path = saved(tmp_path, weight_decay=0.01, momentum=0.9)
    network, step = fresh(0.4, weight_decay=0.3, momentum=0.9)
    step.load(path, overrides={"lr": 0.4, "weight_decay": 0.3})
    assert rates(step, network, 2) == pytest.approx([0.4 * linear(10, to=0.0)(k) for k in (5, 6)])
    assert step.optimizer.param_groups[0]["weight_decay"] == 0.3
    step.save(path)
    network, step = fresh(0.4, weight_decay=0.3, momentum=0.9)
    step.load(path)  # they are in the checkpoint from then on
    assert rates(step, network, 1) == pytest.approx([0.4 * linear(10, to=0.0)(7)])


REFUSED = {
    "name": ({"learning_rate": 1.0}, "the optimizer has no such number: known: .*lr, "),
    "list": ([1.0], "overrides is a list; it must be a dict of hyperparameters"),
    "word": ({"lr": "big"}, "it must be like 0.1, finite and at least 0"),
    "nan": ({"lr": float("nan")}, "it must be like 0.1, finite and at least 0"),
    "range": ({"momentum": 1.5}, r"momentum=1.5 is out of range; it must be in \[0, 1\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_overrides_load_nothing(tmp_path: Path, case: str) -> None:
    overrides, message = REFUSED[case]
    path = saved(tmp_path, momentum=0.9)
    _, step = fresh(momentum=0.9)
    with pytest.raises(UsageError, match=message):
        step.load(path, overrides=overrides)  # type: ignore[arg-type]
    assert step.number == 0


def test_a_longer_schedule_at_a_resume_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path)
    network, step = fresh(length=100)
    with pytest.warns(
        UserWarning, match=r"multiplies lr by 0.95 at update 5, the saved run by 0.5: lr jumps \(1.9 times\)"
    ):
        step.load(path)
    assert rates(step, network, 1) == pytest.approx([0.095])


def test_a_rate_set_before_saving_is_in_the_checkpoint(tmp_path: Path) -> None:
    network, step = fresh()
    rates(step, network, 1)
    set_lr(step.optimizer, 0.4)
    with pytest.warns(UserWarning, match="by hand"):
        path = step.save(tmp_path / "c.pt")
    network, step = fresh(0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step.load(path)
    assert rates(step, network, 1) == pytest.approx([0.36])
