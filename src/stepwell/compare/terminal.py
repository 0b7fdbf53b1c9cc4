"""The result in a terminal: the table, then the reservations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from stepwell.compare.headline import headline
from stepwell.compare.judgement import findings
from stepwell.compare.tables import score_table
from stepwell.errors import MissingExtra

if TYPE_CHECKING:
    from stepwell.compare.result import Result

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
# heading in the terminal, by heading in the table; what is not here is left to the report
COLUMNS = {
    "optimizer": "optimizer",
    "best lr": "best lr",
    "also tuned": "also tuned",
    "median": "median",
    "quartiles": "quartiles",
    "reached target": "hit\ntarget",
    "steps to target": "steps",
    "seconds to target": "seconds",
    "state bytes per parameter": "state\nB/param",
}


def show(result: Result, console: Any = None) -> None:
    """Print a result. Raises MissingExtra without rich."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text
    except ImportError:
        raise MissingExtra("rich", "tools", "stepwell compare") from None
    console = console or Console(width=None if sys.stdout.isatty() else 100)
    table = score_table(result)
    # no padding: with it the eight columns do not fit a terminal of 80
    drawn = Drawn(title=table.title, title_justify="left", box=SIMPLE_HEAD, header_style="bold", padding=0)
    kept = [index for index, column in enumerate(table.columns) if column in COLUMNS]
    for index in kept:
        column = table.columns[index]
        drawn.add_column(COLUMNS[column], justify="left" if index == 0 else "right", no_wrap=True)
    for row, score in zip(table.rows, result.scores, strict=True):
        cells = ["-" if row[index] is None else str(row[index]) for index in kept]
        if score.edges:
            cells[1] += "*"
        drawn.add_row(*(Text(cell) for cell in cells))
    console.print(drawn)
    console.print(Text(headline(result), style="bold"))
    legend = [table.notes[0], "Steps and seconds: to the target, median over the seeds."]
    if any(score.edges for score in result.scores):
        legend.append("*: the last of those tried on its side.")
    console.print(Text(" ".join(legend), style="dim"))
    for finding in findings(result):
        console.print(Text(f"{finding.severity}: {finding.place}: {finding.seen}", style=STYLES[finding.severity]))
        console.print(Text(f"  {finding.instead}", style="dim"))
