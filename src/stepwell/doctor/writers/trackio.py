"""Trackio: metrics by step, and alerts."""

from __future__ import annotations

from inspect import signature
from typing import Any

from stepwell.doctor.writers.writer import Level, package, prefixed

LEVELS = {"error": "ERROR", "warning": "WARN", "note": "INFO"}


class Trackio:
    """Logs to a run of trackio: the user's, or the current one of `trackio.init()`.

    Args:
        run: the user's run; None: the current run. The run is never finished here.

    Raises MissingExtra if `run` is None and trackio is not installed. Without `trackio.init()`, trackio itself raises
    at the first record.
    """

    def __init__(self, run: Any = None) -> None:
        self._to = package("trackio", "trackio") if run is None else run

    def step(self, step: int, values: dict[str, float]) -> None:
        self._to.log(prefixed(values), step=step)

    def finding(self, step: int, text: str, level: Level) -> None:
        alert = getattr(self._run(), "alert", None)
        if alert is None:  # an older trackio
            self._to.log({f"doctor/{level}": text}, step=step)
            return
        title = f"step {step}: {text.splitlines()[0] if text else level}"
        own = {"step": step} if "step" in signature(alert).parameters else {}
        alert(title=title, text=text, level=_level(level), **own)

    def _run(self) -> Any:
        """The run. The function `trackio.alert` takes no step and uses the last one that anybody logged."""
        context = getattr(self._to, "context_vars", None)
        return self._to if context is None else context.current_run.get() or self._to

    def close(self) -> None:
        """Nothing: the run is the user's, and trackio writes in the background."""


def _level(level: Level) -> Any:
    """Trackio's own word for a level."""
    return getattr(package("trackio", "trackio").AlertLevel, LEVELS[level])
