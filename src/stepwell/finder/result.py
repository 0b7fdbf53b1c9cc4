"""The result of a range test: the learning rate, or the reason for none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np

from stepwell.curves import Chart, Curve, Mark
from stepwell.errors import MissingExtra
from stepwell.finder.checks import NO_ANSWER
from stepwell.finder.rules import RULES, Array, capped, kernel, smooth
from stepwell.findings import Finding, Run

FEWEST = 6  # finite points without which there is no curve to read
WIDTH = 0.05  # of the smoothing, in parts of the sweep
FLAT = 0.01  # a drop of less than this part of the first loss is none
NOISE = 4.0  # standard errors that a drop must have: noise alone gets there in less than 1 of 100 sweeps as by default
DISAGREE = 10.0  # orders whose answers are further apart than this factor say little

PEAK = (
    "this is the peak of a schedule with warmup and decay; for pretrained weights (fine-tuning) "
    "it is an upper bound: also try a tenth and a hundredth of it"
)


@dataclass(frozen=True, repr=False)
class FoundLR:
    """The answer of a learning-rate range test. `print(found)` shows it in full; a notebook also shows the curve.

    Attributes:
        suggestion: the rate of the first group (whose rate is not 0), or None if the curve gives no answer.
        rule: the rule behind the suggestion.
        spread: (lowest, highest) answer of the rule over the single orders of the data; None without an answer.
        suggestions: the answers of all rules for the mean curve; empty without an answer.
        reasons: why there is no answer; empty if there is an answer.
        notes: caveats of the answer.
        group_lrs: the suggestion for each group of the optimizer, by the ratios of their rates.
        curve: loss over lr, the mean over the orders, with the band from the lowest to the highest, smoothed.
        orders: the raw losses of each order.
        cause: the reason for no answer, in a word: short (the loss diverged immediately), rises, flat, noise; else
            empty.
        tried: the earlier attempts, with their results.
    """

    suggestion: float | None
    rule: str
    spread: tuple[float, float] | None
    suggestions: Mapping[str, float]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    group_lrs: tuple[float, ...]
    curve: Curve
    orders: tuple[Curve, ...]
    cause: str = ""
    tried: tuple[str, ...] = ()

    @property
    def finding(self) -> Finding | None:
        """The reason for no answer as a finding, or None if there is an answer."""
        if not self.reasons:
            return None
        return Finding(check=NO_ANSWER, place=Run("learning-rate finder"), seen="; ".join(self.reasons))

    def text(self) -> str:
        """The full text: the answer with its spread, the other rules and the notes; or the reasons for no answer."""
        if self.suggestion is None:
            tried = [f"  tried before: {one}" for one in self.tried]
            return "\n".join(["no learning rate found", *(f"  {reason}" for reason in self.reasons), *tried])
        assert self.spread is not None
        lines = [f"learning rate {self.suggestion:.2g} ({self.rule}; single orders of the data: "
                 f"{self.spread[0]:.2g} to {self.spread[1]:.2g})"]  # fmt: skip
        others = ", ".join(f"{name} {lr:.2g}" for name, lr in self.suggestions.items() if name != self.rule)
        lines.append(f"  other rules: {others}")
        if len(self.group_lrs) > 1:
            lines.append(f"  by group: {', '.join(f'{lr:.2g}' for lr in self.group_lrs)}")
        tried = [f"  found in attempt {len(self.tried) + 1}; earlier: {one}" for one in self.tried[-1:]]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), *tried])

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        rates = f"{len(self.curve.x)} rates, {len(self.orders)} orders"
        if self.suggestion is None:
            return f"FoundLR(None, cause={self.cause!r}, {rates})"
        assert self.spread is not None
        low, high = self.spread
        return f"FoundLR({self.suggestion:.3g}, rule={self.rule!r}, spread=({low:.3g}, {high:.3g}), {rates})"

    def _repr_html_(self) -> str:
        from stepwell.finder.picture import svg

        return f"<pre>{escape(self.text())}</pre>{svg(self)}"

    def chart(self) -> Chart:
        """The curve for a report, with a line at each suggestion."""
        marks = [Mark(name, lr, "x") for name, lr in self.suggestions.items()]
        first = self.curve.y[0] if self.curve.y else None
        window = None
        if first is not None:
            low = min(y for y in self.curve.y if y is not None)
            window = (low - 0.1 * (first - low), first + 0.5 * (first - low)) if first > low else None
        return Chart(
            "loss while the learning rate rises",
            [self.curve, *self.orders],
            note=self.text().splitlines()[0],
            marks=marks,
            log_x=True,
            y_window=window,
        )

    def plot(self, ax: Any = None) -> Any:
        """Plot the curve, its band and the suggestions; returns matplotlib's Axes.

        Raises MissingExtra without matplotlib.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise MissingExtra("matplotlib", "tools", "drawing the curve") from None
        chart = self.chart()
        if ax is None:
            _, ax = plt.subplots()
        for order in self.orders:
            ax.plot(order.x, order.y, color="0.8", linewidth=0.7)
        ax.plot(self.curve.x, self.curve.y, label=self.curve.name)
        if self.curve.low is not None and self.curve.high is not None:
            ax.fill_between(self.curve.x, self.curve.low, self.curve.high, alpha=0.2)
        for mark in chart.marks:
            chosen = mark.label == self.rule
            style = {"linewidth": 2.0} if chosen else {"linewidth": 0.8, "linestyle": "--"}
            ax.axvline(mark.value, color="C3" if chosen else "0.4", label=f"{mark.label} {mark.value:.2g}", **style)
        if chart.y_window is not None:
            ax.set_ylim(*chart.y_window)
        ax.set_xscale("log")
        ax.set_xlabel(self.curve.x_label)
        ax.set_ylabel(self.curve.y_label)
        ax.set_title(chart.note, fontsize="medium")
        ax.legend()
        return ax


