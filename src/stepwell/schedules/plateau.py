"""The one schedule with memory: the rate falls when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stepwell.arguments import choice, number, plain_number, refusal, whole
from stepwell.errors import UsageError, shown


class Plateau:
    """A factor that falls when a metric has stopped improving.

    This one has memory: what it gives depends on all the metrics it was shown, so it is no function of the step, it
    cannot be drawn in advance, and its `state_dict` must be saved (a Scheduler does so). Everything else in
    `stepwell.schedules` is a pure function; prefer those where the length of the run is known.

    Args:
        factor: what one reduction multiplies with, in (0, 1).
        patience: how many observations without improvement are tolerated, at least 0.
        threshold: what counts as an improvement, at least 0.
        threshold_mode: "rel": a part of the best metric's size; "abs": the metric itself.
        cooldown: observations after a reduction in which bad ones do not count, at least 0.
        least: the smallest factor it goes down to, in [0, 1].
        mode: "min" if less is better (a loss), "max" if more is (an accuracy).

    It equals torch's ReduceLROnPlateau but for two faults: with "rel", torch takes the threshold of the metric itself,
    so that for a negative metric getting worse counts as improving (here its size counts); and torch's `eps` silently
    keeps rates below 1e-8 from falling at all.

    >>> plateau = Plateau(factor=0.5, patience=1)
    >>> [plateau.observe(loss) for loss in (1.0, 1.0, 1.0, 0.5)]
    [1.0, 1.0, 0.5, 0.5]
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        *,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        least: float = 0.0,
        mode: str = "min",
    ) -> None:
        self.by = number("Plateau", "factor", factor, above=0)
        if factor >= 1:
            raise UsageError(f"Plateau: factor={shown(factor)} would not lower the rate; it must be in (0, 1)")
        self.patience = whole("Plateau", "patience", patience)
        self.threshold = number("Plateau", "threshold", threshold, least=0)
        self.cooldown = whole("Plateau", "cooldown", cooldown)
        self.least = number("Plateau", "least", least, least=0, most=1)
        self.threshold_mode = choice("Plateau", "threshold_mode", threshold_mode, ("rel", "abs"))
        self.mode = choice("Plateau", "mode", mode, ("min", "max"))
        self.best: float | None = None
        self.bad = 0
        self.cooling = 0
        self.factor = 1.0

    def observe(self, metric: Any) -> float:
        """Take note of a metric (a number, or a tensor of one) and return the factor from now on.

        A metric that is not a number counts as no improvement.
        """
        value = _number(metric)
        if self._improves(value):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad = 0
        if self.bad > self.patience:
            self.factor = max(self.factor * self.by, self.least)
            self.cooling, self.bad = self.cooldown, 0
        return self.factor

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return math.isfinite(value)
        margin = self.threshold * (abs(self.best) if self.threshold_mode == "rel" else 1.0)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"best": self.best, "bad": self.bad, "cooling": self.cooling, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave. Nothing is changed if it is not that."""
        if not isinstance(state, Mapping):
            raise refusal("Plateau", "state", state, "what state_dict() gave")
        missing = {"best", "bad", "cooling", "factor"} - state.keys()
        if missing:
            raise UsageError(f"Plateau: the state has no {', '.join(sorted(missing))}; is it the state of a Plateau?")
        best = None if state["best"] is None else number("Plateau", "best of the state", state["best"])
        bad, cooling = (whole("Plateau", f"{name} of the state", state[name]) for name in ("bad", "cooling"))
        factor = number("Plateau", "factor of the state", state["factor"], least=0, most=1)
        self.best, self.bad, self.cooling, self.factor = best, bad, cooling, factor

    def __repr__(self) -> str:
        return f"Plateau(factor={self.by}, patience={self.patience}, mode={self.mode!r})"


def _number(metric: Any) -> float:
    try:
        if callable(getattr(metric, "reshape", None)):  # a tensor or an array of one number, in any shape
            metric = metric.reshape(())
        plain = plain_number(metric)
        if plain is not None:
            return float(plain)
    except Exception:  # several elements, no values, an int that no float holds
        pass
    raise refusal("Plateau", "metric", metric, "a number, or a tensor of one")


def checked_plateau(owner: str, plateau: Any) -> Plateau | None:
    """`plateau`, or UsageError for what is none."""
    if plateau is not None and not isinstance(plateau, Plateau):
        raise UsageError(
            f"{owner}: plateau={shown(plateau)}; it must be a Plateau of stepwell.schedules, as Plateau(factor=0.5)"
        )
    return plateau
