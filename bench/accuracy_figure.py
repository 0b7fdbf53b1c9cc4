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

DEFAULT_RATE = 1e-3
COLOURS = {
    "bf16": "#2a7bb8",
    "int8": "#1b9e77",
    "int4": "#d98600",
    "split": "#1b9e77",
    "stochastic": "#2a7bb8",
    "native": "#c0392b",
}


def draw(figures: dict[str, Any], path: str) -> None:
    """Write the picture: two rows per task; a column for the state, and one for the weights at each learning rate."""
    from matplotlib.figure import Figure

    tasks = list(figures["best lr"])
    figure = Figure(figsize=(12.5, 5.6 * len(tasks)), layout="constrained")
    axes = figure.subplots(2 * len(tasks), 3, sharex="row", squeeze=False)
    for place, task in enumerate(tasks):
        groups = _groups(figures, task)
        best = figures["best lr"][task]
        for column, (kind, lr) in enumerate((("state", best), ("bf16 weights", best), ("bf16 weights", DEFAULT_RATE))):
            _column(axes[2 * place : 2 * place + 2, column], groups, task, kind, lr)
    figure.savefig(path, dpi=100)


def _column(axes: Any, groups: dict[tuple[str, float], Any], task: str, kind: str, lr: float) -> None:
    steps, reference = groups["state fp32", lr]
    mean = reference.mean(axis=0)
    lines = {
        label.removeprefix(kind).strip(" ,"): losses.mean(axis=0)
        for (label, at), (_, losses) in groups.items()
        if label.startswith(kind) and at == lr and label != "state fp32"
    }
    low, high = reference.min(axis=0), reference.max(axis=0)
    for axis, base in zip(axes, (0.0, mean), strict=True):
        axis.fill_between(steps, low - base, high - base, color="0.85", label="fp32, its seeds")
        axis.plot(steps, mean - base, color="0.25", linewidth=1.2, label="fp32, mean")
        for word, losses in lines.items():
            axis.plot(steps, losses - base, color=COLOURS[word], linewidth=1.6, label=word)
        axis.grid(alpha=0.25)
    top, bottom = axes
    rate = f"lr {lr:g}" + (" (AdamW's default)" if lr == DEFAULT_RATE else " (best of a grid)")
    top.set_title(f"{task}: {kind}, {rate}", fontsize=10)
    top.set_ylabel("held-out loss, nats")
    top.set_yscale("log")
    top.legend(fontsize=8)
    later = len(steps) // 3  # the first evaluations differ by far more than all others
    shown = [(values - mean)[later:] for values in (*lines.values(), low, high)]
    least, most = min(v.min() for v in shown), max(v.max() for v in shown)
    bottom.set_ylim(least - 0.1 * (most - least), most + 0.1 * (most - least))
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
