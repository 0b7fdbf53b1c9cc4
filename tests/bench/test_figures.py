"""What the figures of the bench are made of: bytes that must move, memory, ratios."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

import stepwell
from fresh import empty_cache, in_fresh_process
from measure import Times, alternate
from memory import MIB, peak_extra_bytes, state_bytes
from stepwell.optimizers import create
from traffic import moved_bytes, passes


# Written down by hand, per element: the parameter read and written, the gradient read, each slot read and written.
@pytest.mark.parametrize(
    ("name", "options", "wanted", "count"),
    [
        ("SGD", {"momentum": 0.0}, 12, 1),
        ("SGD", {"momentum": 0.9}, 20, 1),
        ("AdamW", {}, 28, 1),
        ("AdamW", {"amsgrad": True}, 36, 1),
        ("AdamW", {"state": "bf16"}, 20, 1),
        ("AdamW", {"state": "int8"}, 12 + 4 * (1 + 4 / 256), 1),
        ("AdamW", {"state": "int4"}, 12 + 4 * (0.5 + 4 / 128), 1),
        ("Sophia", {}, 24, 1),  # the Hessian is read only
        ("ASGD", {"state": "int8"}, 20, 1),  # its slot holds weights
        ("LAMB", {}, 28 + 16, 2),  # the first pass reads all four arrays
        ("LARS", {"momentum": 0.9}, 20 + 8, 2),  # weights and gradient
        ("Lion", {"cautious": True}, 20 + 8, 2),  # gradient and momentum
    ],
)
def test_bytes_that_must_move(name: str, options: dict[str, Any], wanted: float, count: int) -> None:
    p = torch.ones(64, 256, requires_grad=True)
    optimizer = create(name, [p], lr=0.1, **options)
    assert moved_bytes(optimizer) == wanted * p.numel()
    assert passes(optimizer) == count


@pytest.mark.parametrize(("weights", "wanted"), [("native", 2 * 3), ("stochastic", 2 * 3), ("split", 2 * 3 + 4)])
def test_bytes_of_16_bit_weights(weights: str, wanted: float) -> None:
    p = torch.ones(64, 256, dtype=torch.bfloat16, requires_grad=True)
    assert moved_bytes(stepwell.AdamW([p], weights=weights)) == (wanted + 16) * p.numel()


def test_bytes_of_others_are_not_known() -> None:
    p = torch.ones(4, requires_grad=True)
    assert moved_bytes(torch.optim.AdamW([p])) is None
    assert passes(torch.optim.AdamW([p])) is None


def test_state_is_counted_once_and_in_lists() -> None:
    class Other(torch.optim.SGD):
        pass

    p = torch.ones(100, requires_grad=True)
    optimizer = Other([p], lr=0.1)
    kept = torch.zeros(10)
    optimizer.state[p] = {"a": kept, "view": kept[2:], "history": [torch.zeros(5), torch.zeros(5)], "step": 3}
    assert state_bytes(optimizer) == 4 * 20


class Wasteful(torch.optim.SGD):
    """Holds `extra` MiB for a moment in every step, and gives itself `state` MiB."""

    def __init__(self, params: Any, extra: int, state: int) -> None:
        super().__init__(params, lr=0.1)
        self.extra, self.kept = extra, state

    def step(self) -> None:  # type: ignore[override]
        (p,) = self.param_groups[0]["params"]
        if not self.state[p]:
            self.state[p] = {"kept": torch.ones(self.kept * MIB // 4)}
        torch.ones(self.extra * MIB // 4).sum()


def extra_of(extra: int, state: int) -> tuple[float, float]:
    p = torch.ones(10, requires_grad=True)
    Wasteful([p], 1, 1).step()  # what torch imports for its first optimizer (150 MiB) is not of the step
    found, kept = peak_extra_bytes(lambda: Wasteful([p], extra, state), lambda optimizer: optimizer.step(), "cpu")
    return found / MIB, kept / MIB


def dies() -> None:
    import os

    os._exit(3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the whole life of a process")
def test_the_peak_is_what_is_held_for_a_moment() -> None:
    with empty_cache() as cache:
        for extra in (0, 150):
            found, kept = in_fresh_process(extra_of, extra, 40, cache=cache)
            assert kept == 40
            assert found == pytest.approx(extra, abs=3)  # stacks, and what allocators round up


@pytest.mark.slow
def test_a_fresh_process_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"dies\(\): its process ended with code 3"):
        in_fresh_process(dies, cache="unused")
    with pytest.raises(RuntimeError, match="TypeError"):
        in_fresh_process(extra_of, "many", 1, cache="unused")


def test_ratios_are_those_of_rounds() -> None:
    times = Times({"a": {0: 1.0, 1: 10.0, 2: 3.0}, "b": {0: 2.0, 1: 20.0, 2: 3.0}, "seldom": {0: 4.0}})
    assert times.seconds("a") == 3.0
    assert times.ratio("a", "b") == 0.5
    assert times.ratio("a", "seldom") == 0.25


def test_actions_take_turns() -> None:
    calls: list[str] = []
    times = alternate({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, inner=2)
    assert "".join(calls) == "aabbcc" + "aabbcc" + "bbccaa" + "ccaabb"
    assert all(set(rounds) == {0, 1, 2} for rounds in times.rounds.values())
    assert set(times.first) == set("abc")


def test_slow_actions_are_in_every_third_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measure.SLOW", -1.0)
    times = alternate({"a": lambda: None}, rounds=7)
    assert set(times.rounds["a"]) == {0, 3, 6}
