"""Weights & Biases: metrics over the doctor's own axis, and alerts."""

from __future__ import annotations

from typing import Any

from stepwell.doctor.writers.writer import PREFIX, Level, package, prefixed
from stepwell.errors import UsageError

AXIS = f"{PREFIX}step"
LEVELS = {"error": "ERROR", "warning": "WARN", "note": "INFO"}
TITLE = 64  # characters of an alert's title


class WandB:
    """Logs to a run of wandb: the user's, or the active one.

    The step is the metric `doctor/step`, which is defined as the x axis of all `doctor/...`. The argument `step` of
    wandb's `log` is not used: wandb drops what is logged with a step below that of the last call, of anybody.

    Args:
        run: the user's run; None: the active run. The run is never finished here.

    Raises MissingExtra if `run` is None and wandb is not installed; UsageError if no run is active.
    """

    def __init__(self, run: Any = None) -> None:
        if run is None:
            run = package("wandb", "wandb").run
            if run is None:
                raise UsageError("the doctor's writer 'wandb' found no active run; call wandb.init() first")
        self._run = run
        run.define_metric(AXIS)
        run.define_metric(f"{PREFIX}*", step_metric=AXIS)

    def step(self, step: int, values: dict[str, float]) -> None:
        self._run.log({AXIS: step, **prefixed(values)})

    def finding(self, step: int, text: str, level: Level) -> None:
        title = f"step {step}: {text.splitlines()[0] if text else level}"
        self._run.alert(title=title[:TITLE], text=text, level=LEVELS[level])

    def close(self) -> None:
        """Nothing: the run is the user's, and wandb writes in the background."""