def found(lrs: Sequence[float], curves: Sequence[Sequence[float]], *, rule: str, ratios: Sequence[float]) -> FoundLR:
    """Read the losses of each order. They may be truncated, and the last may be not finite."""
    finite = [curve if not curve or math.isfinite(curve[-1]) else curve[:-1] for curve in curves]
    length = min(len(curve) for curve in finite)
    x = np.array(lrs[:length])
    raw = np.array([curve[:length] for curve in finite])
    orders = tuple(
        Curve(f"order {n + 1}", tuple(lrs[: len(c)]), tuple(c), x_label="learning rate", y_label="loss", style="points")
        for n, c in enumerate(finite)
    )
    width = WIDTH * len(lrs)
    smoothed = np.array([smooth(row, width) for row in capped(raw)]) if length else raw
    mean = smoothed.mean(0)
    curve = Curve(
        "loss, smoothed",
        tuple(x.tolist()),
        tuple(mean.tolist()),
        low=tuple(smoothed.min(0).tolist()),
        high=tuple(smoothed.max(0).tolist()),
        x_label="learning rate",
        y_label="loss",
    )
    refused = _refusal(x, raw, mean, width)
    if refused is not None:
        cause, reason = refused
        return FoundLR(None, rule, None, {}, (reason,), (), (), curve, orders, cause)
    suggestions = {name: reading(x, mean) for name, reading in RULES.items()}
    alone = [RULES[rule](x, row) for row in smoothed]
    spread = (min(alone), max(alone))
    notes = [PEAK]
    if spread[1] > DISAGREE * spread[0]:
        notes.append(
            f"the orders of the data differ by a factor of {spread[1] / spread[0]:.0f}: the answer is only a "
            "rough estimate; more iterations or larger batches make it more precise"
        )
    if int(np.argmin(mean)) == length - 1 == len(lrs) - 1:
        notes.append(f"the loss still fell at the highest rate, {lrs[-1]:.2g}: pass a larger `high`")
    suggestion = suggestions[rule]
    return FoundLR(
        suggestion, rule, spread, suggestions, (), tuple(notes), tuple(suggestion * r for r in ratios), curve, orders
    )


def after(found: FoundLR, tried: Sequence[str]) -> FoundLR:
    """The result with the earlier attempts."""
    return replace(found, tried=tuple(tried))


def _refusal(x: Array, raw: Array, mean: Array, width: float) -> tuple[str, str] | None:
    """The reason for no answer, as a word and a sentence; None if the curve gives an answer."""
    if len(x) < FEWEST:
        at = f"at {x[-1]:.2g}, " if len(x) else ""
        return (
            "short",
            f"the loss was not finite or had diverged, {at}after {len(x)} rates: start from a lower rate, pass a "
            "smaller `low`",
        )
    lowest = int(np.argmin(mean))
    began = float(mean[0])
    drop = began - float(mean[lowest])
    least = FLAT * abs(began)
    if drop <= least and (lowest >= 2 or float(raw.mean(0).max()) - began <= least):
        return (
            "flat",
            f"the curve is flat: the loss falls by {drop:.2g} of {began:.3g} at most; is the model connected to the "
            "loss, is it already trained, or is `high` too small?",
        )
    if lowest < 2:
        return (
            "rises",
            f"the loss rises from the lowest rate on ({began:.3g} at {x[0]:.2g}): start from a lower rate, pass a "
            "smaller `low`",
        )
    scatter, error = _noise(raw, lowest, width)
    if drop <= NOISE * error:
        return (
            "noise",
            f"the curve is noise: single losses scatter by {scatter:.2g} (median absolute deviation), which moves the "
            f"smoothed curve by {error:.2g}, and the loss falls by {drop:.2g}, less than {NOISE:g} times as much; use "
            "larger batches, accumulate, or more iterations and orders",
        )
    return None


def _noise(raw: Array, lowest: int, width: float) -> tuple[float, float]:
    """The standard deviation of a single loss, and the standard deviation of the drop of the smoothed mean under pure
    noise.

    The former is estimated from differences between neighbors, between which the curve hardly changes.
    """
    differences = np.diff(raw[:, : max(lowest + 1, min(raw.shape[1], 10))], axis=1)
    scatter = 1.4826 * float(np.median(np.abs(differences))) / math.sqrt(2)
    weights = kernel(raw.shape[1], width)
    return scatter, scatter * math.sqrt(float(((weights[0] - weights[lowest]) ** 2).sum()) / len(raw))
