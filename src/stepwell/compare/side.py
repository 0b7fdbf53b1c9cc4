"""Two comparisons side by side, from the `results.json` of their folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.compare.headline import shown
from stepwell.curves import Cell, Chart, Curve, Section, Table
from stepwell.errors import UsageError, printable
from stepwell.errors import shown as quoted


def load(path: Path) -> dict[str, Any]:
    """The results of a comparison: its folder, or its `results.json`.

    Raises UsageError if there is none, or if it is not the result of one task.
    """
    file = path / "results.json" if path.is_dir() else path
    said = printable(str(file))[:200]
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        raise UsageError(f"{said} does not exist; give the folder of a comparison") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {said}: {getattr(error, 'strerror', None) or 'it is not JSON'}") from None
    if isinstance(found, dict) and "tasks" in found:
        raise UsageError(f"{said} is of several tasks; give the folder of one of them")
    wanted = {"task": dict, "scores": list, "trials": list, "plan": dict}
    if not isinstance(found, dict) or any(not isinstance(found.get(key), kind) for key, kind in wanted.items()):
        raise UsageError(f"{said} is not the result of a comparison")
    return found


def sections(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[Section]:
    """The page of two comparisons. `names`: what they are called."""
    return [
        Section("Result", [table(one, other, names)], summary(one, other, names)),
        Section("Learning curves", [curves(one, names[0]), curves(other, names[1])]),
        Section("What differs", [differences(one, other, names)]),
    ]


def table(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> Table:
    """One row per optimizer that is in both or in one of them."""
    left, right = _scores(one), _scores(other)
    rows: list[list[Cell]] = []
    for name in dict.fromkeys([*left, *right]):
        row: list[Cell] = [name]
        for scores in (left, right):
            score = scores.get(name)
            row += [None, None, None] if score is None else [
                None if score["best_lr"] is None else f"{score['best_lr']:g}",
                None if score["median"] is None else shown(score["median"]),
                None if score["lower"] is None else f"{shown(score['lower'])} – {shown(score['upper'])}",
            ]  # fmt: skip
        rows.append([*row, _verdict(left.get(name), right.get(name), one["task"]["direction"])])
    columns = ["optimizer", *(f"{name}: {what}" for name in names for what in ("best lr", "median", "quartiles"))]
    return Table([*columns, "better"], rows, title="Side by side", notes=[f"Metric: {one['task']['metric']}."])


def _verdict(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None, direction: str) -> str | None:
    if left is None or right is None or left["median"] is None or right["median"] is None:
        return None
    a, b = left["values"], right["values"]
    if a and b and max(min(a), min(b)) <= min(max(a), max(b)):
        return "seeds overlap"
    return "first" if (left["median"] > right["median"]) == (direction == "max") else "second"


def summary(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> str:
    """In how many optimizers which of the two is better."""
    if (one["task"]["metric"], one["task"]["direction"]) != (other["task"]["metric"], other["task"]["direction"]):
        metrics = f"{one['task']['metric']} and {other['task']['metric']}"
        return f"The metrics differ: {metrics}; the numbers cannot be compared."
    left, right = _scores(one), _scores(other)
    found = [_verdict(left[name], right[name], one["task"]["direction"]) for name in left if name in right]
    counts = {word: found.count(word) for word in ("first", "second", "seeds overlap")}
    return (
        f"Optimizers in both: {len(found)}. Better in {names[0]}: {counts['first']}; better in {names[1]}: "
        f"{counts['second']}; with seeds that overlap: {counts['seeds overlap']}."
    )


def curves(one: Mapping[str, Any], name: str) -> Chart:
    """The median of the metric over the seeds, by steps."""
    found = []
    for optimizer in _scores(one):
        runs = [t for t in one["trials"] if t["optimizer"] == optimizer and t["phase"] == "seed" and t["steps"]]
        if not runs:
            continue
        steps = max((run["steps"] for run in runs), key=len)
        at = [[run["metric"][i] for run in runs if i < len(run["steps"])] for i in range(len(steps))]
        found.append(
            Curve(optimizer, steps, [statistics.median(column) for column in at], low=[min(column) for column in at],
                  high=[max(column) for column in at], x_label="step", y_label=one["task"]["metric"])
        )  # fmt: skip
    return Chart(name, found, "Median over the seeds; the band spans all of them.")


def differences(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> Table:
    """The settings in which the two differ."""
    rows: list[list[Cell]] = []
    for key in dict.fromkeys([*one["plan"], *other["plan"]]):
        before, after = one["plan"].get(key), other["plan"].get(key)
        if before != after and key != "contenders":
            rows.append([key, quoted(before), quoted(after)])
    left = {each["name"]: each for each in one["plan"].get("contenders", [])}
    right = {each["name"]: each for each in other["plan"].get("contenders", [])}
    rows += [
        [name, quoted(left.get(name), 200), quoted(right.get(name), 200)]
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]
    return Table(["setting", *names], rows or [["none", None, None]])


def _scores(one: Mapping[str, Any]) -> dict[str, Any]:
    return {score["optimizer"]: score for score in one["scores"]}
