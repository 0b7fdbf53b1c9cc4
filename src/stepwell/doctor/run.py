"""A recorded run: the records of a journal as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stepwell.doctor.recorded import finding_of
from stepwell.errors import UsageError, printable
from stepwell.findings import Finding

FORMAT = 1  # of the journal; raised when an older reader would misread it
NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
WORDS = ("grad", "weight", "update")


@dataclass(frozen=True)
class Sample:
    """The root mean squares of one sampled update, one per parameter; None where there was no gradient."""

    step: int
    grad: Sequence[float | None] | None = None
    weight: Sequence[float | None] | None = None
    update: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Run:
    """A run as its journal tells it.

    Attributes:
        name: the name of the file, or "this run".
        facts: the facts of the last start: version, time, models, optimizers, parameters, shapes, torch, device.
        starts: how often the run was started; more than 1 if it was resumed.
        step: [n] the updates recorded, increasing.
        loss, grad_norm, scale, seconds: [n] numbers, or None where an update has no record of them.
        lr: [n] the learning rates of an update, one per parameter group, or None.
        clipped: [n] whether the gradient was clipped, or None.
        samples: the sampled updates, in order.
        vals: (update, value) of each validation, in order.
        findings: (update, finding), in order.
        ended: whether the run came to its end; False while it runs, and after a crash.
        unreadable: lines of the file that are not readable, besides an unfinished last one.
    """

    name: str
    facts: Mapping[str, Any] = field(repr=False)
    starts: int = 1
    step: Sequence[int] = field(default=(), repr=False)
    loss: Sequence[float | None] = field(default=(), repr=False)
    grad_norm: Sequence[float | None] = field(default=(), repr=False)
    scale: Sequence[float | None] = field(default=(), repr=False)
    seconds: Sequence[float | None] = field(default=(), repr=False)
    lr: Sequence[Sequence[float] | None] = field(default=(), repr=False)
    clipped: Sequence[bool | None] = field(default=(), repr=False)
    samples: Sequence[Sample] = field(default=(), repr=False)
    vals: Sequence[tuple[int, float]] = field(default=(), repr=False)
    findings: Sequence[tuple[int, Finding]] = field(default=(), repr=False)
    ended: bool = False
    unreadable: int = 0

    @property
    def parameters(self) -> Sequence[str]:
        """The names of the parameters, in the order of the samples' values."""
        names = self.facts.get("parameters")
        return [str(name) for name in names] if isinstance(names, list) else []

    @property
    def begun(self) -> datetime | None:
        """When the run was started last."""
        try:
            return datetime.fromisoformat(self.facts["time"])
        except (KeyError, TypeError, ValueError):
            return None


class Records:
    """What the records of a journal say, while they are read. `add` takes them in the order of writing."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.starts = 0
        self.steps: dict[int, dict[str, Any]] = {}  # in order
        self.vals: list[tuple[int, float]] = []
        self.findings: list[tuple[int, dict[str, Any]]] = []
        self.ended = False
        self.bad = 0
        self._since_start: set[int] | None = None  # the findings of this start, before its first update
        self._last = -1

    def add(self, record: dict[str, Any]) -> None:
        kind, step = record["kind"], _whole(record.get("step"))
        if kind == "start":
            self._start(record)
        elif step is None:
            self.bad += 1
        elif kind == "step":
            self._step(step, record)
        elif kind == "val":
            value = _number(record.get("value"))
            self.bad += value is None
            if value is not None:
                self.vals.append((step, value))
        elif kind == "finding" and isinstance(record.get("finding"), dict):
            new = (step, record["finding"])
            if new[1] not in [known for _, known in self.findings]:
                self.findings.append(new)
                if self._since_start is not None:
                    self._since_start.add(len(self.findings) - 1)
        elif kind == "end":
            self.ended = True

    def _start(self, record: dict[str, Any]) -> None:
        names = self.facts.get("parameters")
        self.facts = {**record, "optimizers": _numbers(record.get("optimizers"))}
        if self.starts and record.get("parameters") != names:  # older samples belong to other parameters
            for one in self.steps.values():
                for word in WORDS:
                    one.pop(word, None)
        self.starts += 1
        self.ended = False
        self._since_start = set()

    def _step(self, step: int, record: dict[str, Any]) -> None:
        if step < self._last or (step == self._last and self._since_start is not None):
            self._back_to(step)
        self._since_start = None
        self._last = step
        self.steps.setdefault(step, {}).update(record)
        self.ended = False

    def _back_to(self, step: int) -> None:
        """The run was resumed from before this update: what it now repeats is forgotten."""
        self.steps = {one: record for one, record in self.steps.items() if one < step}
        self.vals = [(one, value) for one, value in self.vals if one < step]
        own = self._since_start or set()
        kept = [(at, found) for at, (one, found) in enumerate(self.findings) if one < step or at in own]
        self.findings = [(self.findings[at][0], found) for at, found in kept]

    def run(self, name: str, unreadable: int = 0) -> Run:
        """The run so far. Raises UsageError before the first start."""
        if not self.starts:
            raise UsageError(f"{printable(name)[:200]} has no record of a start; the doctor writes one when it is made")
        return _columns(self, name, unreadable)


def collected(name: str, records: Iterable[dict[str, Any]]) -> Run:
    """The run of records in the order of writing."""
    read = Records()
    for record in records:
        read.add(record)
    return read.run(name)


def _columns(columns: Records, name: str, unreadable: int) -> Run:
    bad = columns.bad + unreadable
    findings = []
    for step, plain in columns.findings:
        finding = finding_of(plain)
        if finding is None:
            bad += 1
        else:
            findings.append((step, finding))
    steps = columns.steps
    parameters = columns.facts.get("parameters")
    width = len(parameters) if isinstance(parameters, list) else 0

    def column(word: str) -> list[float | None]:
        return [_number(one.get(word)) for one in steps.values()]

    def sample(step: int, one: dict[str, Any]) -> Sample:
        return Sample(step, **{word: _row(one.get(word), width) for word in WORDS})

    return Run(
        name=name,
        facts=columns.facts,
        starts=columns.starts,
        step=list(steps),
        loss=column("loss"),
        grad_norm=column("grad_norm"),
        scale=column("scale"),
        seconds=column("seconds"),
        lr=[_rates(one.get("lr")) for one in steps.values()],
        clipped=[one["clipped"] if isinstance(one.get("clipped"), bool) else None for one in steps.values()],
        samples=[sample(step, one) for step, one in steps.items() if any(word in one for word in WORDS)],
        vals=columns.vals,
        findings=findings,
        ended=columns.ended,
        unreadable=bad,
    )


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _number(value: Any) -> float | None:
    """A number of the journal, or None."""
    if isinstance(value, str):
        return NUMBERS.get(value)
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def _rates(value: Any) -> list[float] | None:
    numbers = [_number(one) for one in (value if isinstance(value, list) else [value])]
    known = [one for one in numbers if one is not None]
    return known if known and len(known) == len(numbers) else None


def _row(value: Any, width: int) -> list[float | None] | None:
    return [_number(one) for one in value] if isinstance(value, list) and len(value) == width else None


def _numbers(value: Any) -> Any:
    """The value with "nan", "inf" and "-inf" as numbers again."""
    if isinstance(value, str):
        return NUMBERS.get(value, value)
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value
