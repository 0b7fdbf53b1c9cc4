"""The lines across a chart, and their labels, which do not cover one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stepwell.curves import Chart, Mark

LETTER = 0.023  # of the chart's width: a letter of a label where the chart is 310 pixels wide, on a phone
HIGH = 16  # pixels from one line of labels to the next


def lines(marks: Sequence[Mark]) -> list[dict[str, Any]]:
    """The marks as plotly's shapes."""
    return [_line(mark) for mark in marks]


def _line(mark: Mark) -> dict[str, Any]:
    along, across = ("x", "y") if mark.axis == "y" else ("y", "x")
    return {
        "type": "line",
        f"{along}ref": "paper",
        f"{along}0": 0,
        f"{along}1": 1,
        f"{across}0": mark.value,
        f"{across}1": mark.value,
        "line": {"color": "var(--muted)", "width": 1, "dash": "dash"},
    }


def labels(chart: Chart) -> list[dict[str, Any]]:
    """The labels of the marks as plotly's annotations; a mark without a label has none."""
    named = [mark for mark in chart.marks if mark.label]
    across = [_across(mark, chart) for mark in named if mark.axis == "y"]
    return across + _upright([mark for mark in named if mark.axis == "x"], chart)


def _across(mark: Mark, chart: Chart) -> dict[str, Any]:
    value = math.log10(mark.value) if chart.log_y and mark.value > 0 else mark.value
    ends = [curve.y[-1] for curve in chart.curves if len(curve.y) and curve.y[-1] is not None]
    above = 2 * sum(end > mark.value for end in ends if end is not None) > len(ends)
    # on the side of the line where the curves do not end
    place = {"xref": "paper", "x": 1, "xanchor": "right", "y": value, "yanchor": "top" if above else "bottom"}
    return {**place, **_text(mark)}


def _upright(marks: Sequence[Mark], chart: Chart) -> list[dict[str, Any]]:
    """Labels at the top, next to their lines, each on the first line of text where there is room."""
    seen = [_position(value, chart) for curve in chart.curves for value in curve.x]
    seen += [_position(mark.value, chart) for mark in marks]
    low, width = min(seen, default=0.0), max(seen, default=1.0) - min(seen, default=0.0) or 1.0
    taken: list[list[tuple[float, float]]] = []
    made = []
    for mark in sorted(marks, key=lambda mark: mark.value):
        at = _position(mark.value, chart)
        long = LETTER * (len(mark.label) + 1) * width
        is_right = at + long > low + width  # there the label would leave the chart
        begin, end = (at - long, at) if is_right else (at, at + long)
        row = next(
            (n for n, spans in enumerate(taken) if all(end <= left or right <= begin for left, right in spans)),
            len(taken),
        )
        taken += [[]] if row == len(taken) else []
        taken[row].append((begin, end))
        place = {"yref": "paper", "y": 1, "yanchor": "top", "x": at, "xanchor": "right" if is_right else "left"}
        made.append({**place, **({"yshift": -HIGH * row} if row else {}), **_text(mark), "bgcolor": "var(--card)"})
    return made


def _position(value: float, chart: Chart) -> float:
    return math.log10(value) if chart.log_x and value > 0 else value


def _text(mark: Mark) -> dict[str, Any]:
    return {"text": mark.label, "showarrow": False, "font": {"size": 12, "color": "var(--muted)"}}
