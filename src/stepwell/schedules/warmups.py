"""The warmup, and schedules that begin with a warmup: trapezoid and inverse square root."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from stepwell.arguments import fraction, number
from stepwell.errors import UsageError, shown
from stepwell.schedules.base import Schedule
from stepwell.schedules.fields import settle, settle_choice
from stepwell.schedules.lengths import length_of, steps_of
from stepwell.schedules.shape import Endless, Shape
from stepwell.schedules.smooth import cooldown, stable


@dataclass(frozen=True, repr=False)
class warmup(Shape):
    """A rise to the full value, then the full value.

        factor(k) = start + (1 - start) * shape((k + 1) / n),   1 from k = n - 1 on

    The first update has a rate above 0: `warmup(500)` begins at 1/500, and update number 499 is the first at the full
    value. So in `warmup(500).then(...)` the next schedule begins at 500, and no update has a rate of zero. (Many
    implementations begin at 0 and lose one update, in a short fine-tuning a noticeable part of the data.)

    Args:
        steps: length in steps (int), or a fraction of the run (float in (0, 1]), resolved when the run's length is
            known (`over`, or `total_steps` of a Scheduler).
        start: the factor from which the warmup rises, in [0, 1].
        shape: "linear"; "cosine" (slow at both ends); "exponential" (needs start above 0).

    Source: Goyal et al. 1706.02677, section 2.2 (gradual warmup). For the length with Adam see `untuned_warmup`.

    >>> warmup(4).then(cosine(4)).values(6)
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535533905932737]
    """

    start: float = 0.0
    shape: str = "linear"
    _holds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "start", least=0, most=1)
        settle_choice(self, "shape", ("linear", "cosine", "exponential"))
        if self.shape == "exponential" and self.start == 0:
            raise UsageError(
                "warmup: shape='exponential' with start=0 never rises; give a start above 0, as start=0.01"
            )
        if self.steps is None:
            raise UsageError("warmup() needs a length, in steps as in warmup(500) or as a fraction as in warmup(0.05)")

    def _at(self, step: int) -> float:
        done = min(1.0, (step + 1) / self._n)
        if self.shape == "exponential":
            return self.start ** (1 - done)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start * (1 - done) + done

    def _warmup(self) -> int:
        return self.steps if isinstance(self.steps, int) else 0

    def _joins(self) -> tuple[int, ...]:
        return (self._n,)


def untuned_warmup(beta2: float = 0.999) -> warmup:
    """A default warmup for Adam without tuning: linear over 2 / (1 - beta2) steps.

    2000 steps for beta2 = 0.999, 40 for 0.95. After these steps, Adam's second moment averages enough gradients. The
    effect is close to that of RAdam.

    Args:
        beta2: decay of Adam's second moment, in [0, 1).

    Source: Ma, Yarats, "On the adequacy of untuned warmup for adaptive optimization", 1910.04209, equation 8.

    >>> untuned_warmup(0.95)
    warmup(40)
    """
    beta2 = fraction("untuned_warmup", "beta2", beta2)
    return warmup(round(2 / (1 - beta2)))


def trapezoid(
    steps: int | float | None = None,
    *,
    warmup: int | float = 0.02,
    cooldown: int | float = 0.2,
    to: float = 0.0,
    shape: str = "1-sqrt",
) -> Schedule:
    """Warmup, then the full rate, then a cooldown: also called warmup-stable-decay (`wsd`).

    The constant part has no fixed end: a run can be extended, or cooled down from any of its checkpoints. A cosine
    needs the length of the run in advance.

    Args:
        steps: the whole length in steps; None: the length of the run. With a number, fractions are of that number.
        warmup: the length of the warmup, in steps or as a fraction of the whole.
        cooldown: the length of the cooldown, likewise; 0.2 is usual, and up to 0.65 was best in speed runs.
        to: the factor at the end, in [0, 1].
        shape: shape of the cooldown: "1-sqrt", "linear" or "cosine".

    Source: Zhai et al. 2106.04560 (reciprocal square root with cooldown); Hu et al., "MiniCPM", 2404.06395, section 4;
    Hagele et al. 2405.18392.

    >>> trapezoid(1000, warmup=50, cooldown=0.2)
    warmup(50).then(constant(750)).then(cooldown(200))
    """
    return _trapezoid(steps, warmup, cooldown, to, shape)


def _trapezoid(steps: int | float | None, rise: int | float, fall: int | float, to: float, shape: str) -> Schedule:
    last = cooldown(fall, to=to, shape=shape)
    first = warmup(rise)
    for name, length in (("warmup", first.steps), ("cooldown", last.steps)):
        if length is None:
            raise UsageError(f"trapezoid: {name}=None; it must be a number of steps or a fraction of the whole")
    whole = length_of("trapezoid", steps)
    if isinstance(whole, float):
        raise UsageError(
            f"trapezoid({shown(steps)}); it must be a number of steps (int) or None; only the parts can be fractions "
            "of the run"
        )
    schedule = first.then(stable()).then(last)
    return schedule if whole is None else schedule.over(whole)


wsd = trapezoid


@dataclass(frozen=True, repr=False)
class inverse_square_root(Endless):
    """A linear warmup, then the inverse square root of the step; never ends. Noam's schedule, with its peak at 1.

        t = k + 1;  factor(k) = min(t / w, sqrt(w / t))

    Args:
        warmup: w: steps (int) or a fraction of the run (float). The factor is 1 at update number w - 1.

    The paper writes the rate itself, d_model^-0.5 * min(t^-0.5, t * w^-1.5). With
    `noam_peak(d_model, w)` as the optimizer's lr, the product is the rate of the paper.

    Source: Vaswani et al., "Attention is all you need", 1706.03762, equation 3 (w = 4000).

    >>> inverse_square_root(4).values(16)[::5]
    [0.25, 0.816496580927726, 0.6030226891555273, 0.5]
    """

    warmup: int | float

    def __post_init__(self) -> None:
        if length_of("inverse_square_root", self.warmup) is None:
            raise UsageError(
                "inverse_square_root(None); it must be the length of the warmup, as in inverse_square_root(4000)"
            )
        object.__setattr__(self, "warmup", length_of("inverse_square_root", self.warmup))

    @property
    def resolved(self) -> bool:
        return isinstance(self.warmup, int)

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        return replace(self, warmup=steps_of(self, self.warmup, total, rest, before))

    def _warmup(self) -> int:
        return self.warmup if isinstance(self.warmup, int) else 0

    def _joins(self) -> tuple[int, ...]:
        return (int(self.warmup),)

    def _at(self, step: int) -> float:
        t = step + 1
        return t / self.warmup if t < self.warmup else math.sqrt(self.warmup / t)


noam = inverse_square_root


def noam_peak(d_model: int, warmup: int) -> float:
    """The largest rate of the paper's schedule, (d_model * warmup)^-0.5: the lr for `noam(warmup)`.

    >>> round(noam_peak(512, 4000), 7)
    0.0006988
    """
    width, steps = number("noam_peak", "d_model", d_model, least=1), number("noam_peak", "warmup", warmup, least=1)
    return float(width * float(steps)) ** -0.5
