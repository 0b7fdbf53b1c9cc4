"""MLflow: metrics by step, and findings as texts among the artifacts."""

from __future__ import annotations

from typing import Any

from stepwell.doctor.writers.writer import PREFIX, Level, package, prefixed


class MLflow:
    """Logs to the active run of MLflow, or to one run of a client.

    Args:
        module: the module mlflow, or what has its `log_metrics`, `log_text` and `set_tag`; None imports mlflow.

    Where no run is active, MLflow starts one. The run is never ended here. Raises MissingExtra if mlflow is not
    installed.
    """

    def __init__(self, module: Any = None) -> None:
        self._to = package("mlflow", "mlflow") if module is None else module
        self._count = 0

    def step(self, step: int, values: dict[str, float]) -> None:
        self._to.log_metrics(prefixed(values), step=step)

    def finding(self, step: int, text: str, level: Level) -> None:
        self._count += 1  # two findings of one step are two files
        self._to.log_text(text, f"{PREFIX}findings/step-{step:08d}-{self._count:03d}-{level}.txt")
        self._to.set_tag(f"{PREFIX}{level}", f"step {step}: {text.splitlines()[0] if text else level}"[:500])

    def close(self) -> None:
        """Nothing: the run is the user's, and MLflow writes at each call."""
