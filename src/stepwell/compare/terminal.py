"""The result in a terminal: the table, then what to know before believing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.compare.figures import headline, score_table
from stepwell.compare.judgement import findings
from stepwell.errors import MissingExtra

if TYPE_CHECKING:
    from stepwell.compare.run import Result

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
NARROW = {
    "in its range": "",  # the findings say it where it matters
    "at target": "at target",
    "steps to it": "steps to",
    "seconds to it": "s to",
    "ms per step": "ms/step",
    "state bytes per parameter": "state B/param",
}


def show(result: Result, console: Any = None) -> None:
    """Print a result. Raises MissingExtra without rich."""
    try:
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text
    except ImportError:
        raise MissingExtra("rich", "tools", "stepwell compare") from None
    console = console or Console()
    table = score_table(result)
    columns = [NARROW.get(column, column) for column in table.columns]
    drawn = Drawn(title=table.title, title_justify="left", caption_justify="left", header_style="bold")
    for column in columns:
        if column:
            drawn.add_column(column, justify="left" if column == "optimizer" else "right", overflow="fold")
    for row, score in zip(table.rows, result.scores, strict=True):
        cells = [
            f"{cell} ({score.edge} edge)" if column == "best lr" and score.edge else "-" if cell is None else str(cell)
            for column, cell in zip(table.columns, row, strict=True)
        ]
        drawn.add_row(*(Text(cell) for cell, column in zip(cells, columns, strict=True) if column))
    console.print(drawn)
    console.print(Text(headline(result), style="bold"))
    console.print(Text(table.notes[0], style="dim"))
    for finding in findings(result):
        console.print(Text(f"{finding.severity}: {finding.where}: {finding.seen}", style=STYLES[finding.severity]))
        console.print(Text(f"  {finding.instead}", style="dim"))
