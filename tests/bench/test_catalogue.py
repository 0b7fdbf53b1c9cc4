"""Every optimizer has its rows in the bench, whatever is installed beside it. No time is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import catalogue
import peers
import step
from goals import least, least_share, most
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find
from stepwell.optimizers.facts import state_bytes
from table import Column, Table, ratio
from tests.bench.conftest import BENCH

TINY = catalogue.Settings(rounds=1, scale=1e-3, backend="eager", fresh=False)


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the extra."""
    monkeypatch.setattr(peers, "load", lambda package: None)


@pytest.mark.slow
@pytest.mark.usefixtures("only_torch")
@pytest.mark.parametrize("name", list(TABLE))
def test_every_optimizer_is_measured(name: str) -> None:
    rows = [row for table in catalogue.tables([name], TINY, lambda words: None) for row in table.rows]
    assert {row["optimizer"].partition("(")[0] for row in rows} == {name}
    for row in rows:
        assert row["seconds"] > 0
        assert row["of fused"] > 0
    if catalogue.is_elementwise(find(name)) and not rows[0]["optimizer"].startswith("Sparse"):
        assert all(row["share"] > 0 for row in rows)
        first = rows[0]
        usual = {**find(name).facts.compare_options, "state": first["state"]}
        numbers = 20 * 100 / (20 * 16 * 256)  # the step count and such of 20 tensors, spread over their elements
        assert 0 <= first["state bytes"] - state_bytes(find(name), **usual) < numbers


@pytest.mark.usefixtures("only_torch")
def test_a_missing_peer_is_a_dash() -> None:
    (table,) = catalogue.tables(["Lion"], TINY, lambda words: None)
    line = dict(zip(*table.cells()[:2], strict=True))
    assert line["optimizer"] == "Lion"
    assert line["best peer"] == line["its ms"] == line["x peer"] == "-"


def test_a_peer_that_fails_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(params: object) -> object:
        raise NotImplementedError("not on this machine\nat all")

    monkeypatch.setattr(peers, "peers", lambda *arguments: {"theirs": broken})
    (table,) = catalogue.tables(["ASGD"], TINY, lambda words: None)
    assert table.rows[0]["peer"] is None
    assert table.notes[-1] == "ASGD, peer theirs: does not run here (NotImplementedError: not on this machine)"


def test_peers_of_torch_come_by_name() -> None:
    found = peers.peers("RMSprop", {"momentum": 0.9, "centered": True}, "fp32", 1e-6)
    assert {"torch", "torch foreach"} <= set(found)
    assert not [label for label in peers.peers("AdamW", {"cautious": True}, "fp32", 1e-6) if "torch" in label.split()]
    assert not [label for label in peers.peers("AdamW", {}, "bf16", 1e-6) if label.startswith("torch ")]


def test_labels_say_what_is_not_usual() -> None:
    labels = [row.label for row in catalogue.rows(["SGD", "Lion"])]
    assert labels == ["SGD", "SGD(momentum=0.0)", "Lion", "Lion(cautious=True)"]
    assert catalogue.rows(["SGD"])[0].options == {"momentum": 0.9}


def test_formats_that_change_nothing_are_left_out() -> None:
    assert catalogue.formats_of(find("AdamW"), {}) == catalogue.STATES
    assert catalogue.formats_of(find("ASGD"), {}) == ("fp32",)  # what it keeps are weights
    assert catalogue.formats_of(find("SGD"), {"momentum": 0.0}) == ("fp32",)
    assert catalogue.formats_of(find("AdamW8bit"), {}) == (None,)


def test_goals_are_compared_as_printed() -> None:
    assert most(1.0).verdict(1.004) == "<=1 met"
    assert most(0.85).verdict(0.86) == "<=0.85 MISSED"
    assert least(15, digits=1).verdict(14.9) == ">=15 MISSED"
    assert least_share(0.85).verdict(0.846) == ">=85% met"
    assert least_share(0.85).verdict(0.844) == ">=85% MISSED"


def test_a_table_says_goals_and_verdicts() -> None:
    table = Table("title", (Column("name", "optimizer", left=True), Column("r", "x torch", ratio)), notes=["a note"])
    table.add({"name": "A", "r": 0.5}, {"r": most(1.0)})
    table.add({"name": "B", "r": 1.5}, {"r": most(1.0)})
    table.add({"name": "C", "r": None}, {"r": most(1.0)})
    assert table.text().splitlines() == [
        "title",
        "  optimizer          x torch",
        "  A             0.50 <=1 met",
        "  B          1.50 <=1 MISSED",
        "  C                        -",
        "  a note",
    ]
    assert [(one["row"], one["met"]) for one in table.judgements()] == [("A", True), ("B", False)]
    said = step.summary([table.to_json()], 1.0)
    assert said == ["goals: 1 met, 1 missed", "  missed: B, x torch: 1.5, goal <=1 (title)"]


def test_what_only_may_name() -> None:
    assert step.chosen("adamw, loop", ["loop"]) == (["loop"], ["AdamW"])
    assert step.chosen(None, ["loop"]) == (["loop"], list(TABLE))
    with pytest.raises(UsageError, match="unknown optimizer or table 'adamx'"):
        step.chosen("adamx", ["loop"])


@pytest.mark.slow
def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run = [sys.executable, BENCH / "step.py", "--scale", "0.001", "--rounds", "1", "--only", "ASGD,small,clipped"]
    done = subprocess.run([*run, "--json", file], capture_output=True, text=True, check=True)
    figures = json.loads(file.read_text())
    titles = [table["title"] for table in figures["tables"]]
    assert [title.split(",")[0] for title in titles] == [
        "AdamW fp32",
        "norm",
        "the catalogue on 81",
    ]
    (row,) = figures["tables"][2]["rows"]
    assert row["optimizer"] == "ASGD"
    assert row["first step"] > 0
    assert row["warm first step"] > 0
    assert row["peak extra"] >= 0
    assert {one["figure"] for one in figures["tables"][2]["judgements"]} >= {"of limit", "extra MiB"}
    assert "goals: " in done.stdout
    assert "the goals are meant for --scale 1" in done.stdout
