"""The layers of a recorded run: parameters of one module together, by their numbers of elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.curves import Cell, Chart, HeatMap, Table
from stepwell.doctor.run import Run, Sample
from stepwell.doctor.thinning import evenly

MOST = 200  # layers; with more, the modules above them are shown
CELLS = 40_000  # of a heat map: about 250 KB of a page
COLUMNS = 400
LOW, HIGH = -6.0, 0.0  # log10 of the ratio: the ends of the color scale; a healthy ratio is near the middle


@dataclass(frozen=True)
class Layer:
    """A layer: its name, the places of its parameters in a sample, and their numbers of elements."""

    name: str
    places: Sequence[int]
    sizes: Sequence[int]

    @property
    def elements(self) -> int:
        return sum(self.sizes)

    def rms(self, values: Sequence[float | None] | None) -> float | None:
        """The root mean square over all elements of the layer that have a value, or None if no parameter has one."""
        known = [
            (size, values[at])
            for at, size in zip(self.places, self.sizes, strict=True)
            if values is not None and values[at] is not None
        ]
        count = sum(size for size, _ in known)
        if not count:
            return None
        scale = max(abs(value) for _, value in known if value is not None)
        if not scale or not math.isfinite(scale):  # nan, or a sum of squares that would be infinite
            return math.nan if any(value != value for _, value in known) else scale
        squares = sum(size * (value / scale) ** 2 for size, value in known if value is not None)
        return scale * math.sqrt(squares / count)

    def ratio(self, sample: Sample) -> float | None:
        """The size of the update relative to the weights. None if one of both is unknown, or the weights are zero."""
        weight = self.rms(sample.weight)
        update = self.rms(sample.update if sample.weight is None else _where(sample.update, sample.weight))
        return None if update is None or not weight else update / weight


def _where(values: Sequence[float | None] | None, other: Sequence[float | None]) -> Sequence[float | None] | None:
    if values is None:
        return None
    return [None if beside is None else value for value, beside in zip(values, other, strict=True)]


def layers(run: Run, most: int = MOST) -> list[Layer]:
    """The layers in the order of the model: the parameters of one module are one layer.

    A parameter of the model itself is its own layer. With more than `most` modules, the deepest are joined.
    """
    names = run.parameters
    shapes = run.facts.get("shapes")
    sizes = [_elements(shapes[at]) if isinstance(shapes, list) and at < len(shapes) else 1 for at in range(len(names))]
    keys = [tuple(name.split(".")[:-1]) or (name,) for name in names]
    while len(set(keys)) > most and max(map(len, keys)) > 1:
        depth = max(map(len, keys)) - 1
        keys = [key[:depth] for key in keys]
    places: dict[tuple[str, ...], list[int]] = {}
    for at, key in enumerate(keys):
        places.setdefault(key, []).append(at)
    return [Layer(".".join(key), found, [sizes[at] for at in found]) for key, found in places.items()]


def _elements(shape: Any) -> int:
    """Of a parameter; 1 for one whose shape is not known."""
    if isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape):
        return max(1, math.prod(shape))
    return 1


def ratios(run: Run) -> Chart | None:
    """The update-to-weight ratio of each layer over the run. None for a run without samples."""
    parts = layers(run)
    samples = [sample for sample in run.samples if sample.weight is not None and sample.update is not None]
    if not samples or not parts:
        return None
    shown = [samples[at] for at in evenly(len(samples), max(2, min(COLUMNS, CELLS // len(parts))))]
    z = [[_log(part.ratio(sample)) for sample in shown] for part in parts]
    note = (
        "The root mean square of the update divided by that of the weights, as a power of ten. Near -3 most networks "
        "learn well; blue layers hardly move, orange layers are rewritten. A gap: no gradient, or weights of zero."
    )
    if len(shown) < len(samples):
        note += f" {len(shown)} of {len(samples)} sampled steps are drawn."
    return Chart(
        "Update-to-weight ratio of each layer",
        [],
        note,
        heat_map=HeatMap(
            [sample.step for sample in shown],
            [part.name for part in parts],
            z,
            low=LOW,
            high=HIGH,
            label="log10 of update / weight",
            x_label="step",
        ),
    )


def _log(ratio: float | None) -> float | None:
    if ratio is None or not math.isfinite(ratio):
        return None
    return LOW - 3 if ratio < 10 ** (LOW - 3) else round(math.log10(ratio), 2)  # an update of zero, too


def table(run: Run) -> Table | None:
    """The layers at the last sampled step. None for a run without samples."""
    parts = layers(run)
    if not run.samples or not parts:
        return None
    last = run.samples[-1]
    rows: list[list[Cell]] = [
        [
            part.name,
            f"{part.elements:,}" if isinstance(run.facts.get("shapes"), list) else None,
            said(part.rms(last.weight)),
            said(part.rms(last.grad)),
            said(part.rms(last.update)),
            said(part.ratio(last)),
        ]
        for part in parts
    ]
    columns = ["layer", "elements", "weight rms", "gradient rms", "update rms", "update / weight"]
    notes = ["rms: root mean square over the elements of the layer. –: no gradient or no weights there."]
    return Table(columns, rows, f"At step {last.step}", notes)


def said(value: float | None) -> str | None:
    """A number with three significant digits.

    >>> said(0.0012345), said(None)
    ('0.00123', None)
    """
    return None if value is None else f"{value:.3g}"
