"""Plots of a schedule: in the terminal, and with matplotlib."""

from __future__ import annotations

import math
from bisect import bisect_left
from pathlib import Path
from typing import Any

from stepwell import arguments
from stepwell.arguments import flag, number, refusal, whole
from stepwell.errors import MissingExtra, UsageError, printable
from stepwell.schedules.base import Schedule

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille: rows from the top, (left, right)
_WIDEST = 1_000  # characters
_HIGHEST, _LOWEST = 1e300, 1e-290  # of what is drawn; the ticks between must be numbers, too
_MANY = 20_000  # points after which steps are left out; where parts join, none is


def points(schedule: Schedule, steps: int | None = None, most: int = _MANY) -> tuple[list[int], list[float]]:
    """Steps and factors to plot: all of them, or `most` evenly spaced steps and the steps at which parts join.

    Args:
        schedule: with all lengths in steps.
        steps: how many updates; the horizon by default.
        most: at least 2.
    """
    if not isinstance(schedule, Schedule):
        raise refusal("draw", "schedule", schedule, "a schedule, as cosine(9500)")
    most = whole("draw", "most", most, least=2)
    count = schedule._count(steps)
    if steps is not None:
        schedule(count - 1)  # refuses here if it ends before
    if count <= most:
        at = list(range(count))
    else:
        spread = {round(i * (count - 1) / (most - 1)) for i in range(most)}
        joins = {step for join in schedule._joins() for step in (join - 1, join) if 0 <= step < count}
        at = sorted(spread | joins)
    return at, [schedule(k) for k in at]


def draw(
    schedule: Schedule,
    *,
    lr: float = 1.0,
    steps: int | None = None,
    width: int = 78,
    height: int = 14,
    plain: bool = False,
) -> str:
    """The schedule as text: a curve with its axes, and a line of numbers.

    Args:
        schedule: with all lengths in steps (`over` makes it so).
        lr: the value that the factors multiply.
        steps: how many updates to show; the horizon by default.
        width, height: size of the plot in characters, at least 30 and 4.
        plain: ASCII only, for terminals without braille characters.

    >>> print(draw(trapezoid(100, warmup=20), lr=0.1, width=42, height=4, plain=True))
      0.1 |     ***********************
          |   ***                      **
     0.05 | ***                         ****
        0 |**                              ***
          ++----------------+----------------+
           0               50               99
    first 0.005, peak 0.1 at step 19, last 0.002532, mean 0.0777
    """
    lr = number("draw", "lr", lr, least=0)
    width = whole("draw", "width", width, least=30, most=_WIDEST)
    height = whole("draw", "height", height, least=4, most=_WIDEST)
    plain = flag("draw", "plain", plain)
    at, factors = points(schedule, steps)
    values = _multiplied(schedule, lr, factors)
    low, high = _limits(values)
    ticks = _ticks(low, high, 3 if height < 10 else 5)
    labels = _numbers(ticks)
    margin = max(len(label) for label in labels) + 1
    columns = width - margin - 2
    label_of = {_row(tick, low, high, height): label for tick, label in zip(ticks, labels, strict=True)}
    if not label_of.keys() & {0, 1}:
        label_of[0] = f"{high:.4g}"
        margin = max(margin, len(label_of[0]) + 1)
        columns = width - margin - 2
    grid = _plain_grid if plain else _braille_grid
    rows = grid(at, values, columns, height, low, high)
    bar, cross, corner, line, tee = "|||-+" if plain else "│┤└─┬"
    corner = "+" if plain else corner
    picture = [
        f"{label_of.get(i, ''):>{margin}} {cross if i in label_of else bar}{row}".rstrip() for i, row in enumerate(rows)
    ]
    axis, under = _bottom(at, columns, margin + 2, line, tee)
    picture += [f"{'':>{margin}} {corner}{axis}", under, summary(at, values, schedule)]
    return "\n".join(picture)


def _multiplied(schedule: Schedule, lr: float, factors: list[float]) -> list[float]:
    values = [float(lr) * factor for factor in factors]
    high = max(values)
    if not high <= _HIGHEST:
        raise UsageError(f"{schedule} times lr={lr:g} reaches {high:g}, too large to draw; use a smaller lr")
    return [value if value >= _LOWEST else 0.0 for value in values] if min(values) >= 0 else values


def summary(at: list[int], values: list[float], schedule: Schedule) -> str:
    """The numbers that a plot does not show exactly."""
    top = max(range(len(values)), key=values.__getitem__)
    mean = math.fsum(values) / len(values)
    parts = [
        f"first {values[0]:.4g}",
        f"peak {values[top]:.4g} at step {at[top]}",
        f"last {values[-1]:.4g}",
        f"mean {mean:.3g}",
    ]
    return ", ".join(parts) + ("" if at[-1] + 1 == schedule.horizon else f" (the first {at[-1] + 1} steps)")


