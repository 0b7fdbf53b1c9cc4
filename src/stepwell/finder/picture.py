"""The curve of a range test as a small plot for notebooks, without matplotlib."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.finder.result import FoundLR

WIDTH, HEIGHT, EDGE = 360, 120, 6


def svg(found: FoundLR) -> str:
    """Loss over lr, the rates on a logarithmic axis, with a line at the suggestion; empty if there is no curve."""
    points = [(math.log(x), y) for x, y in zip(found.curve.x, found.curve.y, strict=True) if y is not None]
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if len(points) < 2:
        return ""
    left, right = points[0][0], points[-1][0]
    low = min(y for _, y in points)
    top = max(y for _, y in points[: max(2, len(points) // 2)])  # how high it blows up at the end is of no interest
    high = max(top, low + (abs(low) or 1.0) * 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        across = EDGE + (x - left) / (right - left) * (WIDTH - 2 * EDGE)
        down = EDGE + (high - y) / (high - low) * (HEIGHT - 2 * EDGE)
        return round(across, 1), round(max(0.0, min(float(HEIGHT), down)), 1)

    line = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
    mark = ""
    if found.suggestion is not None:
        x, _ = at(math.log(found.suggestion), low)
        mark = f'<line x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}" stroke="#d9541e" stroke-width="2"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" role="img">'
        f"<title>loss over learning rate, {found.curve.x[0]:.2g} to {found.curve.x[-1]:.2g}</title>"
        f'<polyline points="{line}" fill="none" stroke="#2667c9" stroke-width="2"/>{mark}</svg>'
    )
