"""The curves of `bench/accuracy.py` as a picture.

    python bench/accuracy_figure.py FIGURES.json PICTURE.png

Above, the held-out loss; below, the same minus the mean of fp32's seeds, where small differences show. The grey band
runs from fp32's lowest to its highest seed; lines are means over seeds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

COLOURS = {
    "bf16": "#2a7bb8",
    "int8": "#1b9e77",
    "int4": "#d98600",
    "split": "#1b9e77",
    "stochastic": "#2a7bb8",
    "native": "#c0392b",
}


def draw(figures: dict[str, Any], path: str) -> None:
    """Write the picture: a column per task and kind of format."""
    from matplotlib.figure import Figure

    names = list(figures["best lr"])
    figure = Figure(figsize=(4.2 * 2 * len(names), 6.4), layout="constrained")
    axes = figure.subplots(2, 2 * len(names), sharex="col", squeeze=False)
    for place, task in enumerate(names):
        for side, kind in enumerate(("state", "bf16 weights")):
            _column(axes[:, 2 * place + side], figures, task, kind)
    figure.savefig(path, dpi=110)


def _column(axes: Any, figures: dict[str, Any], task: str, kind: str) -> None:
    groups = _groups(figures, task)
    best = figures["best lr"][task]["fp32"]
    steps, reference = groups.pop(("state fp32", best))
    mean = reference.mean(axis=0)
    for axis, base in zip(axes, (0.0, mean), strict=True):
        axis.fill_between(
            steps, reference.min(axis=0) - base, reference.max(axis=0) - base, color="0.85", label="fp32, its seeds"
        )
        axis.plot(steps, mean - base, color="0.25", linewidth=1.2, label="fp32, mean")
        for (label, lr), (at, losses) in groups.items():
            if not label.startswith(kind):
                continue
            word = label.removeprefix(kind).strip(" ,")
            own = lr != best
            axis.plot(
                at,
                losses.mean(axis=0) - base,
                color=COLOURS[word],
                linestyle=(0, (1, 1.5)) if own else "-",
                linewidth=1.6,
                label=f"{word}, lr {lr:g} (best for it)" if own else word,
            )
        axis.grid(alpha=0.25)
    last = len(steps) // 4  # the first evaluations are far above all others
    top, bottom = axes
    top.set_title(f"{task}: {'state' if kind == 'state' else 'bf16 weights'}, lr {best:g}", fontsize=10)
    top.set_ylabel("held-out loss, nats")
    top.set_ylim(top=float(reference.max(axis=0)[last // 2]) * 1.02)
    top.legend(fontsize=8)
    drawn = [values - mean for (label, _), (_, values) in groups.items() if label.startswith(kind)]
    seen = [(values.mean(axis=0))[last:] for values in drawn] + [(reference - mean)[:, last:].ravel()]
    low, high = min(v.min() for v in seen), max(v.max() for v in seen)
    bottom.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    bottom.set_ylabel("minus the mean of fp32")
    bottom.set_xlabel("steps")


def _groups(figures: dict[str, Any], task: str) -> dict[tuple[str, float], tuple[list[int], np.ndarray]]:
    """(label, lr) -> the steps, and held-out losses [seeds, evaluations]; the tuning runs are left out."""
    found: dict[tuple[str, float], list[Any]] = {}
    for curve in figures["curves"]:
        run = curve["run"]
        if run["task"] == task and run["seed"] != 0:
            found.setdefault((run["form"]["label"], run["lr"]), []).append(curve)
    return {key: (curves[0]["steps"], np.array([c["losses"] for c in curves])) for key, curves in found.items()}


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        draw(json.load(file), sys.argv[2])
