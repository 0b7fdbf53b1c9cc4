"""The result of a comparison: what was run, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stepwell import __version__, arguments
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Course, Plan
from stepwell.compare.scores import Score
from stepwell.curves import Heights
from stepwell.errors import UsageError

if TYPE_CHECKING:
    import pandas

FRAMES = ("scores", "trials", "curves")
POINTS = ("steps", "metric", "loss", "seconds", "gradients")  # of an outcome: one value per evaluation


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a comparison, complete or partial. `print(result)` and notebooks show its table.

    Attributes:
        plan, outcomes, scores: the settings, the finished trials, and their scores.
        task: facts of the task: name, metric, direction, target, ...
        machine: facts of the machine and the versions.
        complete: whether every trial is done. seconds: wall time of this call, without earlier calls.
        folder: the folder of all files.
        surface: heights of a two-parameter task, for the plot of the path; None for other tasks.
        courses: the trials of each optimizer, and what was tuned.
        command: the command line, where there was one.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    scores: tuple[Score, ...]
    task: Mapping[str, Any]
    machine: Mapping[str, str]
    complete: bool
    seconds: float
    folder: Path
    surface: Heights | None = None
    courses: tuple[Course, ...] = ()
    command: str = ""

    def __repr__(self) -> str:
        best = next((score for score in self.scores if score.median is not None), None)
        first = f"first {best.optimizer} at lr {best.best_lr:g}" if best and best.best_lr else "nothing finished"
        state, runs = "complete" if self.complete else "not complete", len(self.outcomes)
        return (
            f"Result({self.task['name']!r}, {len(self.plan.contenders)} optimizers, {runs} runs, {state}: "
            f"{first}; folder {str(self.folder)!r})"
        )

    def __str__(self) -> str:
        from stepwell.compare.headline import headline
        from stepwell.compare.tables import score_table

        return f"{score_table(self).text()}\n{headline(self)}"

    def _repr_html_(self) -> str:
        from html import escape

        from stepwell.compare.headline import headline
        from stepwell.compare.tables import score_table

        return f"{score_table(self).html()}<p><b>{escape(headline(self))}</b></p>"

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page with all tables and plots (default: `report.html` in the folder). Returns its path.

        In a notebook, `IPython.display.IFrame(result.report(), 1200, 800)` shows the page. Raises MissingExtra without
        plotly and jinja2, and UsageError where the page cannot be written.
        """
        from stepwell import report
        from stepwell.compare.figures import sections

        return report.write(
            self.folder / "report.html" if path is None else arguments.path("Result.report", "path", path),
            f"Optimizers compared: {self.task['name']}",
            sections(self),
            lead=f"{', '.join(c.name for c in self.plan.contenders)} on {self.task['summary']}; "
            "equal tuning budgets and equal seeds.",
            foot=f"stepwell {__version__}",
        )

    def to_frame(self, what: Literal["scores", "trials", "curves"] = "scores") -> pandas.DataFrame:
        """The result as a pandas DataFrame.

        `"scores"` has one row per optimizer, `"trials"` one row per trial, and `"curves"` one row per evaluation of
        each trial: step, metric, training loss, seconds and gradients. Columns have the names of `Score` and `Outcome`.
        `result.to_frame("curves").groupby("optimizer")["metric"].max()` is the best metric of each optimizer.
        Raises UsageError for another `what`, and without pandas.
        """
        if what not in FRAMES:
            raise arguments.refusal("Result.to_frame", "what", what, f"one of {', '.join(map(repr, FRAMES))}")
        try:
            import pandas
        except ImportError:
            raise UsageError("Result.to_frame needs the package 'pandas': pip install pandas") from None
        if what == "scores":
            return pandas.DataFrame([asdict(score) for score in self.scores])
        rows = [asdict(outcome) for outcome in self.outcomes]
        if what == "trials":
            return pandas.DataFrame([{key: row[key] for key in row if key not in (*POINTS, "path")} for row in rows])
        trial = ("id", "optimizer", "phase", "lr", "seed")
        names = dict(zip(POINTS, ("step", "metric", "loss", "seconds", "gradients"), strict=True))
        return pandas.DataFrame(
            [
                {key: row[key] for key in trial}
                | {name: row[key][at] if row[key] else None for key, name in names.items()}
                for row in rows
                for at in range(len(row["steps"]))
            ],
            columns=[*trial, *names.values()],
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json`: plain lists, dicts and finite numbers."""
        return {
            "stepwell": __version__,
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "task": dict(self.task),
            "plan": asdict(self.plan),
            "scores": [asdict(score) for score in self.scores],
            "trials": [asdict(outcome) for outcome in self.outcomes],
            "machine": dict(self.machine),
        }
