"""Heat maps as plotly figures."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stepwell.curves import HeatMap

NAMES = 28  # of rows that are written on the axis; the others are named where the pointer is
LONGEST = 26  # characters of a name on the axis


def heat(heat_map: HeatMap) -> list[dict[str, Any]]:
    """The cells, with a scale above them."""
    return [
        {
            "type": "heatmap",
            "x": list(heat_map.x),
            "y": named(heat_map),
            "z": [list(row) for row in heat_map.z],
            "zmin": heat_map.low,
            "zmax": heat_map.high,
            "colorscale": [[0, "var(--cold)"], [0.5, "var(--even)"], [1, "var(--hot)"]],
            "hoverongaps": False,
            "hovertemplate": f"%{{y}}<br>{heat_map.x_label or 'x'} %{{x:.6~g}}, <b>%{{z:.2f}}</b><extra></extra>",
            "colorbar": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
                "len": 1,
                "thickness": 8,
                "outlinewidth": 0,
                "ticks": "",
                "ticklabelposition": "outside top",
                "title": {"text": heat_map.label, "side": "top", "font": {"size": 13, "color": "var(--muted)"}},
            },
        }
    ]


def heat_layout(heat_map: HeatMap) -> dict[str, Any]:
    """The axes: the first row is on top, and not every name of many rows is written."""
    rows = named(heat_map)
    every = -(-len(rows) // NAMES) or 1
    return {
        "xaxis": {"title": {"text": heat_map.x_label}, "showgrid": False},
        "yaxis": {
            "title": {"text": ""},
            "type": "category",
            "autorange": "reversed",
            "showgrid": False,
            "tickvals": rows[::every],
            "ticktext": [short(row) for row in rows[::every]],
        },
        "margin": {"l": 20, "r": 12, "t": 74, "b": 56},  # room for the scale: plotly makes too little for it
        "showlegend": False,
        "hovermode": "closest",
    }


def named(heat_map: HeatMap) -> list[str]:
    """The names of the rows, each once: plotly draws rows of one name on top of one another."""
    seen: Counter[str] = Counter()
    names = []
    for row in heat_map.rows:
        seen[row] += 1
        names.append(row if seen[row] == 1 else f"{row} ({seen[row]})")
    return names


def short(name: str) -> str:
    """The name without its beginning if it is long: layers of one model differ at the end.

    >>> short("model.decoder.layers.11.self_attn.q_proj")
    '…ayers.11.self_attn.q_proj'
    """
    return name if len(name) <= LONGEST else "…" + name[len(name) + 1 - LONGEST :]
