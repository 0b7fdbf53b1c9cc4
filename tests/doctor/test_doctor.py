"""The doctor around a run: it changes nothing, takes off what it put on, and says what small runs show."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stepwell as sw
from stepwell.doctor import Doctor
from stepwell.doctor.checks import TABLE, load


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 32), nn.BatchNorm1d(32)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    return x, (x[:, :4] + 0.1 * torch.randn(512, 4, generator=generator)).argmax(1)


def train(
    watch: Callable[..., Any] | None, steps: int = 60, optimizer: Callable[..., Any] | None = None, fault: str = ""
) -> tuple[Net, Any]:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002  # the generator that users share
    model = Net()
    x, y = data()
    chosen = (optimizer or (lambda p: torch.optim.AdamW(p, lr=3e-3)))(model.parameters())
    doctor = watch(model, chosen) if watch is not None else None
    for _ in range(steps):
        index = torch.randint(512, (64,))
        if fault != "no zero_grad":
            chosen.zero_grad()
        out = model(x[index])
        if fault == "softmax":
            out = out.softmax(1)
        loss = F.cross_entropy(out, y[index])
        if doctor is not None:
            doctor.loss(loss)
        loss.backward()
        torch.rand(3)  # between the loss and its update, so that a probe cannot end where it should by chance
        chosen.step()
    return model, doctor


def quiet(model: Any, optimizer: Any) -> Doctor:
    return Doctor(model, optimizer, live=False)


def test_weights_and_random_numbers_are_those_of_the_run_without_it() -> None:
    alone, _ = train(None, steps=220)
    after = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    watched, doctor = train(quiet, steps=220)
    assert doctor.record.probes, "probes must have been made, or this shows nothing"
    assert (torch.rand(1), random.random(), np.random.rand()) == after  # noqa: NPY002
    for one, other in zip(alone.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_healthy_run_has_no_finding() -> None:
    _, doctor = train(quiet, steps=200)
    doctor.close()
    assert doctor.findings == []


@pytest.mark.parametrize(
    ("fault", "optimizer", "code"),
    [
        ("no zero_grad", None, "R01"),
        ("softmax", None, "R35"),
        ("", lambda p: torch.optim.AdamW(p, lr=3.0), "R08"),
        ("", lambda p: torch.optim.AdamW(p, lr=3e-6), "R09"),
        ("", lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.999, 0.9)), "R40"),
        ("", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5), "R48"),
        ("", lambda p: sw.AdamW(list(p)[:2], lr=3e-3), "R03"),
    ],
)
def test_the_first_finding_is_the_cause(fault: str, optimizer: Any, code: str) -> None:
    _, doctor = train(quiet, steps=120, optimizer=optimizer, fault=fault)
    doctor.close()
    assert doctor.findings, "nothing was found"
    assert doctor.findings[0].code == code


def test_a_finding_is_printed_once_with_its_reason_and_what_to_do() -> None:
    stream = io.StringIO()
    train(lambda m, o: Doctor(m, o, stream=stream), steps=30, fault="softmax")
    said = stream.getvalue()
    assert said.count("R35") == 1
    assert "why:" in said
    assert "instead:" in said


def hooks_of(model: nn.Module) -> int:
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return modules + sum(
        len(p._backward_hooks or ()) + len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()
    )


def test_every_hook_is_taken_off() -> None:
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    before = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    model, doctor = train(quiet, steps=5)
    assert hooks_of(model) > 0
    doctor.close()
    doctor.close()  # a second time does nothing
    assert hooks_of(model) == 0
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == before


def test_after_close_losses_are_ignored() -> None:
    _, doctor = train(quiet, steps=5)
    doctor.close()
    doctor.loss(torch.tensor(float("nan")))
    doctor.val(3.0)
    assert doctor.findings == []


@pytest.mark.parametrize(
    ("model", "optimizer", "word"),
    [(3, None, "model=3"), (nn.Linear(2, 2), "adam", "optimizer='adam'"), ([nn.Linear(2, 2), 1], None, "model=1")],
)
def test_what_is_refused(model: Any, optimizer: Any, word: str) -> None:
    given = optimizer if optimizer is not None else torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(sw.UsageError, match=word):
        Doctor(model, given)


def test_a_failing_check_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(record: Any) -> None:
        raise ZeroDivisionError("in a check")

    monkeypatch.setattr(load()[0], "find", broken)
    with pytest.warns(UserWarning, match=f"the check {load()[0].CHECK.code} failed"):
        train(quiet, steps=5)


def test_a_loss_that_changes_a_tensor_of_the_user_is_not_computed_again() -> None:
    torch.manual_seed(0)
    model, total = nn.Linear(4, 1), torch.zeros(())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    doctor = quiet(model, optimizer)
    expected = 0.0
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 4)).square().mean()
        total += loss.detach()
        expected += loss.item()
        loss = loss * 1.0
        doctor.loss(loss)
        loss.backward()
        optimizer.step()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert doctor.record.probes == []


def test_two_networks_of_a_gan() -> None:
    torch.manual_seed(0)
    g, d = (
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)),
        nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)),
    )
    og, od = torch.optim.Adam(g.parameters(), lr=1e-3), torch.optim.Adam(d.parameters(), lr=1e-3)
    doctor = Doctor([g, d], [og, od], live=False)
    for _ in range(60):
        real, z = torch.randn(32, 2) * 0.5 + 1, torch.randn(32, 4)
        od.zero_grad()
        loss = F.softplus(-d(real)).mean() + F.softplus(d(g(z).detach())).mean()
        doctor.loss(loss)
        loss.backward()
        od.step()
        og.zero_grad()
        loss = F.softplus(-d(g(z))).mean()
        doctor.loss(loss)
        loss.backward()
        og.step()
    doctor.close()
    assert doctor.findings == []
    assert doctor.record.updates == [60, 60]
    assert {one.optimizer for one in doctor.record.probes} == {0, 1}


def test_every_check_is_documented_and_has_its_place() -> None:
    tiers = [module.TIER for module in load()]
    assert tiers == sorted(tiers)
    assert len(TABLE) == len(load())
    for module in load():
        assert module.CHECK.code.startswith("R")
        assert module.__doc__
        assert module.EARLIEST >= 0
        assert module.HOLDS >= 1


def test_a_copy_of_the_model_is_not_watched() -> None:
    model = Net()
    doctor = quiet(model, torch.optim.SGD(model.parameters(), lr=0.1))
    teacher = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(model))
    for one in (teacher, again):
        one(torch.randn(8, 8))
    assert doctor._watch.outermost == set()
    model(torch.randn(8, 8))
    assert doctor._watch.outermost == {id(model)}
    doctor.close()


def test_a_doctor_that_nobody_keeps_takes_its_hooks_off() -> None:
    model = Net()
    doctor = quiet(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert hooks_of(model) > 0
    del doctor
    gc.collect()
    assert hooks_of(model) == 0


def test_a_first_pass_that_is_reset_is_no_accumulation() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    doctor = quiet(model, optimizer)
    x, y = data()
    for _ in range(12):  # sharpness-aware minimization by hand
        for _ in range(2):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[:64]), y[:64])
            doctor.loss(loss)
            loss.backward()
        optimizer.step()
    assert set(doctor.record.backwards) == {1}
    for _ in range(12):
        optimizer.zero_grad()
        for _ in range(3):
            loss = F.cross_entropy(model(x[:64]), y[:64])
            doctor.loss(loss)
            loss.backward()
        optimizer.step()
    assert doctor.record.backwards[-10:] == [3] * 10
    doctor.close()


def test_a_group_that_is_added_later_is_known() -> None:
    torch.manual_seed(0)
    model = Net()
    model.first.requires_grad_(False)
    late = list(model.first.parameters())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    doctor = quiet(model, optimizer)
    x, y = data()
    for step in range(60):
        if step == 20:
            model.first.requires_grad_(True)
            optimizer.add_param_group({"params": late})
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[:64]), y[:64])
        doctor.loss(loss)
        loss.backward()
        optimizer.step()
    doctor.close()
    assert "R03" not in [one.code for one in doctor.findings]


def test_a_mask_among_the_channels_and_a_number_beside_the_input_are_the_target() -> None:
    from stepwell.doctor import batches

    pictures, masks = torch.randn(4, 2, 8, 8), (torch.rand(4, 1, 8, 8) > 0.7).float()
    assert batches.facts(1, torch.cat([pictures, masks], 1), masks).copied == 2
    assert batches.facts(1, torch.cat([pictures, masks], 1), masks[:, 0].long()).copied == 2
    assert batches.facts(1, pictures, masks).copied is None
    assert batches.facts(1, masks, masks).copied is None  # an autoencoder
    users, ratings = torch.randint(9, (16,)), torch.rand(16)
    for extra, found in ((2 * ratings - 1, 0), (torch.rand(16), None), (ratings.unsqueeze(1), 0)):
        one = batches.facts(1, users, ratings)
        batches.beside(one, users, (users, users, extra), ratings)
        assert one.copied == found
