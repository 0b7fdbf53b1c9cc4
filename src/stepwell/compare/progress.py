"""The progress of a comparison: bars with the remaining time on a terminal, otherwise one plain line per trial."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Plan, Trial, names
from stepwell.errors import MissingExtra


class Progress(Protocol):
    """Base class: receives the progress of a comparison."""

    def begin(self, plan: Plan, done: Sequence[Outcome]) -> None:
        """The run starts; the outcomes `done` already exist."""

    def step(self, trial: Trial, step: int) -> None:
        """A trial has completed this many steps."""

    def ended(self, outcome: Outcome) -> None:
        """A trial is done."""

    def end(self) -> None:
        """The run is complete or was interrupted."""


class Silent:
    """Shows no progress."""

    def begin(self, plan: Plan, done: Sequence[Outcome]) -> None: ...
    def step(self, trial: Trial, step: int) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...
    def end(self) -> None: ...


class Lines:
    """One plain line per trial, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._count = self._total = 0

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def begin(self, plan: Plan, done: Sequence[Outcome]) -> None:
        self._count, self._total = len(done), plan.planned
        if done:
            self._say(f"resuming: {len(done)} of {self._total} trials are done")
        else:
            self._say(f"{self._total} trials of up to {plan.steps} steps: {names(plan.contenders)}")

    def step(self, trial: Trial, step: int) -> None: ...

    def ended(self, outcome: Outcome) -> None:
        self._count += 1
        self._say(f"[{self._count}/{self._total}] {worded(outcome)}")

    def end(self) -> None: ...


class Bars:
    """One bar per optimizer, with the remaining time, on a terminal."""

    def __init__(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:
            raise MissingExtra("rich", "tools", "stepwell compare") from None
        self._bars: Any = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=Console(stderr=True),
        )
        self._rows: dict[str, Any] = {}
        self._share: dict[str, float] = {}  # of running trials: how much is done
        self._steps = 1
        self._total = self._done = self._fresh = 0.0
        self._started = time.monotonic()

    def begin(self, plan: Plan, done: Sequence[Outcome]) -> None:
        self._steps = plan.steps
        each = plan.tuning + plan.seeds
        self._total, self._done = each * len(plan.contenders), len(done)
        self._started = time.monotonic()
        for contender in plan.contenders:
            mine = sum(outcome.optimizer == contender.name for outcome in done)
            self._rows[contender.name] = self._bars.add_task(contender.name, total=each, completed=mine, news="")
        self._rows[""] = self._bars.add_task("all trials", total=self._total, completed=self._done, news="")
        self._bars.start()

    def step(self, trial: Trial, step: int) -> None:
        self._share[trial.key] = step / self._steps
        self._left()

    def ended(self, outcome: Outcome) -> None:
        self._share.pop(outcome.key, None)
        self._fresh += 1
        self._bars.update(self._rows[outcome.optimizer], advance=1, news=worded(outcome, short=True))
        self._bars.update(self._rows[""], advance=1)
        self._left()

    def _left(self) -> None:
        done = self._fresh + sum(self._share.values())
        if done > 0.5:  # before, process start-up would be taken for the speed of training
            left = (time.monotonic() - self._started) * (self._total - self._done - done) / done
            self._bars.update(self._rows[""], news=f"about {duration(left)} left")

    def end(self) -> None:
        self._bars.stop()


def worded(outcome: Outcome, short: bool = False) -> str:
    """An outcome in one line."""
    what = f"lr {outcome.lr:g}" if outcome.phase == "tune" else f"seed {outcome.seed}"
    end = f"{outcome.final:.4g}" if outcome.final is not None else outcome.status
    if outcome.status == "pruned":
        end = f"cut at step {outcome.steps[-1]} ({outcome.metric[-1]:.4g})"
    if short:
        return f"{what}: {end}"
    error = f" ({outcome.error})" if outcome.error else ""
    return f"{outcome.optimizer} {what}: {end}{error}"


def duration(seconds: float) -> str:
    """A duration in readable form.

    >>> duration(8), duration(75), duration(7300)
    ('8 s', '1 min 15 s', '2 h 1 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def suited(quiet: bool = False) -> Progress:
    """Bars if standard error is a terminal, lines if not, nothing if quiet."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
