"""The only schedule with state: the learning rate falls when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stepwell.arguments import choice, number, plain_number, refusal, whole
from stepwell.errors import UsageError, shown


class Plateau:
    """A factor that falls when a metric has stopped improving.

    A Plateau has state: its factor depends on all observed metrics. So a Plateau is not a function of the step, cannot
    be plotted in advance, and its `state_dict` must be saved (Step and Scheduler save it). All other schedules are pure
    functions; prefer them if the length of the run is known.

    Args:
        factor: the factor of one reduction, in (0, 1).
        patience: how many observations without improvement are tolerated, at least 0.
        threshold: the smallest change that counts as an improvement, at least 0.
        threshold_mode: "rel": threshold relative to the absolute value of the best metric; "abs": absolute threshold.
        cooldown: observations after a reduction that are not counted as bad, at least 0.
        least: lower bound of the factor, in [0, 1].
        mode: "min" if lower is better (a loss), "max" if higher is better (an accuracy).

    Two differences from torch's ReduceLROnPlateau: with "rel", torch multiplies the signed metric by the threshold, so
    that for a negative metric a worse value counts as an improvement (here the absolute value is used); and torch's
    `eps` silently keeps rates from falling by less than 1e-8.

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
            raise UsageError(f"Plateau: factor={shown(factor)} ; it must be in (0, 1), to lower the rate")
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
        """Observe a metric (a number, or a tensor of one number) and return the new factor.

        A metric that is nan does not count as an improvement.
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
        """The state."""
        return {"best": self.best, "bad": self.bad, "cooling": self.cooling, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`. Raises UsageError for any other value; nothing is changed then."""
        if not isinstance(state, Mapping):
            raise refusal("Plateau", "state", state, "the result of state_dict()")
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
    raise refusal("Plateau", "metric", metric, "a number, or a tensor of one number")


def checked_plateau(owner: str, plateau: Any) -> Plateau | None:
    """`plateau`. Raises UsageError if it is not a Plateau."""
    if plateau is not None and not isinstance(plateau, Plateau):
        raise UsageError(
            f"{owner}: plateau={shown(plateau)}; it must be a Plateau of stepwell.schedules, as Plateau(factor=0.5)"
        )
    return plateau
