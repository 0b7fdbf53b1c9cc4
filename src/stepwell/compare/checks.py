"""Reservations about the result of a comparison."""

from __future__ import annotations

from stepwell.findings.check import Check

INCOMPLETE = Check(
    code="C01",
    name="trials-missing",
    severity="warning",
    certainty="certain",
    looks_for="the comparison is not complete",
    why="the figures may change when the other trials finish",
    instead="run the same command again: the comparison resumes",
    example_bad="30 of 45 trials are done",
    example_good="45 of 45 trials are done",
)
CRASHED = Check(
    code="C02",
    name="trials-crashed",
    severity="error",
    certainty="certain",
    looks_for="trials of an optimizer ended in an exception",
    why="its budget was smaller than that of the others",
    instead="fix the cause, and run the same command with --retry",
    silent_when="a trial diverged: a divergence is a valid result",
    example_bad="2 of 6 trials of adamw crashed: CUDA out of memory",
    example_good="all 6 trials of adamw finished or diverged",
)
NO_RATE = Check(
    code="C03",
    name="no-rate-finished",
    severity="error",
    certainty="certain",
    looks_for="no learning rate of the range finished",
    why="the optimizer has no score",
    instead="give another range of learning rates, with --lr-range NAME=low:high",
    silent_when="trials are still missing",
    example_bad="no learning rate from 1 to 100 finished",
    example_good="3 of 6 learning rates from 0.01 to 1 finished",
)
EDGE = Check(
    code="C04",
    name="best-rate-at-the-edge",
    severity="warning",
    certainty="certain",
    looks_for="the best value of a hyperparameter is the lowest or the highest of those tried",
    why="a better one may lie beyond, so the score may be too low and the ranking wrong",
    instead="give more --trials: the range continues to widen, and every trial so far is used",
    example_bad="tried 1e-4 to 1e-2, the best is 1e-2",
    example_good="tried 1e-4 to 1, the best is 1e-2",
)
SEEDS_LOST = Check(
    code="C05",
    name="seeds-not-finished",
    severity="warning",
    certainty="certain",
    looks_for="some of the seeds at the best learning rate did not finish",
    why="its median covers only the finished seeds and is therefore optimistic",
    instead="treat the optimizer as unstable at this learning rate; a lower rate, or clipping, may be stable",
    example_bad="2 of 5 seeds diverged",
    example_good="5 of 5 seeds finished",
)
FEW_SEEDS = Check(
    code="C06",
    name="few-seeds",
    severity="note",
    certainty="certain",
    looks_for="fewer than three seeds for each optimizer",
    why="the spread between seeds is unknown, so small differences are not significant",
    instead="use --seeds 3 or more",
    example_bad="--seeds 1",
    example_good="--seeds 5",
)
OVERLAP = Check(
    code="C07",
    name="seeds-overlap",
    severity="note",
    certainty="certain",
    looks_for="the metrics of the best optimizer's seeds overlap with those of another optimizer",
    why="the order among them may be chance",
    instead="use more --seeds before choosing between them by this metric",
    silent_when="there are fewer than three seeds (C06 says so)",
    example_bad="adamw 0.91 to 0.95, lion 0.92 to 0.94",
    example_good="adamw 0.94 to 0.95, lion 0.91 to 0.92",
)
TARGET_MISSED = Check(
    code="C08",
    name="target-not-reached",
    severity="note",
    certainty="certain",
    looks_for="an optimizer did not reach the target of the task",
    why="it has no number of steps to the target",
    instead="use more --steps, or compare only the final metric",
    silent_when="the comparison is not complete, or the task has no target",
    example_bad="target 0.95, best 0.93",
    example_good="target 0.95, reached at step 120",
)
MORE_GRADIENTS = Check(
    code="C09",
    name="more-gradients-per-step",
    severity="note",
    certainty="certain",
    looks_for="an optimizer takes more than one gradient per step",
    why="with an equal number of steps it uses more gradients than the others, and takes longer",
    instead="compare the seconds to the target, or give the other optimizers an equal number of gradients",
    example_bad="SAM and AdamW, both for 1,000 steps",
    example_good="SAM for 500 steps and AdamW for 1,000",
    reference="Foret et al., arXiv 2010.01412, section 4: SAM against SGD with twice the epochs",
)

CHECKS = (INCOMPLETE, CRASHED, NO_RATE, EDGE, SEEDS_LOST, FEW_SEEDS, OVERLAP, TARGET_MISSED, MORE_GRADIENTS)
