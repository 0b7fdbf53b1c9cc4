"""stepwell: choose, build, run, tune and debug the optimizer of a PyTorch training run.

The door is lazy: `import stepwell` costs milliseconds and imports neither torch nor numpy. A name is
loaded from its module the first time it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> the module that defines it
_DOOR = {
    "create": "stepwell.optimizers",
    "Optimizer": "stepwell.engine",
    "Slot": "stepwell.engine",
    "UsageError": "stepwell.errors",
    "Finding": "stepwell.findings",
    "Schedule": "stepwell.schedules",
    "Scheduler": "stepwell.schedules",
    "Plateau": "stepwell.schedules",
    "constant": "stepwell.schedules",
    "cosine": "stepwell.schedules",
    "linear": "stepwell.schedules",
    "warmup": "stepwell.schedules",
    "untuned_warmup": "stepwell.schedules",
    "Step": "stepwell.step",
    "AdaptiveClip": "stepwell.step",
    "AutoClip": "stepwell.step",
    "Average": "stepwell.step",
    "SWA": "stepwell.step",
    "ClipNorm": "stepwell.step",
    "ClipValue": "stepwell.step",
    "Done": "stepwell.step",
    "GaussNewtonBartlett": "stepwell.step",
    "Hutchinson": "stepwell.step",
    "find_lr": "stepwell.finder",
    "recalibrate": "stepwell.optimizers.batch_norm",
    "switch": "stepwell.optimizers.switching",
    "Swats": "stepwell.optimizers.swats",
}
_ROOMS = (
    "compare", "curves", "engine", "errors", "finder", "findings", "groups", "ops", "optimizers", "report",
    "schedules", "step", "tasks",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _DOOR:
        return getattr(import_module(_DOOR[name]), name)
    if name in _ROOMS:
        return import_module(f"stepwell.{name}")
    if name[:1].isupper():  # an optimizer's class: AdamW, SGD, ...
        from stepwell.optimizers import TABLE

        if name in TABLE:
            return getattr(import_module("stepwell.optimizers"), name)
    raise AttributeError(f"module 'stepwell' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR, *_ROOMS})
