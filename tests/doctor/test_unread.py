"""Losses of a device are read many at a time, and say the same."""

import math

import pytest
import torch
from torch import nn

from stepwell.doctor import Doctor, unread, watch


def _run(bad_at: int = -1, rate: float = 0.1) -> tuple[Doctor, list[int]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    doctor, waiting = Doctor(net, optimizer, live=False), []
    for step in range(120):
        x = torch.randn(16, 8)
        if step == bad_at:
            x[0, 0] = math.nan
        loss = nn.functional.cross_entropy(net(x), (x[:, 0] > 0).long())
        doctor.loss(loss)
        waiting.append(len(doctor._watch.unread))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    doctor.close()
    return doctor, waiting


@pytest.mark.parametrize("bad_at", [-1, 90])
def test_values_that_wait_give_the_same_record(monkeypatch: pytest.MonkeyPatch, bad_at: int) -> None:
    at_once, none = _run(bad_at)
    monkeypatch.setattr(unread, "AT_ONCE", ())
    monkeypatch.setattr(watch, "AT_ONCE", ())
    late, waiting = _run(bad_at)
    assert max(none) == 0
    assert 4 < max(waiting) < unread.MOST
    assert max(waiting[:20]) == 0  # the first updates are looked at one by one
    one, other = at_once.record.series[0], late.record.series[0]
    assert one.steps == other.steps
    assert [f"{v:.6f}" for v in one.values] == [f"{v:.6f}" for v in other.values]
    assert [found.code for found in at_once.findings] == [found.code for found in late.findings]
    assert ("R13" in [found.code for found in late.findings]) == (bad_at > 0)
    assert len(at_once.record.probes) == len(late.record.probes)


def test_nothing_is_lost_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "AT_ONCE", ())
    monkeypatch.setattr(watch, "AT_ONCE", ())
    doctor, _ = _run()
    assert len(doctor.record.series[0].values) == 120
    steps = [one for one in doctor._chronicle.journal._kept if one["kind"] == "step"]
    assert all("loss" in one for one in steps)
    assert len(steps) == 120
