"""Every check on its own traces: each bad one is found and no good one, and a healthy run has no finding at all."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from stepwell.doctor.checks import TABLE, load
from stepwell.doctor.record import Record
from stepwell.doctor.traces import ALONG, Trace, at
from stepwell.findings import Finding

CASES = [
    (module, kind, index)
    for module in load()
    for kind in ("BAD", "GOOD")
    for index in range(len(getattr(module, kind)))
]
BAD = [case for case in CASES if case[1] == "BAD"]


def names(cases: list[tuple[ModuleType, str, int]]) -> list[str]:
    return [f"{module.CHECK.code}-{kind.lower()}-{index}" for module, kind, index in cases]


def found(module: ModuleType, trace: Trace) -> Finding | None:
    return module.find(trace.record())


@pytest.mark.parametrize(("module", "kind", "index"), CASES, ids=names(CASES))
def test_traces(module: ModuleType, kind: str, index: int) -> None:
    finding = found(module, getattr(module, kind)[index])
    assert (finding is not None) == (kind == "BAD"), finding
    assert finding is None or finding.check is module.CHECK


@pytest.mark.parametrize(("module", "kind", "index"), BAD, ids=names(BAD))
def test_the_doctor_asks_the_check_when_the_fault_is_there(module: ModuleType, kind: str, index: int) -> None:
    record = module.BAD[index].record()
    assert record.step >= module.EARLIEST or record.ended


@pytest.mark.parametrize("module", load(), ids=list(TABLE))
def test_a_check_has_enough_traces(module: ModuleType) -> None:
    assert len(module.BAD) >= 2
    assert len(module.GOOD) >= 2
    assert all(isinstance(one, Trace) for one in (*module.BAD, *module.GOOD))


@pytest.mark.parametrize("module", load(), ids=list(TABLE))
def test_a_bad_trace_reaches_each_place_that_finds(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: set[int] = set()
    said = module.said

    def watched(*args: Any, **kwargs: Any) -> Finding:
        lines.add(sys._getframe(1).f_lineno)
        return said(*args, **kwargs)

    monkeypatch.setattr(module, "said", watched)
    for trace in module.BAD:
        found(module, trace)
    places = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "said"
    ]
    assert places
    for place in places:
        assert lines & set(place), f"line {place.start} of {module.__name__} is reached by no bad trace"


@pytest.mark.parametrize(("module", "kind", "index"), BAD, ids=names(BAD))
def test_what_was_seen_is_one_line_of_plain_english(module: ModuleType, kind: str, index: int) -> None:
    finding = found(module, module.BAD[index])
    assert finding is not None
    seen = finding.seen
    assert re.search(r"[a-z]{2,} [a-z]{2,}", seen)
    assert 20 <= len(seen) <= 320
    assert seen == " ".join(seen.split()), "one line, single spaces"
    assert not re.search(r"\b(nan|inf|None|True|False|1 examples|1 losses|1 batches)\b|-0\.0+\b", seen), seen
    assert not re.search(r"\[|\{|(?<!\w)\(\)|\( | \)| ,| \.|in \)|\.$|\.\.", seen), seen
    assert not re.search(r"\d{7}|\d\.\d{7}", seen), f"a number with too many digits: {seen}"


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("steps", [1, 20, 100, 500])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_healthy_run_has_no_finding(steps: int, optimizer: str, ended: bool) -> None:
    record = Trace(steps=steps, optimizer=optimizer, ended=ended).record()
    assert [module.CHECK.code for module in load() if module.find(record) is not None] == []


def test_each_check_leaves_an_empty_record_alone() -> None:
    assert [module.CHECK.code for module in load() if module.find(Record()) is not None] == []


def test_what_a_trace_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="Trace: stail;"):
        Trace(stail=3)
    with pytest.raises(TypeError, match="shap"):
        Trace(tensors={"first.*": {"shap": (3,)}}).record()


def test_a_trace_has_what_was_given() -> None:
    record = Trace(
        steps=30,
        backwards=2,
        optimizer=("SGD", "Adam"),
        lr=[0.1] * 30,
        tensors={"last.*": None, "middle.*": {"optimizer": 1, "weight": 2.0}, "head.scale": {"shape": (7,)}},
        batch={"labels": lambda step: {step: 64}},
        along=lambda step: {0.0: 1.0, 1.0: 0.5} if step == 7 else ALONG,
        loss=2.0,
        vals=(3.0, 1.0),
        stale=1,
    ).record()
    assert [one.name for one in record.parameters] == [
        "first.weight", "first.bias", "middle.weight", "middle.bias", "head.scale",
    ]  # fmt: skip
    assert record.parameters[4].numel == 7
    assert record.updates == [30, 30]
    assert record.lr[1][4] == (0.1,)
    assert len(record.series[0].values) == 60
    first, second = list(record.samples_of(0)), list(record.samples_of(1))
    assert first[3].weight[2] is None
    assert second[3].weight[2] == 2.0
    assert second[3].previous == 3
    assert [one.losses[1.0] for one in record.probes_of(0) if one.step == 7] == [1.0]
    assert record.batches[2].labels == {3: 64}
    assert record.vals == [(15, 3.0), (30, 1.0)]
    assert record.stale == 1


def test_values_at_a_step() -> None:
    assert [at(given, 2) for given in (3, [4, 5], lambda step: 3 * step, (0.1, 0.2), None)] == [
        3,
        5,
        6,
        (0.1, 0.2),
        None,
    ]
