"""A small plot of a schedule for notebooks: the expression, and its curves as inline SVG, without matplotlib."""

from __future__ import annotations

import math
from html import escape

from stepwell.errors import UsageError
from stepwell.schedules.base import Schedule
from stepwell.schedules.draw import _limits, points

WIDTH, HEIGHT, LEFT, BELOW = 360, 110, 52, 18  # of the whole picture, and the room for the numbers of its axes
_POINTS = 240  # per curve, and those where parts join
_RUNS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # updates of runs that a schedule of fractions is drawn over
_CURVES = 6  # beyond the default: factors of groups that are drawn
_TEXT = 400  # characters of an expression that are shown
_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")


def html(schedule: Schedule) -> str:
    """The expression and its plot; only the expression if its values are not finite."""
    text = str(schedule)
    shown = text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
    title = f"<code>{escape(shown)}</code>"
    try:
        return f"<div>{title}<br>{svg(schedule)}</div>"
    except (UsageError, ArithmeticError, ValueError, TypeError):  # a user's own function may raise these
        return f"<div>{title}</div>"


def svg(schedule: Schedule) -> str:
    """The curve of a schedule, and the curves of the first few groups with their own factor.

    Raises UsageError for a schedule that cannot be drawn.
    """
    whole = schedule if schedule.resolved else _over_some_run(schedule)
    steps = _steps(whole)
    keys = list(dict.fromkeys(whole.group_keys()))[:_CURVES]
    curves = [("", whole), *((str(key), whole.for_group(key)) for key in keys)]
    drawn = [(name, *points(curve, steps, _POINTS)) for name, curve in curves]
    low, high = _limits([value for _, _, values in drawn for value in values])
    last = max(at[-1] for _, at, _ in drawn)
    lines = [
        f'<polyline points="{_path(at, values, last, low, high)}" fill="none" stroke="{color}" stroke-width="1.5">'
        f"<title>{escape(name or 'factor')}</title></polyline>"
        for (name, at, values), color in zip(drawn, _COLORS, strict=False)
    ]
    right = f"{last}" if schedule.resolved else f"of {last + 1}" if _has_steps(schedule) else "100 %"
    bottom = HEIGHT - BELOW
    numbers = [
        _label(LEFT - 4, 12, "end", f"{high:.4g}"),
        _label(LEFT - 4, bottom, "end", f"{low:.4g}"),
        _label(LEFT, HEIGHT - 4, "start", "0"),
        _label(WIDTH - 4, HEIGHT - 4, "end", right),
    ]
    if len(drawn) > 1:
        names = "".join(
            f'<tspan fill="{color}" dx="6">{escape(name or "others")}</tspan>'
            for (name, _, _), color in zip(drawn, _COLORS, strict=False)
        )
        numbers.append(f'<text x="{WIDTH // 2}" y="{HEIGHT - 4}" font-size="10" text-anchor="middle">{names}</text>')
    axes = f'<path d="M{LEFT} 4V{bottom}H{WIDTH - 4}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" font-family="sans-serif">{axes}{"".join(lines)}{"".join(numbers)}</svg>'
    )


def _over_some_run(schedule: Schedule) -> Schedule:
    """The schedule over the shortest run, of a few lengths, that it fits."""
    for run in _RUNS[:-1]:
        try:
            return schedule.over(run)
        except UsageError:  # its parts in steps are longer than this run
            continue
    return schedule.over(_RUNS[-1])


def _has_steps(schedule: Schedule) -> bool:
    """Whether a part has its length in steps, so that an axis in per cent of the run would be wrong."""
    parts = schedule._parts()
    return any(map(_has_steps, parts)) if parts else isinstance(schedule._length(), int)


def _steps(schedule: Schedule) -> int | None:
    """The number of updates to draw: None for all, if the schedule ends."""
    if schedule.horizon is not None:
        return None
    bends = [schedule._last_begins(), *schedule._joins()]
    if math.isfinite(schedule._end):
        bends.append(int(schedule._end))
    return max(bends) * 5 // 4 + 1 if max(bends) > 0 else _RUNS[0]


def _path(at: list[int], values: list[float], last: int, low: float, high: float) -> str:
    across, down = WIDTH - LEFT - 4, HEIGHT - BELOW - 8
    places = [
        (LEFT + step / max(last, 1) * across, 6 + (high - value) / (high - low) * down)
        for step, value in zip(at, values, strict=True)
    ]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _label(x: int, y: int, anchor: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="10" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'
