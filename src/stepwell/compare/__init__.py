"""Compare optimizers fairly: equal tuning budgets, equal seeds, one schedule, the metric at the end of the decay.

>>> from stepwell.compare import compare
>>> result = compare("digits", ["sgd", "adamw", "lion"], trials=6, seeds=3, jobs=2, out="runs/demo")
>>> for score in result.scores: print(score.optimizer, score.best_lr, score.median)
"""

from __future__ import annotations

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Plan, Trial
from stepwell.compare.run import Result, compare
from stepwell.compare.scores import Score

__all__ = ["Contender", "Outcome", "Plan", "Result", "Score", "Trial", "compare"]
