"""Pruning of hopeless learning-rate trials: Optuna's percentile pruner, active from the middle of the run on.

Rankings change while the rate decays (a high rate looks bad until late). So a trial is stopped only from the middle of
the run on, and only if its best metric so far is worse than that of three quarters of the earlier trials at that step.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from stepwell.compare.outcome import Outcome
from stepwell.errors import MissingExtra

FIRST = 0.5  # of the run: no trial is cut before
KEPT = 75.0  # percent: a trial is cut if it is not among this share of the earlier ones
FEWEST = 3  # earlier trials that ran to the end; with fewer nobody is judged


class Judge:
    """Decides whether a running trial is hopeless compared with earlier trials.

    Args:
        rivals: outcomes of the same optimizer. Outcomes that diverged or crashed do not count.
        direction: of the metric. steps: of a whole run.

    Raises MissingExtra without Optuna.
    """

    def __init__(self, rivals: Sequence[Outcome], direction: Literal["min", "max"], steps: int) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingExtra("optuna", "tools", "stepwell compare") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        complete, failed = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
        self._study: Any = optuna.create_study(
            direction="maximize" if direction == "max" else "minimize",
            pruner=optuna.pruners.PercentilePruner(KEPT, n_startup_trials=FEWEST, n_warmup_steps=int(FIRST * steps)),
        )
        for outcome in rivals:
            if outcome.status in ("finished", "pruned") and outcome.metric:
                self._study.add_trial(
                    optuna.trial.create_trial(
                        state=complete if outcome.status == "finished" else failed,
                        value=outcome.metric[-1],
                        intermediate_values=dict(zip(outcome.steps, outcome.metric, strict=True)),
                    )
                )
        self._trial: Any = self._study.ask()
        self._steps = steps

    def hopeless(self, step: int, metric: float) -> bool:
        """Report the metric after `step`. Returns whether the trial should stop; False at the last step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trial.report(metric, step)
            return step < self._steps and bool(self._trial.should_prune())