def _limits(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if high == low:
        low, high = (0.0, high) if high > 0 else (0.0, 1.0)
    return low, high


def _row(value: float, low: float, high: float, rows: int) -> int:
    return round((high - value) / (high - low) * (rows - 1))


def _column(step: int, last: int, columns: int) -> int:
    return round(step / last * (columns - 1)) if last else 0


def _trace(
    at: list[int], values: list[float], columns: int, rows: int, low: float, high: float
) -> list[tuple[int, int]]:
    """For each column, the highest and the lowest row of the curve; columns are connected."""
    last = at[-1]
    spans: list[tuple[int, int]] = []
    for column in range(columns):
        begin = bisect_left(at, (column - 0.5) / (columns - 1) * last)
        end = max(bisect_left(at, (column + 0.5) / (columns - 1) * last), begin + 1)
        here = [_row(v, low, high, rows) for v in values[begin:end]]
        if not here:  # fewer steps than columns: the value of the step before
            here = [_row(values[max(0, min(begin, len(values)) - 1)], low, high, rows)]
        top, bottom = min(here), max(here)
        if spans:
            before_top, before_bottom = spans[-1]
            if top > before_bottom + 1:
                top = before_bottom + 1
            elif bottom < before_top - 1:
                bottom = before_top - 1
        spans.append((top, bottom))
    return spans


def _plain_grid(at: list[int], values: list[float], columns: int, rows: int, low: float, high: float) -> list[str]:
    cells = [[" "] * columns for _ in range(rows)]
    for column, (top, bottom) in enumerate(_trace(at, values, columns, rows, low, high)):
        for row in range(top, bottom + 1):
            cells[row][column] = "*"
    return ["".join(row) for row in cells]


def _braille_grid(at: list[int], values: list[float], columns: int, rows: int, low: float, high: float) -> list[str]:
    cells = [[0] * columns for _ in range(rows)]
    for column, (top, bottom) in enumerate(_trace(at, values, 2 * columns, 4 * rows, low, high)):
        for row in range(top, bottom + 1):
            cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]


def _bottom(at: list[int], columns: int, margin: int, line: str, tee: str) -> tuple[str, str]:
    """The axis of steps with its ticks and tick labels."""
    last = at[-1]
    wide = len(str(last)) + 2
    marks = {round(tick) for tick in _ticks(0, last, max(2, (columns - wide) // (wide + 4)))}
    marks = {mark for mark in marks if _column(last - mark, last, columns) > wide}  # room for the last step's number
    axis = [line] * columns
    under = [" "] * (margin + columns)
    for mark in (*sorted(marks), last):
        column = _column(mark, last, columns)
        axis[column] = tee
        begin = min(margin + column - len(str(mark)) // 2, len(under) - len(str(mark)))
        under[begin : begin + len(str(mark))] = str(mark)
    return "".join(axis), "".join(under).rstrip()


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from low to high, or one more if they fit badly."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    spacing = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / spacing - 1e-9)
    return [i * spacing for i in range(first, math.floor(high / spacing + 1e-9) + 1)] or [low]


def _numbers(values: list[float]) -> list[str]:
    return ["0" if value == 0 else f"{value:.4g}" for value in values]


def plot(schedule: Schedule, *, ax: Any = None, lr: float = 1.0, steps: int | None = None) -> Any:
    """Plot with matplotlib; see `Schedule.plot`."""
    lr = number("plot", "lr", lr, least=0)
    if ax is not None and not _is_axes(ax):
        raise refusal("plot", "ax", ax, "axes of matplotlib, or None")
    at, factors = points(schedule, steps)
    values = _multiplied(schedule, lr, factors)
    if ax is None:
        figure = _figure()
        ax = figure.add_subplot()
    ax.plot(at, values, linewidth=1.8, label=printable(str(schedule)))
    kind = "value" if schedule.absolute else "factor" if lr == 1.0 else "learning rate"
    ax.set(xlabel="step", ylabel=kind, xlim=(0, max(1, at[-1])))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.yaxis.set_major_formatter("{x:.3g}")
    ax.grid(True, alpha=0.3)
    return ax


def _is_axes(ax: Any) -> bool:
    try:
        return callable(getattr(ax, "set_ylim", None)) and not isinstance(ax, type)
    except Exception:  # a method of the user's own may raise anything
        return False


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "tools", "drawing a schedule") from None
    return Figure(figsize=(7.2, 3.6), layout="constrained")


def save(schedule: Schedule, path: str | Path, *, lr: float = 1.0, steps: int | None = None) -> Path:
    """Write the plot to a file (.png, .svg or .pdf) and return its path.

    Raises UsageError for another file extension, or a folder that does not exist; MissingExtra without matplotlib.
    """
    target = arguments.path("save", "path", path)
    said = printable(str(target))[:200]
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{said}: plots are written as .png, .svg or .pdf; use one of these file extensions")
    if not target.parent.is_dir():
        raise UsageError(f"{said}: the folder {printable(str(target.parent))[:200]} does not exist; create it first")
    if target.exists() and not target.is_file():
        raise UsageError(f"{said}: the path exists and is not a file; give another name")
    ax = plot(schedule, lr=lr, steps=steps)
    title = printable(str(schedule))
    title = title if len(title) <= 90 else f"{title[:87]}..."
    ax.set_title(title, fontsize=9, loc="left", parse_math=False)  # a dollar sign in the name of a group is no formula
    try:
        ax.figure.savefig(target, dpi=150)
    except OSError as error:
        raise UsageError(f"{said}: cannot be written: {error.strerror or error}") from None
    return target
