"""The page: renders sections as HTML, independent of their meaning."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from stepwell import arguments
from stepwell.curves import Cell, Chart, Section, Table
from stepwell.errors import MissingExtra
from stepwell.files import write_whole
from stepwell.findings import Finding, html
from stepwell.report.figures import figure, slots

SHORT = 28  # characters: a cell up to this long is kept on one line


@dataclass(frozen=True)
class _Figure:
    """A chart as the template needs it."""

    chart: Chart
    id: str
    json: str


def render(title: str, sections: Sequence[Section], lead: str = "", foot: str = "") -> str:
    """One self-contained HTML page.

    `lead` is a sentence below the title, `foot` a line at the end. Curves with equal names have the same color on the
    whole page. Raises MissingExtra without jinja2 or plotly.

    >>> render("stepwell compare: digits", [Section("Result", [Table(["lr"], [[0.1]])])])[:15]
    '<!doctype html>'
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("jinja2", "tools", "an HTML report") from None
    for name, said in (("title", title), ("lead", lead), ("foot", foot)):
        if not isinstance(said, str):
            raise arguments.refusal("report", name, said, "a text")
    sections = arguments.sequence("report", "sections", sections, "a list of stepwell.curves.Section")
    for section in sections:
        if not isinstance(section, Section):
            raise arguments.refusal("report", "a section", section, "a stepwell.curves.Section")
        for name, said in (("title of a section", section.title), ("text of a section", section.text)):
            if not isinstance(said, str):
                raise arguments.refusal("report", name, said, "a text")
        for item in arguments.sequence("report", "items of a section", section.items, "a list"):
            if not isinstance(item, (Table, Chart, Finding)):
                raise arguments.refusal("report", "an item of a section", item, "a Table, a Chart or a Finding")
    charts = [item for section in sections for item in section.items if isinstance(item, Chart)]
    colors = slots(charts)
    drawn = {
        id(chart): _Figure(chart, f"figure-{number}", embedded(figure(chart, colors)))
        for number, chart in enumerate(charts, start=1)
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["kind"] = lambda item: type(item).__name__
    environment.filters["figure"] = lambda chart: drawn[id(chart)]
    environment.filters["columns"] = _columns
    environment.filters["finding"] = html
    template = environment.from_string(_file("page.html.jinja"))
    return template.render(
        title=title, lead=lead, foot=foot, sections=sections, style=_file("page.css"), script=_file("page.js"),
        player=_file("player.js"), plotly=_plotly() if charts else "",
    )  # fmt: skip


def write(path: Path, title: str, sections: Sequence[Section], lead: str = "", foot: str = "") -> Path:
    """Render the page into a file, written atomically. Returns the path.

    Raises UsageError for arguments of another type, and if the file cannot be written.
    """
    path = arguments.path("report.write", "path", path)
    return write_whole(path, render(title, sections, lead, foot))


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element: `</script>` in a text cannot end the element.

    >>> embedded({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """The value with None (a gap in a curve) for every number that JSON cannot represent."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _columns(table: Table) -> list[str]:
    """The style of each column: numbers are right-aligned, long text may wrap."""
    styles = []
    for index in range(len(table.columns)):
        cells = [row[index] for row in table.rows if row[index] is not None]
        if cells and all(_numeric(cell) for cell in cells):
            styles.append("number")
        else:
            styles.append("text" if any(len(str(cell)) > SHORT for cell in cells) else "short")
    return styles


def _numeric(cell: Cell) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


@lru_cache
def _file(name: str) -> str:
    return resources.files("stepwell.report").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtra("plotly", "tools", "an HTML report") from None
    return get_plotlyjs().replace("</script", "<\\/script")
