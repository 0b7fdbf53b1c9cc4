"""The report of a recorded run: one HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stepwell import arguments, report
from stepwell.curves import Cell, Section, Table
from stepwell.doctor.charts import charts
from stepwell.doctor.layers import ratios, table
from stepwell.doctor.run import Run
from stepwell.doctor.summary import headline, in_order

FINDINGS = 50  # in full on the page


def write(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write the report of a run: findings, charts, the layers. Returns the path.

    The page needs nothing from outside; the run may still be going. Raises UsageError if the file cannot be written,
    MissingExtra without jinja2 or plotly.
    """
    where = arguments.path("doctor", "report", path)
    from stepwell import __version__

    models = run.facts.get("models")
    title = f"Training run: {', '.join(map(str, models))}" if isinstance(models, list) and models else "Training run"
    return report.write(where, title, sections(run), lead=headline(run), foot=f"{run.name}; stepwell {__version__}")


def sections(run: Run) -> list[Section]:
    """The whole report, in reading order."""
    listed = [finding for _, finding in in_order(run)]
    more = len(listed) - FINDINGS
    parts = [Section("Findings", listed[:FINDINGS], "" if more <= 0 else f"{more} more are in the journal.")]
    if not listed:
        parts = [Section("Findings", [], "No finding: the checks of the doctor saw nothing wrong in this run.")]
    if not run.step:
        parts.append(Section("The run", [], "No step is recorded yet."))
    drawn = charts(run)
    if drawn:
        parts.append(Section("The run, step by step", drawn))
    layers = [item for item in (ratios(run), table(run)) if item is not None]
    if layers:
        parts.append(Section("The layers", layers))
    parts.append(Section("What was run", [settings(run)]))
    return parts


def settings(run: Run) -> Table:
    """The optimizers, the model and the machine, as two columns."""
    facts = run.facts
    rows: list[list[Cell]] = []
    for optimizer in _dicts(facts.get("optimizers")):
        for number, group in enumerate(_dicts(optimizer.get("groups"))):
            name = f"{optimizer.get('name', 'optimizer')}, group {number}"
            said = ", ".join(f"{key}={_said(value)}" for key, value in group.items() if key != "params")
            rows.append([name, said[:600]])
    rows.append(["parameters", f"{len(run.parameters):,} tensors"])
    rows += [[key, str(facts[key])] for key in ("device", "torch", "version", "time") if facts.get(key) is not None]
    if run.unreadable:
        rows.append(["unreadable records", run.unreadable])
    return Table(
        ["setting", "value"], [[row[0], "–" if row[1] == "" else row[1]] for row in rows], "Settings at the start"
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _said(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_said, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)
