"""stepwell: choose, build, run, tune and debug the optimizer of a PyTorch training run.

Imports are lazy: `import stepwell` takes milliseconds and imports neither torch nor numpy. A name is loaded from its
module at its first use. Type checkers and editors read the imports below, which never run; a test checks that the two
lists agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell import advisor as advisor
    from stepwell import compare as compare
    from stepwell import curves as curves
    from stepwell import doctor as doctor
    from stepwell import engine as engine
    from stepwell import errors as errors
    from stepwell import finder as finder
    from stepwell import findings as findings
    from stepwell import groups as groups
    from stepwell import lint as lint
    from stepwell import ops as ops
    from stepwell import optimizers as optimizers
    from stepwell import report as report
    from stepwell import schedules as schedules
    from stepwell import step as step
    from stepwell import tasks as tasks
    from stepwell.advisor.advice import advise as advise
    from stepwell.advisor.advice import recipe as recipe
    from stepwell.advisor.recipe import Recipe as Recipe
    from stepwell.anatomy.batch_norm import recalibrate as recalibrate
    from stepwell.doctor import Doctor as Doctor
    from stepwell.engine import Optimizer as Optimizer
    from stepwell.engine import Slot as Slot
    from stepwell.errors import UsageError as UsageError
    from stepwell.finder import find_lr as find_lr
    from stepwell.findings import Finding as Finding
    from stepwell.optimizers import create as create
    from stepwell.optimizers.table import *  # noqa: F403
    from stepwell.schedules import Plateau as Plateau
    from stepwell.schedules import Schedule as Schedule
    from stepwell.schedules import Scheduler as Scheduler
    from stepwell.schedules import constant as constant
    from stepwell.schedules import cosine as cosine
    from stepwell.schedules import linear as linear
    from stepwell.schedules import untuned_warmup as untuned_warmup
    from stepwell.schedules import warmup as warmup
    from stepwell.step import SWA as SWA
    from stepwell.step import AdaptiveClip as AdaptiveClip
    from stepwell.step import AutoClip as AutoClip
    from stepwell.step import Average as Average
    from stepwell.step import ClipNorm as ClipNorm
    from stepwell.step import ClipValue as ClipValue
    from stepwell.step import Done as Done
    from stepwell.step import GaussNewtonBartlett as GaussNewtonBartlett
    from stepwell.step import Hutchinson as Hutchinson
    from stepwell.step import Step as Step
    from stepwell.switching import switch as switch
    from stepwell.wrappers.swats import Swats as Swats

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
    "Doctor": "stepwell.doctor",
    "find_lr": "stepwell.finder",
    "recalibrate": "stepwell.anatomy.batch_norm",
    "switch": "stepwell.switching",
    "Swats": "stepwell.wrappers.swats",
    "advise": "stepwell.advisor.advice",
    "recipe": "stepwell.advisor.advice",
    "Recipe": "stepwell.advisor.recipe",
}
_ROOMS = (
    "advisor", "compare", "curves", "doctor", "engine", "errors", "finder", "findings", "groups", "lint", "ops",
    "optimizers", "report", "schedules", "step", "tasks",
)  # fmt: skip


if not TYPE_CHECKING:  # a checker that saw this function would believe in any name

    def __getattr__(name: str) -> Any:
        from stepwell.errors import loaded

        if name in _DOOR:
            return loaded(_DOOR[name], name)
        if name in _ROOMS:
            return loaded(f"stepwell.{name}")
        if name.startswith("__"):  # what Python and its tools ask any module for
            raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
        from stepwell.optimizers import TABLE

        if name in TABLE:
            return loaded("stepwell.optimizers", name)
        from stepwell.errors import missing

        raise missing("stepwell", name, [*_DOOR, *_ROOMS, *TABLE])


def __dir__() -> list[str]:
    from stepwell.optimizers import TABLE

    return sorted({*globals(), *_DOOR, *_ROOMS, *TABLE})
