"""Schedules: pure functions from the number of an update to a factor, and their composition.

>>> from stepwell.schedules import cosine, warmup
>>> schedule = warmup(500).then(cosine(9500, to=0.1))
>>> schedule(0), schedule(499), schedule.horizon
(0.002, 1.0, 10000)

The docstring of `stepwell.schedules.base` says how steps are counted; each schedule is documented in its own docstring.
"""

from typing import TYPE_CHECKING, Any

from stepwell.schedules import composition as composition  # first: a schedule is whole from here on
from stepwell.schedules.apply import apply, initial_values, resolve
from stepwell.schedules.base import Schedule
from stepwell.schedules.cycles import cosine_restarts, cyclic, one_cycle, one_cycle_momentum
from stepwell.schedules.draw import draw
from stepwell.schedules.expression import parse
from stepwell.schedules.plateau import Plateau
from stepwell.schedules.smooth import (
    constant,
    cooldown,
    cosine,
    exponential,
    exponential_to,
    linear,
    polynomial,
    stable,
)
from stepwell.schedules.stairs import from_function, multi_step, product_of, step
from stepwell.schedules.warmups import (
    inverse_square_root,
    noam,
    noam_peak,
    trapezoid,
    untuned_warmup,
    warmup,
    wsd,
)

if TYPE_CHECKING:
    from stepwell.schedules.scheduler import Scheduler

__all__ = [
    "Plateau",
    "Schedule",
    "Scheduler",
    "apply",
    "constant",
    "cooldown",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "draw",
    "exponential",
    "exponential_to",
    "from_function",
    "initial_values",
    "inverse_square_root",
    "linear",
    "multi_step",
    "noam",
    "noam_peak",
    "one_cycle",
    "one_cycle_momentum",
    "parse",
    "polynomial",
    "product_of",
    "resolve",
    "stable",
    "step",
    "trapezoid",
    "untuned_warmup",
    "warmup",
    "wsd",
]


if not TYPE_CHECKING:  # a checker that saw this function would believe in any name

    def __getattr__(name: str) -> Any:
        if name == "Scheduler":  # needs torch, which a command that only draws does not wait for
            from stepwell.schedules.scheduler import Scheduler

            return Scheduler
        if name.startswith("__"):  # what Python and its tools ask any module for
            raise AttributeError(f"module 'stepwell.schedules' has no attribute {name!r}")
        from stepwell.errors import missing

        raise missing("stepwell.schedules", name, __all__)
