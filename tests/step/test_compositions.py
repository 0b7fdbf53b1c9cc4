"""Optimizers around optimizers, averages, schedules and clipping in every order that makes sense: saved at update 7 and
gone on with in fresh objects, a run ends bit for bit as one that was not interrupted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import ASAM, LBFGS, SAM, SGD, AdamW, Lookahead, ScheduleFreeAdamW
from stepwell.schedules import constant, linear, warmup
from stepwell.step import SWA, AutoClip, Average, Step
from tests.step.small import data, flat, loss, model, same

SAVED, UPDATES, SKIPPED = 7, 13, (2, 9)

Parameters = list[tuple[str, torch.Tensor]]
OPTIMIZERS: dict[str, Callable[[Parameters], Any]] = {
    "Lookahead(SGD)": lambda p: Lookahead(SGD(p, lr=0.1, momentum=0.9), k=3, pullback="pullback"),
    "Lookahead(AdamW int8)": lambda p: Lookahead(AdamW(p, lr=0.05, state="int8"), k=4, pullback="reset"),
    "Lookahead(torch)": lambda p: Lookahead(torch.optim.AdamW(p, lr=0.05), k=3),
    "Lookahead(Lookahead(SGD))": lambda p: Lookahead(Lookahead(SGD(p, lr=0.1), k=2), k=3),
    "SAM(SGD)": lambda p: SAM(SGD(p, lr=0.1, momentum=0.9), rho=0.1),
    "SAM(torch)": lambda p: SAM(torch.optim.SGD(p, lr=0.1, momentum=0.9), rho=0.1),
    "ASAM(AdamW bf16)": lambda p: ASAM(AdamW(p, lr=0.05, state="bf16")),
    "SAM(Schedule-Free)": lambda p: SAM(ScheduleFreeAdamW(p, lr=0.05)),
    "Lookahead(SAM(SGD))": lambda p: Lookahead(SAM(SGD(p, lr=0.1, momentum=0.9)), k=3, pullback="pullback"),
    "SAM(Lookahead(SGD))": lambda p: SAM(Lookahead(SGD(p, lr=0.1, momentum=0.9), k=3, pullback="pullback")),
    "SAM(Lookahead(torch))": lambda p: SAM(Lookahead(torch.optim.AdamW(p, lr=0.05), k=3)),
    "L-BFGS": lambda p: LBFGS(p, lr=0.5, max_iter=3, history_size=4, line_search_fn="strong_wolfe"),
}
AVERAGES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "EMA": lambda: Average(0.7),
    "SWA": lambda: SWA(start=4, every=2),
    "SWA from later on": lambda: SWA(start=9),
}


class Run:
    """One run, from whatever seed: what is loaded must be all that counts."""

    def __init__(self, make: Callable[[Parameters], Any], average: Any, seed: int, narrow: bool) -> None:
        torch.manual_seed(seed)
        self.dtype = torch.bfloat16 if narrow else torch.float32
        self.network = nn.Sequential(model(seed), nn.Dropout(0.2), nn.BatchNorm1d(3)).to(self.dtype)
        optimizer = make(list(self.network.named_parameters()))
        schedules: dict[str, Any] = {"lr": warmup(3).then(linear(20, to=0.2))}
        if "sam_rho" in optimizer.param_groups[0]:
            schedules["sam_rho"] = linear(23, to=0.5)
        if isinstance(optimizer, LBFGS) or hasattr(optimizer.base if hasattr(optimizer, "base") else optimizer, "eval"):
            schedules["lr"] = constant()
        self.step = Step(optimizer, schedules, clip=AutoClip(70), average=average(), model=self.network)

    def updates(self, numbers: range) -> None:
        for number in numbers:
            x, y = data(seed=number)
            blown = torch.nan if number in SKIPPED else 1.0

            def compute(x: Any = x, y: Any = y, blown: float = blown) -> torch.Tensor:
                return loss(self.network, x.to(self.dtype), y) * blown

            done = self.step.closure(compute) if self.closes() else self.step(compute())
            assert done.skipped == (number in SKIPPED)

    def closes(self) -> bool:
        return getattr(self.step.optimizer, "needs_closure", False)

    def outcome(self) -> list[Any]:
        found: list[Any] = [flat(self.network), dict(self.network.named_buffers()), self.step.number]
        found += [self.step.optimizer.state_dict(), [g["lr"] for g in self.step.optimizer.param_groups]]
        if self.step.average is not None:
            with self.step.averaged():
                found.append(flat(self.network))
        if hasattr(self.step.optimizer, "evaluating"):
            with self.step.optimizer.evaluating():
                found.append(flat(self.network))
        return found


CASES = [pytest.param(name, False, id=f"{name}-fp32") for name in OPTIMIZERS]
CASES += [  # a line search finds nothing in bf16
    pytest.param(name, True, id=f"{name}-bf16", marks=pytest.mark.slow) for name in OPTIMIZERS if name != "L-BFGS"
]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(("name", "narrow"), CASES)
@pytest.mark.filterwarnings("ignore:ScheduleFree.* is saved in train mode")
def test_a_run_goes_on_bit_for_bit(name: str, average: str, narrow: bool, tmp_path: Path) -> None:
    make, averages = OPTIMIZERS[name], AVERAGES[average]
    whole = Run(make, averages, 0, narrow)
    start = flat(whole.network)
    whole.updates(range(UPDATES))
    assert not torch.equal(flat(whole.network), start)
    assert whole.step.number == UPDATES - len(SKIPPED)

    first = Run(make, averages, 0, narrow)
    first.updates(range(SAVED))
    first.step.save(tmp_path / "run.pt")
    first.updates(range(SAVED, SAVED + 2))  # lost
    second = Run(make, averages, 5, narrow)
    second.updates(range(2))  # and this, too
    second.step.load(tmp_path / "run.pt")
    second.updates(range(SAVED, UPDATES))
    assert same(whole.outcome(), second.outcome())


@pytest.mark.parametrize("one", ["Lookahead(SAM(SGD))", "SAM(Lookahead(SGD))"])
def test_the_order_of_the_two_matters_to_the_state_only(one: str) -> None:
    """The cycle ends after the step that SAM makes, whichever is outside: the same path, another checkpoint."""
    orders = []
    for name in (one, "Lookahead(SAM(SGD))"):
        orders.append(Run(OPTIMIZERS[name], AVERAGES["none"], 0, False))
        orders[-1].updates(range(UPDATES))
    assert torch.equal(flat(orders[0].network), flat(orders[1].network))
    saved = orders[0].step.optimizer.state_dict()
    assert list(saved["param_groups"][0]["wrappers"]) == one.removesuffix("(SGD))").split("(")


def test_averages_of_the_path_of_a_lookahead_are_of_the_weights_that_it_leaves() -> None:
    run = Run(OPTIMIZERS["Lookahead(SGD)"], lambda: SWA(start=3, every=3), 0, False)
    points = []
    for number in range(UPDATES):
        run.updates(range(number, number + 1))
        if number not in SKIPPED and run.step.number % 3 == 0:
            with run.step.optimizer.evaluating():  # at the end of a cycle these are the slow weights
                points.append(flat(run.network))
    with run.step.averaged():
        torch.testing.assert_close(flat(run.network), torch.stack(points).mean(0))


MISFITS: dict[str, tuple[str, str, str]] = {  # saved with, loaded into, what is said
    "another order": ("Lookahead(SAM(SGD))", "SAM(Lookahead(SGD))", "SAM: the checkpoint is of Lookahead, not of SAM"),
    "one less": ("Lookahead(SAM(SGD))", "SAM(SGD)", "SAM: the checkpoint is of Lookahead, not of SAM"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_another_composition_is_refused_and_nothing_changes(case: str) -> None:
    saved, loaded, message = MISFITS[case]
    first, second = (Run(OPTIMIZERS[name], AVERAGES["EMA"], seed, False) for seed, name in enumerate((saved, loaded)))
    first.updates(range(4))
    second.updates(range(1))
    before = [flat(second.network), copy.deepcopy(second.step.optimizer.state_dict()), second.step.number]
    with pytest.raises(UsageError, match=message):
        second.step.load_state_dict(first.step.state_dict())
    assert same(before, [flat(second.network), second.step.optimizer.state_dict(), second.step.number])


@pytest.mark.filterwarnings("ignore:Step. the checkpoint set sam_rho")
@pytest.mark.parametrize(
    ("saved", "loaded"), [("SAM(SGD)", "Lookahead(SAM(SGD))"), ("Lookahead(torch)", "SAM(Lookahead(torch))")]
)
def test_a_checkpoint_of_what_is_inside_is_taken_over(saved: str, loaded: str) -> None:
    first, second = (Run(OPTIMIZERS[name], AVERAGES["EMA"], seed, False) for seed, name in enumerate((saved, loaded)))
    first.updates(range(4))
    second.step.load_state_dict(first.step.state_dict())
    assert same([first.step.optimizer.state_dict()["state"]], [second.step.optimizer.base.state_dict()["state"]])
    assert second.step.number == first.step.number
