"""Several tasks in one comparison: one folder for each, and one page over all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell import __version__, arguments
from stepwell.compare.headline import headline, shown
from stepwell.compare.judgement import listed
from stepwell.compare.ranks import intervals, profile, ranks
from stepwell.compare.result import Result
from stepwell.compare.run import compare
from stepwell.compare.scores import hit_target
from stepwell.curves import Cell, Chart, Curve, Section, Table
from stepwell.errors import UsageError


@dataclass(frozen=True, repr=False)
class Results:
    """The results of several tasks, in the order given; `print(results)` shows the table of ranks."""

    results: tuple[Result, ...]
    folder: Path

    @property
    def complete(self) -> bool:
        return all(result.complete for result in self.results)

    def __str__(self) -> str:
        return f"{rank_table(self).text()}\n{summary(self)}"

    def __repr__(self) -> str:
        return f"Results({', '.join(result.task['name'] for result in self.results)}; folder {str(self.folder)!r})"

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page over all tasks (default: `report.html` in the folder). Returns its path."""
        from stepwell import report

        return report.write(
            self.folder / "report.html" if path is None else arguments.path("Results.report", "path", path),
            f"Optimizers compared: {', '.join(result.task['name'] for result in self.results)}",
            sections(self),
            lead="Equal tuning budgets and equal seeds on every task.",
            foot=f"stepwell {__version__}",
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json`."""
        return {"complete": self.complete, "tasks": [result.to_json() for result in self.results],
                "mean_ranks": mean_ranks(self)}  # fmt: skip


def compare_tasks(
    tasks: Sequence[str], optimizers: Sequence[str], *, out: str | Path | None = None,
    ended: Callable[[Result], None] = lambda result: None, **settings: Any,
) -> Results:  # fmt: skip
    """Compare optimizers on several tasks, one after the other, each as `compare` does, in a separate folder inside
    `out` (default: `runs/<the names of the tasks>`).

    Args:
        tasks: as for `compare`, without commands. ended: called with the result of each task.
        optimizers, settings: as for `compare`.
    """
    tasks = arguments.sequence("compare", "tasks", tasks, "a list of names, as ['digits', 'bytes']")
    names = [_name(task) for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"compare: the task {name} is given twice")
    place = Path("runs") / "+".join(names) if out is None else arguments.path("compare", "out", out)
    found = []
    for task, name in zip(tasks, names, strict=True):
        found.append(compare(task, optimizers, out=place / name, **settings))
        ended(found[-1])
        if not found[-1].complete:
            break  # Ctrl-C
    return Results(tuple(found), place)


def _name(task: Any) -> str:
    from stepwell.tasks import find

    return find(task).name


def mean_ranks(results: Results) -> dict[str, float]:
    """The mean over tasks of each optimizer's rank; only optimizers with a median on every task."""
    found: dict[str, list[float]] = {}
    for result in results.results:
        medians = {score.optimizer: score.median for score in result.scores if score.median is not None}
        for name, rank in ranks(medians, result.task["direction"]).items():
            found.setdefault(name, []).append(rank)
    whole = {name: own for name, own in found.items() if len(own) == len(results.results)}
    return dict(sorted(((name, statistics.fmean(own)) for name, own in whole.items()), key=lambda item: item[1]))


def rank_table(results: Results) -> Table:
    """One row per optimizer: its median and place on each task."""
    order = mean_ranks(results)
    names = [*order, *(c.name for c in results.results[0].plan.contenders if c.name not in order)]
    rows: list[list[Cell]] = []
    by_task = [intervals({s.optimizer: s.values for s in one.scores}, one.task["direction"]) for one in results.results]
    for name in names:
        row: list[Cell] = [name, f"{order[name]:.2g}" if name in order else None]
        for result, places in zip(results.results, by_task, strict=True):
            score = next(one for one in result.scores if one.optimizer == name)
            place = "-".join(dict.fromkeys(map(str, places[name]))) if name in places else "?"
            sure = "*" if score.edges else ""
            row.append(None if score.median is None else f"{shown(score.median)} (place {place}){sure}")
        rows.append(row)
    columns = ["optimizer", "mean rank", *(result.task["name"] for result in results.results)]
    notes = ["Medians over the seeds; in parentheses the places that an optimizer gets in 90 % of the draws when the "
             "seeds are drawn again."]  # fmt: skip
    if any(score.edges for result in results.results for score in result.scores):
        notes.append("*: its best value is the last of those tried on its side.")
    return Table(columns, rows, title="All tasks", notes=notes)


def summary(results: Results) -> str:
    """What is known over all tasks."""
    order = mean_ranks(results)
    if not order:
        return "No optimizer has a final run on every task yet."
    best = min(order.values())
    first = [name for name, rank in order.items() if rank < best + 0.25]
    open_ = sorted({score.optimizer for result in results.results for score in result.scores if score.edges})
    said = f"{listed(first)} {'have' if len(first) > 1 else 'has'} the lowest mean rank, {best:.2g} of {len(order)}"
    if open_:
        said += f"; not tuned yet on some task: {listed(open_)}"
    return said + "."


def profiles(results: Results) -> Chart:
    """Performance profiles over the tasks that have a target."""
    costs = []
    for result in results.results:
        if result.task["target"] is None:
            continue
        task: dict[str, list[float]] = {}
        for one in result.outcomes:
            if one.phase == "seed":
                hit = hit_target(one, result.task["direction"], result.task["target"])
                task.setdefault(one.optimizer, []).append(math.inf if hit is None else max(1.0, hit[0]))
        costs.append(task)
    found = profile(costs)
    most = max((point for points in found.values() for point, _ in points), default=1.0)
    curves = []
    for name, points in found.items():
        x, y = [1.0], [0.0]
        for at, share in points:
            x += [at, at]
            y += [y[-1], share]
        curves.append(Curve(name, [*x, max(most, 1.0) * 1.05], [*y, y[-1]],
                            x_label="steps to the target, as a multiple of the best optimizer's",
                            y_label="share of runs"))  # fmt: skip
    note = (
        "How often an optimizer reaches the target within t times the steps of the best one, over all seeds and tasks."
    )
    return Chart("Performance profile", curves, note, log_x=True)


def sections(results: Results) -> list[Section]:
    """The page over all tasks."""
    said = [[result.task["name"], headline(result)] for result in results.results]
    parts = [
        Section("All tasks", [rank_table(results)], summary(results)),
        Section("Task by task", [Table(["task", "result"], said)]),
    ]
    chart = profiles(results)
    if chart.curves:
        parts.insert(1, Section("Performance profile", [chart]))
    return parts
