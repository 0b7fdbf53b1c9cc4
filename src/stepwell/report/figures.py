"""Charts as plotly figures: plain dicts of traces and layout. Colors are names until the page is shown.

A color is `var(--series-1)` and the like; the page's script inserts the value of the reader's theme, so that one
figure works for light and dark themes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from stepwell.curves import Chart, Curve
from stepwell.report.heat import heat, heat_layout
from stepwell.report.marks import labels, lines

SERIES = 8  # colors in the palette; a ninth name starts again with another dash
SALT = 176  # so that the eight optimizers that are compared most have eight colors
DASHES = ("solid", "dash", "dot")
SYMBOLS = {"hollow": "circle-open", "crosses": "x-thin-open", "star": "star"}


def slots(charts: Sequence[Chart]) -> dict[str, int]:
    """The color of each curve's name on a whole page. A name has the same color on every page, as far as no other name
    on the page has it already.

    >>> one = slots([Chart("a", [Curve("SGD", [], []), Curve("Lion", [], [])]), Chart("b", [Curve("Lion", [], [])])])
    >>> one == slots([Chart("c", [Curve("Lion", [], []), Curve("SGD", [], [])])])
    True
    """
    names = sorted({curve.name for chart in charts for curve in chart.curves}, key=lambda name: (len(name), name))
    found: dict[str, int] = {}
    for name in names:  # plain names first, then those with settings
        wanted = crc32(f"{SALT}{name}".encode("utf-8", "backslashreplace")) % SERIES
        free = ((wanted + step) % SERIES + SERIES * turn for turn in range(len(names)) for step in range(SERIES))
        taken = set(found.values())
        found[name] = next((slot for slot in free if slot not in taken), len(found))
    return found


def figure(chart: Chart, colors: Mapping[str, int]) -> dict[str, Any]:
    """The chart as plotly's `{"data": [...], "layout": {...}}`, JSON-ready."""
    if chart.heat_map is not None:
        return {"data": heat(chart.heat_map), "layout": heat_layout(chart.heat_map)}
    traces: list[dict[str, Any]] = []
    if chart.heights is not None:
        traces += _contours(chart)
    bands = [_band(curve, colors[curve.name]) for curve in chart.curves if curve.low is not None]
    traces += [trace for pair in bands for trace in pair]  # behind all the lines
    named: set[str] = set()
    for curve in chart.curves:
        shown = curve.name not in named and curve.style != "faint"
        traces.append(_line(curve, colors[curve.name], legend=shown))
        named |= {curve.name} if shown else set()
    return {"data": traces, "layout": _layout(chart, legend=len(named) > 1)}


def color(slot: int, what: str = "series") -> str:
    """The name of a palette entry."""
    return f"var(--{what}-{slot % SERIES + 1})"


def _line(curve: Curve, slot: int, legend: bool) -> dict[str, Any]:
    dash = "dash" if curve.style == "dashed" else DASHES[slot // SERIES % len(DASHES)]
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": curve.name,
        "legendgroup": curve.name,
        "showlegend": legend,
        "x": list(curve.x),
        "y": list(curve.y),
        "line": {"color": color(slot), "width": 2, "dash": dash},
        "marker": {"color": color(slot), "size": 7},
        "hovertemplate": "%{x:.6~g}, <b>%{y:.4~g}</b>" + (" · %{text}" if _says(curve) else ""),
    }
    if curve.style in ("line", "dashed"):
        trace["mode"] = "lines"
    elif curve.style == "faint":
        trace |= {"mode": "lines", "opacity": 0.4}
        trace["line"]["width"] = 1
    elif curve.style == "line+points":
        trace["mode"] = "lines+markers"
    else:
        trace["mode"] = "markers"
    if curve.style in SYMBOLS:
        size = {"star": 17, "crosses": 8, "hollow": 8}[curve.style]
        outline = {"color": "var(--card)" if curve.style == "star" else color(slot), "width": 2}
        trace["marker"] = {"symbol": SYMBOLS[curve.style], "size": size, "color": color(slot), "line": outline}
    if _says(curve):
        trace["text"] = list(curve.labels or ())
    return trace


def _says(curve: Curve) -> bool:
    return curve.labels is not None and any(curve.labels)


