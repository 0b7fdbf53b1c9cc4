"""The record of one cause: what it is, which symptoms it fits, and how the known facts weigh for and against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stepwell.doctor.symptoms.facts import Facts

# In the order in which causes are checked and fixed: a fault of an earlier tier explains the symptoms of later ones.
TIERS = (
    "wiring",
    "learning rate",
    "numerical stability",
    "batch and data",
    "gradients and model",
    "progress",
    "optimizer choice",
)

# What a weight may be. Every other factor lies between two of them.
EXCLUDED = 0.0  # the facts rule the cause out
AGAINST = 0.4  # the facts speak against it
NEUTRAL = 1.0  # nothing speaks for or against it
SPEAKS = 2.0  # a fact speaks for it
FAR = 4.0  # a given number is far outside the usual ones

Text = str | Callable[[Facts], str]


@dataclass(frozen=True)
class Record:
    """One possible cause.

    Args:
        name: short, with hyphens: "lr-too-high".
        tier: one of TIERS.
        title: the cause as a sentence without a period.
        fits: symptom -> how often the cause is behind it, from 0 to 1, where nothing else is known. A rough weight from
            debugging guides and issue threads, and not a measured frequency.
        why: why this cause, with the given numbers.
        test: what to run or to look at, to confirm or refute it.
        fix: what to change, as code where possible.
        weigh: the factor of the known facts, from EXCLUDED to FAR.
    """

    name: str
    tier: str
    title: str
    fits: Mapping[str, float]
    why: Text
    test: Text
    fix: Text
    weigh: Callable[[Facts], float] = lambda facts: NEUTRAL


def filled(text: Text, facts: Facts) -> str:
    return text if isinstance(text, str) else text(facts)


def likely(fit: float, factor: float) -> float:
    """How likely a cause is: `factor` independent pieces of evidence of the same strength.

    >>> likely(0.5, 2), likely(0.5, 1), likely(0.5, 0)
    (0.75, 0.5, 0.0)
    """
    return round(1 - (1 - fit) ** factor, 2)
