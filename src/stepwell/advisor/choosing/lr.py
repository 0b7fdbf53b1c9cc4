"""The learning rate and its range: the weighted median of published rates, each brought to the asked batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepwell.advisor import scaling
from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import NEAR, Ground
from stepwell.advisor.consensus import lr_of
from stepwell.advisor.published import kind_of

# The range is the estimate times and over exp(width): width = WIDTH * sqrt(SPREAD^2 + variance of the weighted rates).
# Calibrated on 85 configurations that were collected after the rules stood (84 % inside; 66 % with 1.5 and 0.8, which
# leaving out one member at a time had suggested) and by leaving one member of a family out, with its copies (91 %):
# bench/advisor.py prints both (goal: 80 to 95 %).
WIDTH, SPREAD = 1.8, 1.2


@dataclass(frozen=True)
class Estimate:
    """A learning rate with its range, and the published rates behind it."""

    lr: float
    low: float
    high: float
    sources: tuple[str, ...]
    words: tuple[str, ...]


def estimate(ground: Ground, kind: str) -> Estimate | None:
    """The learning rate for this kind of optimizer; None if nothing was published for it."""
    one = ground.situation
    rates: list[tuple[float, float, str, str]] = []
    for neighbor, weight in ground.among(kind):
        found = scaling.brought(neighbor.row, one, kind)
        if found is not None:
            rates.append((found[0], weight, neighbor.row.id, found[1]))
    line = ground.agreed(kind)
    agreed = lr_of(line, one) if line is not None else None
    if line is not None and agreed:
        batch = one.batch_in_samples
        rate = math.log(agreed) + (scaling.step(kind, batch / line.per) if batch and line.per else 0.0)
        rates.append((rate, ground.weight, line.source, f"consensus for {line.name}"))
    total = sum(weight for _, weight, _, _ in rates)
    if not rates or total <= 0:
        return None
    center = _median(sorted((rate, weight) for rate, weight, _, _ in rates), total / 2)
    variance = sum(weight * (rate - center) ** 2 for rate, weight, _, _ in rates) / total
    width = WIDTH * math.sqrt(SPREAD**2 + variance)
    heaviest = sorted(rates, key=lambda rate: -rate[1])[:4]
    return Estimate(
        _round(math.exp(center)),
        _round(math.exp(center - width)),
        _round(math.exp(center + width)),
        tuple(source for _, _, source, _ in heaviest),
        tuple(f"{math.exp(rate):.2g} ({source}{', ' + said if said else ''})" for rate, _, source, said in heaviest),
    )


def choose(ground: Ground, optimizer: str) -> Choice | None:
    """The learning rate for an optimizer by its published name; None if nothing was published for it."""
    kind = kind_of(optimizer)
    found = estimate(ground, kind)
    if found is None:
        return None
    mine = ground.among(kind)
    near = mine[0][0].distance if mine else math.inf
    ratio = found.high / found.low
    sure = "low" if near > NEAR else "high" if ratio < 12 and near < 2 else "medium"
    batch = ground.situation.batch_in_samples
    return Choice(
        found.lr,
        "published rates near this: " + "; ".join(found.words),
        found.sources,
        sure,  # type: ignore[arg-type]
        "another batch size (scaled() says the rule)" if batch else "the batch size, which is not known",
        found.low,
        found.high,
    )


def _median(ordered: list[tuple[float, float]], half: float) -> float:
    passed = 0.0
    for rate, weight in ordered:
        passed += weight
        if passed >= half:
            return rate
    return ordered[-1][0]


def _round(value: float) -> float:
    """Three digits: a published rate is rarely known to more.

    >>> _round(0.00056234)
    0.000562
    """
    return float(f"{value:.3g}")
