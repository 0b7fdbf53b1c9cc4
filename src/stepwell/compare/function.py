"""A function as the task of a comparison, from Python or a notebook."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepwell.compare.axes import WARMUP, applied
from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Contender, Trial, schedule_of
from stepwell.errors import UsageError, shown
from stepwell.optimizers import create, find
from stepwell.schedules import Schedule
from stepwell.tasks.task import Metric, last_line


class Run:
    """What a function is given for one trial.

    Attributes:
        name: the optimizer, as the comparison calls it. lr, seed: of this trial. settings: other tuned values.
        steps: the length of the schedule.

    >>> def train(run):
    ...     model = torch.nn.Linear(2, 1)
    ...     optimizer = run.optimizer(model)
    ...     step = stepwell.Step(optimizer, run.schedule())
    ...     return 0.5
    """

    def __init__(self, contender: Contender, trial: Trial, steps: int) -> None:
        self.name, self.lr, self.seed, self.steps = contender.name, trial.lr, trial.seed, steps
        self.settings = dict(trial.settings)
        self._contender = contender
        self._curve: list[tuple[int, float]] = []

    def optimizer(self, model_or_params: Any) -> Any:
        """The optimizer of this trial, with its rate and all its settings."""
        options = applied(self._contender, self.settings)
        if "model" in inspect.signature(find(self._contender.optimizer)).parameters:
            options.setdefault("model", model_or_params)
        return create(self._contender.optimizer, model_or_params, lr=self.lr, **options)

    def schedule(self) -> Schedule:
        """The schedule of this trial, over `steps` steps."""
        return schedule_of(self._contender.schedule, self.steps, self.settings.get("warmup", WARMUP))

    def report(self, step: int, metric: float) -> None:
        """One point of the curve, for the report; the value that the function returns is the final one."""
        self._curve.append((int(step), float(metric)))


@dataclass(frozen=True)
class Function:
    """`train(run) -> metric`, and what the metric means."""

    train: Callable[[Run], float]
    direction: Literal["min", "max"]
    key: str = ""
    target: float | None = None
    steps: int = 1000
    family: str = "function"
    batch_size: int | None = None
    surface: None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return getattr(self.train, "__name__", type(self.train).__name__).strip("<>")

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.train) or f"the function {self.name}").splitlines()[0]

    @property
    def metric(self) -> Metric:
        return Metric(self.key or "metric", self.direction, lambda model: math.nan)

    @property
    def digest(self) -> str:
        """Of the source of the function: another function is another task."""
        try:
            text = inspect.getsource(self.train)
        except (OSError, TypeError):  # typed into a prompt, or a callable object
            text = repr(getattr(getattr(self.train, "__code__", None), "co_code", self.name))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]

    def run(self, contender: Contender, trial: Trial, steps: int) -> Outcome:
        """One trial, in this process. What the function raises is the trial's outcome."""
        import torch

        run = Run(contender, trial, steps)
        torch.manual_seed(trial.seed)
        begun = time.perf_counter()
        by = f"process {os.getpid()}"
        try:
            value = self.train(run)
        except Exception as error:  # a user's function may raise anything; the other trials follow
            return crashed(trial, last_line(error), by=by)
        seconds = time.perf_counter() - begun
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"compare: {self.name}(run) returned {shown(value)}; it must return the metric, a number")
        curve = [(step, metric) for step, metric in run._curve if math.isfinite(metric)]
        if not curve or curve[-1][1] != value:
            curve.append((max([steps, *(step for step, _ in curve)]), float(value)))
        finite = math.isfinite(value)
        kept = curve if finite else curve[:-1]
        last = max(1, kept[-1][0]) if kept else 1
        return Outcome(
            trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, "finished" if finite else "diverged",
            "" if finite else f"the metric is {value}", steps=[step for step, _ in kept], metric=[m for _, m in kept],
            loss=[None] * len(kept), seconds=[round(seconds * step / last, 6) for step, _ in kept],
            final=float(value) if finite else None, id=trial.id, settings=dict(trial.settings), by=by,
        )  # fmt: skip
