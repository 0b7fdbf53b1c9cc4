"""Writers: the doctor's numbers and findings in TensorBoard, Weights & Biases, Trackio or MLflow.

>>> class Mine:
...     def step(self, step, values): print(step, values)
...     def finding(self, step, text, level): print(step, level, text)
...     def close(self): pass
>>> writer(Mine()).step(3, {"loss": 0.5})
3 {'loss': 0.5}
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stepwell.doctor.writers.writer import Level, Writer
from stepwell.errors import UsageError, shown, unknown

__all__ = ["NAMES", "Level", "Writer", "writer"]

NAMES = {"tensorboard": "TensorBoard", "wandb": "WandB", "trackio": "Trackio", "mlflow": "MLflow"}


def writer(name_or_object: Any) -> Writer:
    """The writer for a name or for an object of another tool.

    Args:
        name_or_object: "tensorboard", "wandb", "trackio" or "mlflow": the tool's active run (TensorBoard: a new
            SummaryWriter). Or the user's SummaryWriter, wandb run, trackio run, or the module of one of these tools.
            Or an object with the methods step, finding and close, which is returned unchanged.

    Raises UsageError for anything else, MissingExtra for a package that is not installed.
    """
    given = name_or_object
    if isinstance(given, str):
        if given.lower() not in NAMES:
            raise unknown("writer", given, NAMES)
        return _made(given.lower())
    if isinstance(given, type):
        raise UsageError(f"writer={shown(given)} is a class; give an object, as {given.__name__}()")
    root = type(given).__module__.partition(".")[0]
    module = getattr(given, "__name__", "") if type(given).__name__ == "module" else ""
    if module in NAMES:
        return _made(module, given if module == "mlflow" else None)
    if callable(getattr(given, "add_scalar", None)) and callable(getattr(given, "add_text", None)):
        return _made("tensorboard", given)  # torch's, tensorboardX's, or one that wraps them
    if callable(getattr(given, "log", None)):
        if callable(getattr(given, "define_metric", None)):
            return _made("wandb", given)
        if root == "trackio":
            return _made("trackio", given)
    if all(callable(getattr(given, method, None)) for method in ("step", "finding", "close")):
        found: Writer = given
        return found
    raise UsageError(
        f"writer={shown(given)}; it must be one of {', '.join(NAMES)}, a SummaryWriter, a run of wandb or trackio, "
        "or an object with the methods step, finding and close"
    )


def _made(name: str, *given: Any) -> Writer:
    made: Writer = getattr(import_module(f"stepwell.doctor.writers.{name}"), NAMES[name])(*given)
    return made
