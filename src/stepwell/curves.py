"""The data of reports: curves, charts of curves, and tables. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from stepwell.findings import Finding

Cell = str | int | float | None
Style = Literal["line", "faint", "dashed", "line+points", "points", "hollow", "crosses", "star"]


@dataclass(frozen=True)
class Curve:
    """One curve of a chart: y over x, with an optional band around it.

    Attributes:
        name: the name in the legend. Curves with equal names have the same color on the whole page.
        x, y: [n] values; a None in y is a gap.
        low, high: [n] edges of the band, or both None.
        x_label, y_label: labels of the axes, with the unit: `"step"`, `"loss, nats per byte"`.
        style: the line style: `"line"`, `"faint"`, `"dashed"`, `"line+points"`; or points without a line: `"points"`,
            `"hollow"`, `"crosses"`, `"star"`.
        labels: [n] a label for each point, shown in addition to x and y, or None.

    Raises ValueError if the lengths differ or only one edge of the band is given.

    >>> Curve("adamw", x=(0, 10), y=(2.3, 0.4), x_label="step", y_label="loss").y[-1]
    0.4
    """

    name: str
    x: Sequence[float] = field(repr=False)
    y: Sequence[float | None] = field(repr=False)
    low: Sequence[float | None] | None = field(default=None, repr=False)
    high: Sequence[float | None] | None = field(default=None, repr=False)
    x_label: str = ""
    y_label: str = ""
    style: Style = "line"
    labels: Sequence[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"curve '{self.name}': a band needs both low and high")
        for label in ("y", "low", "high", "labels"):
            values = getattr(self, label)
            if values is not None and len(values) != len(self.x):
                raise ValueError(f"curve '{self.name}': {label} has {len(values)} values, x has {len(self.x)}")


@dataclass(frozen=True)
class Mark:
    """A line across the chart at a value: the target, the minimum."""

    label: str
    value: float
    axis: Literal["x", "y"] = "y"


@dataclass(frozen=True)
class Heights:
    """Heights over a plane, drawn as contours behind the curves.

    Attributes:
        x: [n] and y: [m] the grid's coordinates.
        z: [m][n] the height at (x, y), or None; `log` draws its logarithm, for valleys.
        points: places to mark, such as the minima: (x, y) each.
    """

    x: Sequence[float]
    y: Sequence[float]
    z: Sequence[Sequence[float | None]]
    points: Sequence[tuple[float, float]] = ()
    log: bool = False


@dataclass(frozen=True)
class HeatMap:
    """Values of named rows over x, drawn as colors. The middle of the scale is neutral.

    Attributes:
        x: [n] increasing. rows: [m] the names of the rows, the first on top; equal names are numbered.
        z: [m][n] the values, or None for an empty cell.
        low, high: the ends of the color scale; values beyond an end have the color of the end.
        label: what a value is. x_label: the label of the x axis.

    Raises ValueError if the lengths differ.
    """

    x: Sequence[float] = field(repr=False)
    rows: Sequence[str] = field(repr=False)
    z: Sequence[Sequence[float | None]] = field(repr=False)
    low: float
    high: float
    label: str = ""
    x_label: str = ""

    def __post_init__(self) -> None:
        if len(self.z) != len(self.rows):
            raise ValueError(f"heat map '{self.label}': z has {len(self.z)} rows, and there are {len(self.rows)} names")
        for row in self.z:
            if len(row) != len(self.x):
                raise ValueError(f"heat map '{self.label}': a row has {len(row)} values, x has {len(self.x)}")


@dataclass(frozen=True)
class Chart:
    """Curves that share one pair of axes.

    Attributes:
        title: one short line. note: the conclusion for the reader, or empty.
        curves: the lines, in the order of the legend; the first one names the axes.
        marks: lines across. heights: contours behind the curves, for the path of a point in a plane.
        heat_map: colors instead of curves.
        log_x, log_y: logarithmic axes.
        y_window: the initially visible part of the y axis, (low, high), or None for the whole axis.
    """

    title: str
    curves: Sequence[Curve]
    note: str = ""
    marks: Sequence[Mark] = ()
    heights: Heights | None = None
    heat_map: HeatMap | None = None
    log_x: bool = False
    log_y: bool = False
    y_window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """A table for readers: cells are text, or numbers that are already rounded.

    Attributes:
        title: one short line, or empty. columns: [c] headings. rows: [r][c] cells; None is an empty cell.
        notes: sentences below the table.

    Raises ValueError if a row and the columns differ in length.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table '{self.title}': a row of {len(row)} cells under {len(self.columns)} columns")

    def text(self) -> str:
        """The table as aligned plain text, the title above and the notes below.

        >>> print(Table(["name", "lr"], [["sgd", 0.1], ["lion", None]]).text())
        name   lr
        sgd   0.1
        lion    -
        """
        lines = [list(self.columns), *([_cell(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        return "\n".join([*([self.title] if self.title else []), *(line.rstrip() for line in aligned), *self.notes])

    def html(self) -> str:
        """The table as HTML for a notebook; all text is escaped."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        title = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in self.notes)
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a paragraph, then tables, charts and findings in the order given."""

    title: str
    items: Sequence[Table | Chart | Finding] = ()
    text: str = ""


def _cell(cell: Cell) -> str:
    return "-" if cell is None else str(cell)