def _band(curve: Curve, slot: int) -> list[dict[str, Any]]:
    """A band: two invisible edges with the area between them filled."""
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": list(curve.x),
        "line": {"width": 0, "color": color(slot)},
        "legendgroup": curve.name,
        "showlegend": False,
        "hoverinfo": "skip",
    }
    return [
        {**edge, "y": list(curve.low or ())},
        {**edge, "y": list(curve.high or ()), "fill": "tonexty", "fillcolor": color(slot, "band")},
    ]


def _contours(chart: Chart) -> list[dict[str, Any]]:
    assert chart.heights is not None
    heights = chart.heights
    z: list[list[float | None]] = [list(row) for row in heights.z]
    if heights.log:
        z = [[None if value is None else math.log10(max(value, 1e-12)) for value in row] for row in z]
        known = sorted(value for row in z for value in row if value is not None)
        if known:  # one cell at the very minimum must not take most of the scale
            floor = known[len(known) // 50]
            z = [[None if value is None else round(max(value, floor), 4) for value in row] for row in z]
    return [
        {
            "type": "contour",
            "x": list(heights.x),
            "y": list(heights.y),
            "z": z,
            "ncontours": 18,
            "showscale": False,
            "hoverinfo": "skip",
            "line": {"width": 0.6, "color": "var(--contour)"},
            "colorscale": [[0, "var(--low)"], [1, "var(--high)"]],
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": [point[0] for point in heights.points],
            "y": [point[1] for point in heights.points],
            "marker": {
                "symbol": "star",
                "size": 14,
                "color": "var(--ink)",
                "line": {"color": "var(--card)", "width": 1},
            },
            "hovertemplate": "minimum at %{x:.3~g}, %{y:.3~g}<extra></extra>",
            "showlegend": False,
        },
    ]


def _layout(chart: Chart, legend: bool) -> dict[str, Any]:
    first = chart.curves[0] if chart.curves else Curve("", [], [])
    x = _axis(first.x_label, [v for curve in chart.curves for v in curve.x] if chart.log_x else None)
    seen = [v for curve in chart.curves for values in (curve.y, curve.low, curve.high) for v in values or ()]
    y = _axis(first.y_label, seen + [mark.value for mark in chart.marks] if chart.log_y else None)
    if chart.y_window is not None:
        y |= {"range": list(chart.y_window), "autorange": False}
    layout: dict[str, Any] = {
        "xaxis": x,
        "yaxis": y,
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "hovermode": "closest" if chart.heights is not None or chart.log_x else "x unified",
        "shapes": lines(chart.marks),
        "annotations": labels(chart),
    }
    if chart.heights is not None:
        x |= {"range": [chart.heights.x[0], chart.heights.x[-1]], "autorange": False, "showgrid": False}
        y |= {"range": [chart.heights.y[0], chart.heights.y[-1]], "autorange": False, "showgrid": False}
    return layout


def _axis(label: str, values: Sequence[float | None] | None) -> dict[str, Any]:
    """An axis; logarithmic over `values` if given."""
    axis: dict[str, Any] = {"title": {"text": label}}
    if values is not None:
        ticks = decades([value for value in values if value is not None])
        axis |= {"type": "log", "tickvals": ticks, "ticktext": [said(tick) for tick in ticks]}
    return axis


def decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around the positive values, reduced to at most nine; within two decades, also 2 and 5 times these.

    >>> decades([3e-4, 0.2]), decades([0.3, 0.9])
    ([0.0001, 0.001, 0.01, 0.1, 1.0], [0.1, 0.2, 0.5, 1.0])
    """
    exponents = [math.log10(value) for value in values if value > 0] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    if 0 < high - low <= 2:
        return [float(f"{first}e{exponent}") for exponent in range(low, high) for first in (1, 2, 5)] + [10.0**high]
    stride = max(1, math.ceil((high - low) / 8))
    return [float(f"1e{exponent}") for exponent in range(low, high + 1, stride)]


def said(tick: float) -> str:
    """A power of ten, or a multiple of one, as usually written.

    >>> said(0.001), said(1e-05), said(100.0), said(2e-05)
    ('0.001', '1e-5', '100', '2e-5')
    """
    digits, _, exponent = f"{tick:e}".partition("e")
    return f"{tick:g}" if -4 < int(exponent) < 4 else f"{float(digits):g}e{int(exponent)}"
