"""Two recorded runs side by side: where they first differ, in what, and which findings only one of them has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.curves import Cell, Table
from stepwell.doctor.run import Run
from stepwell.doctor.summary import groups, headline
from stepwell.doctor.thinning import evenly
from stepwell.findings import Finding, as_dict, line

CLOSE = 0.01  # relative: below it two values are shown as close
ROWS = 10  # of the table of equal steps


@dataclass(frozen=True)
class Quantity:
    """One quantity at the steps that both runs recorded.

    Attributes:
        name: loss, lr (of the first group that differs), gradient norm, validation.
        steps: [n] the common steps. left, right: [n] the values there.
        first: the first step where the values differ at all, or None.
        apart: the first step where they differ by more than 1 %, or None.
    """

    name: str
    steps: Sequence[int]
    left: Sequence[float]
    right: Sequence[float]
    first: int | None
    apart: int | None

    def at(self, step: int) -> tuple[float, float]:
        """The two values at a step."""
        place = list(self.steps).index(step)
        return self.left[place], self.right[place]


@dataclass(frozen=True)
class Difference:
    """What two runs do not share.

    Attributes:
        left, right: the runs.
        settings: (what, left, right): facts of the start that differ.
        quantities: what both runs recorded at equal steps.
        only_left, only_right: findings, with their steps, whose code and place the other run does not have.
    """

    left: Run
    right: Run
    settings: Sequence[tuple[str, str, str]]
    quantities: Sequence[Quantity]
    only_left: Sequence[tuple[int, Finding]]
    only_right: Sequence[tuple[int, Finding]]

    @property
    def first(self) -> tuple[int, str] | None:
        """The first step where anything differs, and what."""
        found = [(one.first, one.name) for one in self.quantities if one.first is not None]
        return min(found, default=None, key=lambda pair: pair[0])


def difference(left: Run, right: Run) -> Difference:
    """Compare two runs at the steps that both recorded."""
    quantities = [
        _quantity("loss", left.step, left.loss, right.step, right.loss),
        *_rates(left, right),
        _quantity("gradient norm", left.step, left.grad_norm, right.step, right.grad_norm),
        _quantity("validation", *_columns(left), *_columns(right)),
    ]
    here, there = {_key(one) for _, one in left.findings}, {_key(one) for _, one in right.findings}
    return Difference(
        left,
        right,
        _settings(left, right),
        [one for one in quantities if one is not None],
        [pair for pair in left.findings if _key(pair[1]) not in there],
        [pair for pair in right.findings if _key(pair[1]) not in here],
    )


def as_text(found: Difference) -> str:
    """The difference as text."""
    a, b = _names(found)
    parts = [f"{a}: {headline(found.left)}", f"{b}: {headline(found.right)}", "", _verdict(found)]
    if found.settings:
        parts += ["", Table(["setting", a, b], found.settings, "Settings that differ").text()]
    if found.quantities:
        parts += ["", _firsts(found).text(), "", *_side_by_side(found)]
    for name, only in ((a, found.only_left), (b, found.only_right)):
        if only:
            parts += ["", f"Only in {name}:", *(f"  step {step:,}: {line(one)}" for step, one in only)]
    if not found.only_left and not found.only_right:
        parts += ["", "Both have the same findings." if found.left.findings else "Neither has a finding."]
    return "\n".join(parts)


def as_json(found: Difference) -> dict[str, Any]:
    """The difference as plain data; a number that is not finite stays a float."""
    first = found.first
    return {
        "runs": [found.left.name, found.right.name],
        "first": None if first is None else {"step": first[0], "what": first[1]},
        "settings": [{"what": what, "values": [left, right]} for what, left, right in found.settings],
        "quantities": [
            {
                "name": one.name,
                "first": one.first,
                "apart": one.apart,
                "steps": list(one.steps),
                "values": [list(one.left), list(one.right)],
            }
            for one in found.quantities
        ],
        "only": [
            [{"step": step, **as_dict(one)} for step, one in only] for only in (found.only_left, found.only_right)
        ],
    }


def _names(found: Difference) -> tuple[str, str]:
    a, b = found.left.name, found.right.name
    return (a, b) if a != b else (f"first {a}", f"second {b}")


def _verdict(found: Difference) -> str:
    first = found.first
    if not found.quantities:
        return "The runs have no recorded step in common."
    if first is not None:
        return f"They first differ at step {first[0]:,}, in the {first[1]}."
    count = max(len(one.steps) for one in found.quantities)
    return f"They are equal at all {count:,} steps that both recorded."


def _firsts(found: Difference) -> Table:
    a, b = _names(found)
    rows: list[list[Cell]] = []
    for one in found.quantities:
        values = (None, None) if one.first is None else one.at(one.first)
        rows.append(
            [
                one.name,
                "nowhere" if one.first is None else one.first,
                *(None if value is None else f"{value:.6g}" for value in values),
                "nowhere" if one.apart is None else one.apart,
            ]
        )
    return Table(["quantity", "first differs at step", a, b, "by more than 1 %"], rows, "Where they differ")


def _side_by_side(found: Difference) -> list[str]:
    """A table of some of the common steps."""
    steps = sorted({step for one in found.quantities if one.name != "validation" for step in one.steps})
    shown = [one for one in found.quantities if one.name != "validation"]
    if not steps:
        return []
    values = [{step: pair for step, *pair in zip(one.steps, one.left, one.right, strict=True)} for one in shown]
    rows: list[list[Cell]] = []
    for place in evenly(len(steps), ROWS):
        cells: list[Cell] = [steps[place]]
        for column in values:
            cells += [f"{value:.4g}" for value in column[steps[place]]] if steps[place] in column else [None, None]
        rows.append(cells)
    columns = ["step", *(f"{one.name} {side}" for one in shown for side in ("1", "2"))]
    a, b = _names(found)
    return [Table(columns, rows, f"At equal steps (1: {a}, 2: {b})").text()]


def _columns(run: Run) -> tuple[list[int], list[float]]:
    values = dict(run.vals)
    return list(values), list(values.values())


def _quantity(
    name: str,
    left_steps: Sequence[int],
    left: Sequence[float | None],
    right_steps: Sequence[int],
    right: Sequence[float | None],
) -> Quantity | None:
    """The quantity at the common steps, or None if there are none."""
    there = {step: value for step, value in zip(right_steps, right, strict=True) if value is not None}
    both = [
        (step, value, there[step])
        for step, value in zip(left_steps, left, strict=True)
        if value is not None and step in there
    ]
    if not both:
        return None
    steps, mine, other = (list(column) for column in zip(*both, strict=True))
    first = next((step for step, a, b in both if a != b and not (math.isnan(a) and math.isnan(b))), None)
    apart = next((step for step, a, b in both if _apart(a, b)), None)
    return Quantity(name, [int(step) for step in steps], mine, other, first, apart)


def _apart(a: float, b: float) -> bool:
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b) > CLOSE * max(abs(a), abs(b))
    return a != b and not (math.isnan(a) and math.isnan(b))


def _rates(left: Run, right: Run) -> list[Quantity | None]:
    """The learning rates: of each group that differs, or else of the first group."""
    widths = [max((len(row) for row in run.lr if row is not None), default=0) for run in (left, right)]
    names = groups(left, widths[0])
    found = []
    for group in range(min(widths)):
        name = "lr" if widths == [1, 1] else f"lr of {names[group]}"
        found.append(_quantity(name, left.step, _rate(left, group), right.step, _rate(right, group)))
    differing = [one for one in found if one is not None and one.first is not None]
    return [*(differing[:2] or found[:1])]


def _rate(run: Run, group: int) -> list[float | None]:
    return [row[group] if row is not None and group < len(row) else None for row in run.lr]


def _settings(left: Run, right: Run) -> list[tuple[str, str, str]]:
    """The facts that differ: versions, models, parameters, and each setting of each parameter group."""
    a, b = _flat(left), _flat(right)
    keys = list(dict.fromkeys([*a, *b]))
    return [(key, a.get(key, "-")[:60], b.get(key, "-")[:60]) for key in keys if a.get(key) != b.get(key)]


def _flat(run: Run) -> dict[str, str]:
    facts = run.facts
    found = {key: str(facts[key]) for key in ("version", "torch", "device", "models") if key in facts}
    found["parameters"] = _counted(run)
    given = facts.get("optimizers")
    listed = given if isinstance(given, list) else []
    for number, optimizer in enumerate(listed):
        if isinstance(optimizer, dict):
            prefix = f"optimizer {number}" if len(listed) > 1 else "optimizer"
            found[prefix] = str(optimizer.get("name"))
            parts = optimizer.get("groups")
            for at, group in enumerate(parts if isinstance(parts, list) else []):
                if isinstance(group, dict):
                    found |= {f"{prefix}, group {at}, {key}": str(value) for key, value in group.items()}
    return found


def _counted(run: Run) -> str:
    """The parameters in a few characters that differ where their names or shapes differ."""
    import zlib

    code = zlib.crc32(repr((run.parameters, run.facts.get("shapes"))).encode("utf-8", "backslashreplace"))
    return f"{len(run.parameters)} tensors ({code:08x})"


def _key(finding: Finding) -> tuple[str, str]:
    place = finding.place
    name = getattr(place, "name", None)  # of a tensor or a run: its step may differ
    return finding.code, str(place) if name is None else name
