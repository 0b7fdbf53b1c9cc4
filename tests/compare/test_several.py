"""Several tasks, ranks with their uncertainty, and performance profiles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stepwell.compare import compare_tasks
from stepwell.compare.command import compare as command
from stepwell.compare.ranks import intervals, profile, ranks
from stepwell.compare.several import mean_ranks, profiles, rank_table, sections, summary
from stepwell.errors import UsageError


def test_equal_values_share_the_mean_of_their_places() -> None:
    assert ranks({"a": 1.0, "b": 1.0, "c": 2.0, "d": 2.0}, "min") == {"a": 1.5, "b": 1.5, "c": 3.5, "d": 3.5}


def test_seeds_that_overlap_give_wide_places() -> None:
    found = intervals({"a": [0.90, 0.94, 0.98], "b": [0.91, 0.93, 0.97], "c": [0.1, 0.2, 0.15], "d": []}, "max")
    assert found == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
    assert intervals({"a": [1.0], "b": [2.0]}, "min") == {"a": (1, 1), "b": (2, 2)}


def test_a_profile_counts_runs_that_missed_the_target_and_no_task_that_nobody_solved() -> None:
    found = profile([{"a": [10, 20, math.inf], "b": [40, 40, 40]}, {"a": [math.inf], "b": [math.inf]}])
    assert found == {"a": [(1.0, 2 / 3)], "b": [(2.0, 1.0)]}


@pytest.mark.slow
def test_two_tasks_have_a_folder_each_and_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"trials": 4, "seeds": 2, "steps": 60, "jobs": 1}
    results = compare_tasks(["ravine", "rosenbrock"], ["sgd", "adamw"], out=tmp_path / "run", **settings)
    assert results.complete
    assert [result.task["name"] for result in results.results] == ["ravine", "rosenbrock"]
    assert (tmp_path / "run" / "ravine" / "trials.jsonl").exists()
    order = mean_ranks(results)
    assert set(order) == {"SGD", "AdamW"}
    assert sum(order.values()) == pytest.approx(3.0)
    table = rank_table(results)
    assert table.columns == ["optimizer", "mean rank", "ravine", "rosenbrock"]
    assert "lowest mean rank" in summary(results)
    assert [part.title for part in sections(results)][-1] == "Task by task"
    assert all(curve.y[-1] <= 1.0 for curve in profiles(results).curves)
    assert (
        command(
            "ravine,rosenbrock", "sgd,adamw", trials=4, seeds=2, steps=60, jobs=1, out=str(tmp_path / "run"), quiet=True
        )
        == 0
    )
    assert "All tasks" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["complete"]
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(UsageError, match="the task ravine is given twice"):
        compare_tasks(["ravine", "ravine"], ["sgd"], out=tmp_path / "other")


def test_two_comparisons_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stepwell import cli

    for name, optimizers in (("a", "sgd,adamw"), ("b", "sgd,lion")):
        given = ["--trials", "3", "--seeds", "2", "--steps", "40", "--jobs", "1", "--quiet", "--optimizers", optimizers]
        assert cli.main(["compare", "ravine", *given, "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    page = tmp_path / "both.html"
    assert cli.main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "Optimizers in both: 1. " in said
    assert {"SGD", "AdamW", "Lion"} <= set(said.split())
    assert "seeds overlap" in said  # the same trials
    assert '"name":"AdamW"' in page.read_text()
    (tmp_path / "b" / "results.json").write_text('{"task": {}}')
    for other, message in ((tmp_path / "none", "does not exist"), (tmp_path / "b", "is not the result of a comparison"),
                           (tmp_path / "a", "is given twice")):  # fmt: skip
        assert cli.main(["report", str(tmp_path / "a"), str(other), "--out", str(page)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
