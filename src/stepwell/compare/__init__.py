"""Compare optimizers fairly: equal tuning budgets, equal seeds, one schedule, and the metric at the end of the decay.

>>> from stepwell.compare import compare
>>> result = compare("digits", ["sgd", "adamw", "lion"], trials=6, seeds=3, jobs=2, out="runs/demo")  # doctest: +SKIP
>>> for score in result.scores: print(score.optimizer, score.best_lr, score.median)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.errors import loaded

if TYPE_CHECKING:
    from stepwell.compare.function import Run as Run
    from stepwell.compare.outcome import Outcome as Outcome
    from stepwell.compare.plan import Contender as Contender
    from stepwell.compare.plan import Plan as Plan
    from stepwell.compare.plan import Trial as Trial
    from stepwell.compare.result import Result as Result
    from stepwell.compare.run import compare as compare
    from stepwell.compare.scores import Score as Score
    from stepwell.compare.several import Results as Results
    from stepwell.compare.several import compare_tasks as compare_tasks

__all__ = [
    "Contender", "Outcome", "Plan", "Result", "Results", "Run", "Score", "Trial", "compare", "compare_tasks",
]  # fmt: skip

# Loaded when first used: the checks of this room are listed without torch.
_WHERE = {
    "Outcome": "outcome", "Contender": "plan", "Plan": "plan", "Trial": "plan", "Result": "result", "compare": "run",
    "Score": "scores", "Run": "function", "Results": "several", "compare_tasks": "several",
}  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _WHERE:
            return loaded(f"stepwell.compare.{_WHERE[name]}", name)
        raise AttributeError(f"module 'stepwell.compare' has no attribute {name!r}")
