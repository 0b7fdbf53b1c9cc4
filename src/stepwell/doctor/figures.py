"""The figures of a recorded run: what the command prints and writes as JSON."""

from __future__ import annotations

import math
import statistics
from typing import Any

from stepwell.doctor.run import Run
from stepwell.doctor.summary import elapsed, first_cause, headline, in_order, last
from stepwell.findings import SEVERITIES, as_dict, text


def facts(run: Run) -> dict[str, Any]:
    """The run in numbers. A number that is not finite stays a float; None: not recorded."""
    finite = [(value, step) for step, value in zip(run.step, run.loss, strict=True) if _is_finite(value)]
    norms = [value for value in run.grad_norm if value is not None and math.isfinite(value)]
    clipped = [flag for flag in run.clipped if flag is not None]
    cause = first_cause(run)
    lowest = min(finite, default=(None, None), key=lambda pair: pair[0] or 0.0)
    return {
        "name": run.name,
        "steps": run.step[-1] if run.step else 0,
        "recorded": len(run.step),
        "seconds": elapsed(run),
        "ended": run.ended,
        "starts": run.starts,
        "loss": {"first": next(iter(_known(run)), None), "last": last(run.loss), "lowest": lowest[0], "at": lowest[1]},
        "validation": {"step": run.vals[-1][0], "value": run.vals[-1][1]} if run.vals else None,
        "lr": next((list(row) for row in reversed(run.lr) if row is not None), None),
        "grad_norm": {"median": statistics.median(norms) if norms else None, "last": last(run.grad_norm)},
        "clipped": sum(clipped) / len(clipped) if clipped else None,
        "scale": last(run.scale),
        "first_cause": None if cause is None else {"step": cause[0], "code": cause[1].code},
        "unreadable": run.unreadable,
    }


def as_json(run: Run) -> dict[str, Any]:
    """The facts and the findings: errors and warnings first, in the order of their steps."""
    listed = [{"step": step, **as_dict(finding)} for step, finding in in_order(run)]
    return {"run": facts(run), "findings": listed}


def as_text(run: Run) -> str:
    """The summary, then the findings in full, as text."""
    lines = [f"{run.name}: {headline(run)}"]
    numbers = in_numbers(run)
    lines += [numbers] if numbers else []
    if run.unreadable:
        lines.append(f"{run.unreadable} damaged record{'s' if run.unreadable > 1 else ''} of the journal skipped.")
    for _, finding in in_order(run):
        lines += ["", text(finding)]
    if run.findings:
        lines += ["", counted(run)]
    return "\n".join(lines)


def in_numbers(run: Run) -> str:
    """The last values in one line.

    >>> in_numbers(Run("a", {}, step=[1, 2], loss=[2.0, 0.5], lr=[None, [0.1]]))
    'loss 2 -> 0.5; lr 0.1'
    """
    seen = facts(run)
    loss = seen["loss"]
    parts = []
    if loss["last"] is not None:
        lowest = (
            f" (lowest {loss['lowest']:.4g} at step {loss['at']:,})"
            if loss["lowest"] not in (None, loss["last"])
            else ""
        )
        parts.append(f"loss {loss['first']:.4g} -> {loss['last']:.4g}{lowest}")
    if seen["validation"] is not None:
        parts.append(f"validation {seen['validation']['value']:.4g} at step {seen['validation']['step']:,}")
    if seen["lr"]:
        low, high = min(seen["lr"]), max(seen["lr"])
        parts.append(f"lr {low:.3g}" if low == high else f"lr {low:.3g} to {high:.3g}")
    if seen["grad_norm"]["median"] is not None:
        parts.append(f"median gradient norm {seen['grad_norm']['median']:.3g}")
    if seen["clipped"] is not None:
        parts.append(f"{100 * seen['clipped']:.0f} % of steps clipped")
    if seen["scale"] is not None:
        parts.append(f"scale {seen['scale']:g}")
    return "; ".join(parts)


def counted(run: Run) -> str:
    """How many findings there are: "3 findings: 1 error, 2 notes"."""
    numbers = [(sum(one.severity == severity for _, one in run.findings), severity) for severity in SEVERITIES]
    said = ", ".join(f"{number} {severity}{'s' if number > 1 else ''}" for number, severity in numbers if number)
    return f"{len(run.findings)} finding{'s' if len(run.findings) != 1 else ''}: {said}" if said else "no findings"


def _known(run: Run) -> list[float]:
    return [value for value in run.loss if value is not None]


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
