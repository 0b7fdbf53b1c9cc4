"""A recorded run in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepwell.doctor.run import Run
from stepwell.findings import SEVERITIES, Finding


def headline(run: Run) -> str:
    """Steps, time, state and the first cause, in sentences."""
    steps = f"{run.step[-1]:,} step{'s' if run.step[-1] != 1 else ''}" if run.step else "No step yet"
    time = elapsed(run)
    took = f" in {duration(time)}" if time and run.step else ""
    device = run.facts.get("device")
    where = f" on {device}" if isinstance(device, str) and device else ""
    cause = first_cause(run)
    if cause is None:
        found = "No finding." if not run.findings else "No finding above the severity of a note."
    else:
        step, finding = cause
        found = f"First cause, at step {step:,}: {finding.check.code} {finding.place}: {finding.seen}."
    return f"{steps}{took}{where}{state(run)}. {found}"


def state(run: Run) -> str:
    """Whether the run is complete, for the end of a sentence."""
    resumed = f", resumed {run.starts - 1} time{'s' if run.starts != 2 else ''}" if run.starts > 1 else ""
    return f"{resumed}, {'ended' if run.ended else 'not ended (still running, or stopped without a last record)'}"


def first_cause(run: Run) -> tuple[int, Finding] | None:
    """The earliest error or warning; of several at one step the gravest."""
    grave = [pair for pair in run.findings if pair[1].severity != "note"]
    return min(grave, key=lambda pair: (pair[0], SEVERITIES.index(pair[1].severity)), default=None)


def in_order(run: Run) -> list[tuple[int, Finding]]:
    """Errors and warnings in the order of their steps, then notes in the order of theirs."""
    return sorted(run.findings, key=lambda pair: (pair[1].severity == "note", pair[0]))


def elapsed(run: Run) -> float | None:
    """Seconds of training up to the last record, over all starts."""
    total = last = 0.0
    known = False
    for seconds in run.seconds:
        if seconds is not None and math.isfinite(seconds):
            total += last if seconds < last else 0.0  # the clock of a resumed run begins at 0
            last, known = seconds, True
    return total + last if known else None


def duration(seconds: float) -> str:
    """A duration in readable form.

    >>> duration(0.42), duration(8), duration(75), duration(7300)
    ('0.42 s', '8 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def groups(run: Run, count: int) -> list[str]:
    """The names of `count` parameter groups: the optimizer's, with a number where there is more than one.

    >>> groups(Run("a", {"optimizers": [{"name": "AdamW", "groups": [{}, {}]}]}), 2)
    ['AdamW, group 0', 'AdamW, group 1']
    """
    names = []
    listed = run.facts.get("optimizers")
    for optimizer in listed if isinstance(listed, list) else []:
        mine = optimizer.get("groups") if isinstance(optimizer, dict) else None
        number = len(mine) if isinstance(mine, list) else 0
        name = str(optimizer.get("name", "optimizer")) if isinstance(optimizer, dict) else "optimizer"
        names += [name] if number == 1 else [f"{name}, group {at}" for at in range(number)]
    return names if len(names) == count else [f"group {at}" for at in range(count)]


def last(values: Sequence[float | None]) -> float | None:
    """The last known value."""
    return next((value for value in reversed(values) if value is not None), None)
