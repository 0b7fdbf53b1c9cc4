"""The charts of a recorded run, over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepwell.curves import Chart, Curve, Mark
from stepwell.doctor.run import Run
from stepwell.doctor.summary import groups
from stepwell.doctor.thinning import evenly, shares, smoothed, thinned

WIDE = 100  # times the lowest value: from here on an axis is logarithmic
RATES = 4  # curves of learning rates: with the other names of the page, no color is used twice
MEASURED = "measured"  # the name of the only curve of a chart
MARKS = 40  # lines of findings in a chart
NEAR = 0.02  # of the run: findings as near share a label


def charts(run: Run) -> list[Chart]:
    """Loss, learning rates, gradient norm, clipping and scale; what was not recorded has no chart."""
    made = [loss(run), rates(run), norm(run), clipping(run), scale(run)]
    return [chart for chart in made if chart is not None]


def loss(run: Run) -> Chart | None:
    """The loss, its moving average, the validation, and the findings at their steps."""
    known = [value for value in run.loss if value is not None]
    if not known and not run.vals:
        return None
    span = max(5, len(run.step) // 50)
    curves = []
    if any(math.isfinite(value) for value in known):
        curves.append(_curve("loss", run, run.loss, style="faint"))
        if len(run.step) > 5:
            curves.append(_curve("loss", run, smoothed(run.loss, span)))
        else:
            curves[0] = _curve("loss", run, run.loss, style="line+points")
    finite = [(step, value) for step, value in run.vals if math.isfinite(value)]
    finite = [finite[at] for at in evenly(len(finite), 400)]
    if finite:
        steps, values = zip(*finite, strict=True)
        style = "line+points" if len(finite) <= 60 else "line"
        curves.append(Curve("validation", steps, values, x_label="step", y_label="loss", style=style))  # type: ignore[arg-type]  # zip's tuples
    seen = [value for curve in curves for value in curve.y if value is not None]
    broken = [step for step, value in zip(run.step, run.loss, strict=True) if value is not None and _is_broken(value)]
    if broken:
        bottom = _below(seen)  # the labels of the findings are on top
        at = [broken[place] for place in evenly(len(broken), 60)]
        curves.append(Curve("nan or infinite", at, [bottom] * len(at), x_label="step", y_label="loss", style="crosses"))
    said = []
    if len(run.step) > 5 and any(curve.name == "loss" for curve in curves):
        said.append(f"Strong: the moving average over {span} recorded steps.")
    if broken:
        count = "the loss of 1 step is" if len(broken) == 1 else f"the losses of {len(broken):,} steps are"
        said.append(f"From step {broken[0]:,} on {count} nan or infinite: the crosses.")
    if run.findings:
        said.append("Dashed lines: the findings at their steps.")
    if not curves:
        return None
    lines = marks(run)
    is_log = _wide(seen)
    return Chart("Loss", curves, " ".join(said), lines, log_y=is_log, y_window=_roomy(curves, lines, is_log))


def _roomy(curves: Sequence[Curve], lines: Sequence[Mark], is_log: bool) -> tuple[float, float] | None:
    """The y axis with room on top for the labels of the findings."""
    values = [value for curve in curves for value in curve.y if value is not None]
    if is_log or not lines or not values:
        return None
    low, high = min(values), max(values)
    height = (high - low) or abs(high) or 1.0
    return low - 0.06 * height, high + 0.16 * height


def _below(values: Sequence[float]) -> float:
    """A place below all values of the axis."""
    if _wide(values):
        return min(values) * (min(values) / max(values)) ** 0.08
    return min(values, default=1.0) - 0.08 * (max(values, default=1.0) - min(values, default=1.0))


def marks(run: Run) -> list[Mark]:
    """A line for each step with findings; lines that are near share one label."""
    span = (run.step[-1] - run.step[0] if run.step else 0) or 1
    codes: dict[int, list[str]] = {}
    for step, finding in sorted(run.findings, key=lambda pair: pair[0]):
        codes.setdefault(step, []).append(finding.check.code)
    made: list[tuple[int, list[str]]] = []
    begin = -math.inf
    for step in list(codes)[:MARKS]:
        if step - begin <= NEAR * span:
            at = next(place for place in range(len(made) - 1, -1, -1) if made[place][1])
            made[at] = (made[at][0], made[at][1] + [code for code in codes[step] if code not in made[at][1]])
            made.append((step, []))
        else:
            begin = step
            made.append((step, list(dict.fromkeys(codes[step]))))
    return [Mark(_listed(names), step, axis="x") for step, names in made]


def _listed(codes: Sequence[str]) -> str:
    return ", ".join(codes) if len(codes) <= 2 else f"{codes[0]} +{len(codes) - 1}"


def rates(run: Run) -> Chart | None:
    """The learning rate of each group; groups with equal rates are one curve."""
    widths = {len(row) for row in run.lr if row is not None}
    if not widths:
        return None
    count = max(widths)
    names = groups(run, count)
    columns: dict[tuple[float | None, ...], list[int]] = {}
    for group in range(count):
        column = tuple(row[group] if row is not None and group < len(row) else None for row in run.lr)
        columns.setdefault(column, []).append(group)
    distinct = sorted(columns.items(), key=lambda item: item[1][0])
    note = ""
    if len(distinct) > RATES:
        note = f"{RATES} of {len(distinct)} different learning rates are drawn."
        distinct = [distinct[at] for at in evenly(len(distinct), RATES)]
    curves = [_curve(_together(names, mine, count), run, column, y_label="learning rate") for column, mine in distinct]
    peaks = [max((value for value in curve.y if value is not None), default=0.0) for curve in curves]
    return Chart("Learning rate", curves, note, log_y=_wide(peaks, 20))


def _together(names: Sequence[str], mine: Sequence[int], count: int) -> str:
    if len(mine) == 1 or count == 1:
        return names[mine[0]]
    if len(mine) == count:
        return "all groups"
    return f"{names[mine[0]]} and {len(mine) - 1} more"


def norm(run: Run) -> Chart | None:
    """The norm of the gradient on a logarithmic axis, and how often it was clipped."""
    known = [value for value in run.grad_norm if value is not None]
    if not known:
        return None
    said = []
    clipped = [flag for flag in run.clipped if flag is not None]
    if any(clipped):
        tenth = clipped[-max(1, len(clipped) // 10) :]
        said.append(
            f"{_percent(sum(clipped) / len(clipped))} of the steps were clipped, "
            f"of the last tenth {_percent(sum(tenth) / len(tenth))}."
        )
    elif clipped:
        said.append("No step was clipped.")
    broken = sum(map(_is_broken, known))
    if broken:
        said.append(f"{broken:,} norm{'s are' if broken > 1 else ' is'} nan or infinite: gaps.")
    positive = [math.nan if value is not None and value <= 0 else value for value in run.grad_norm]
    curve = _curve(
        MEASURED,
        run,
        positive,
        y_label="norm before clipping",
        style="line" if len(known) > 5 else "line+points",
    )
    if not any(value is not None for value in curve.y):
        said.append("No norm is a finite number above zero.")
    return Chart("Gradient norm", [curve], " ".join(said), log_y=True)


def clipping(run: Run) -> Chart | None:
    """The share of clipped steps over the run, where it is neither none nor all."""
    known = [flag for flag in run.clipped if flag is not None]
    if len(known) < 20 or all(known) or not any(known):
        return None
    middles, values = shares(run.step, run.clipped, min(60, len(known) // 10 or 1))
    curve = Curve(MEASURED, middles, values, x_label="step", y_label="share of steps", style="line+points")
    return Chart("Share of clipped steps", [curve], "", y_window=(-0.03, 1.03))


def scale(run: Run) -> Chart | None:
    """The factor of the loss scaler."""
    if not any(value is not None and value > 0 for value in run.scale):
        return None
    curve = _curve(
        MEASURED,
        run,
        [math.nan if value is not None and value <= 0 else value for value in run.scale],
        y_label="factor",
    )
    return Chart("Scale of the loss (float16)", [curve], "It halves where a gradient overflowed.", log_y=True)


def _curve(name: str, run: Run, y: Sequence[float | None], y_label: str = "loss", style: str = "line") -> Curve:
    # a step without a record is left out; a number that is not finite is a gap
    known = [(step, value) for step, value in zip(run.step, y, strict=True) if value is not None]
    steps, values = thinned([step for step, _ in known], [value for _, value in known])
    return Curve(name, steps, _rounded(values), x_label="step", y_label=y_label, style=style)  # type: ignore[arg-type]  # a Style


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]


def _wide(values: Sequence[float], times: float = WIDE) -> bool:
    return bool(values) and min(values) > 0 and max(values) > times * min(values)


def _is_broken(value: float) -> bool:
    return not math.isfinite(value)


def _percent(share: float) -> str:
    """A share without "0 %" for what happened, or "100 %" for what did not always happen.

    >>> _percent(0.001), _percent(0.25), _percent(0.999)
    ('under 1 %', '25 %', 'over 99 %')
    """
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
