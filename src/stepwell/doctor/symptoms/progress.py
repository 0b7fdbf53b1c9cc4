"""Causes, tier 6: the training works, and its result or its measure is the question."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import Facts
from stepwell.doctor.symptoms.record import AGAINST, EXCLUDED, NEUTRAL, SPEAKS, Record

TIER = "progress"


def _regularization(facts: Facts) -> float:
    return SPEAKS if facts.yes("dropout") or facts.yes("augmentation") else NEUTRAL


CAUSES = (
    Record(
        name="overfitting",
        tier=TIER,
        title="The model learns the training data by heart",
        fits={"overfits": 0.7, "drop_then_rise": 0.35, "forgets": 0.15, "plateau": 0.05},
        why="validation loss that rises while training loss falls, over 5 evaluations or more, is overfitting; a "
        "gap alone "
        "is not",
        test="evaluate with more data: if the gap shrinks with twice the data, it is overfitting",
        fix="more data or augmentation; keep the best checkpoint; then stronger decay:\n"
        "    torch.optim.AdamW(params, lr=lr, weight_decay=0.1)  # 3 to 10 times the present one",
        weigh=lambda facts: AGAINST if facts.moment == "start" else NEUTRAL,
    ),
    Record(
        name="needs-more-steps",
        tier=TIER,
        title="The training is not finished",
        fits={"slow": 0.3, "plateau": 0.25, "stuck": 0.05, "reward_flat": 0.2, "not_working": 0.12},
        why="a straight line of log loss over log steps still falls; the last part of a decay brings much of the gain",
        test="fit a line to the log of the loss over the last 20% of steps: a gain below 1% for what remains is a "
        "plateau",
        fix="plan a longer run with the schedule stretched over all its steps, and not a constant rate at the end",
        weigh=lambda facts: AGAINST if facts.moment in ("start", "early") else NEUTRAL,
    ),
    Record(
        name="noise-floor-reached",
        tier=TIER,
        title="The loss is as low as the data allows",
        fits={"plateau": 0.3},
        why="label noise and what the inputs do not tell set a lower limit",
        test="compare with a strong baseline, and look at the 50 samples of the largest loss",
        fix="better labels or inputs; no setting of the optimizer helps",
        weigh=lambda facts: AGAINST if facts.moment in ("start", "early") else NEUTRAL,
    ),
    Record(
        name="evaluation-too-small",
        tier=TIER,
        title="The evaluation is too small to show the difference",
        fits={"val_noisy": 0.45, "irreproducible": 0.3, "val_better": 0.15},
        why="accuracy on n samples has a standard error of up to 0.5/sqrt(n): 1.6 points on 1,000 samples",
        test="evaluate one checkpoint on two halves of the validation data, and train with 3 seeds",
        fix="evaluate more samples, average the weights (EMA), and compare means over seeds",
    ),
    Record(
        name="regularization-gap",
        tier=TIER,
        title="Training is measured with dropout and augmentation, validation without",
        fits={"val_better": 0.6, "train_eval": 0.2},
        why="training loss is also an average over the epoch, while validation is measured after it",
        test="evaluate the training data in eval() mode without augmentation: the gap should be gone",
        fix="no fault: compare both in eval() mode",
        weigh=_regularization,
    ),
    Record(
        name="noise-of-the-loss",
        tier=TIER,
        title="The curve shows the noise of single batches",
        fits={"oscillates": 0.2, "periodic": 0.05, "gan_collapse": 0.12},
        why="the loss of one batch varies; only a smoothed curve shows progress, and losses of GANs and of "
        "reinforcement "
        "learning need not fall",
        test="plot the median over 100 steps: if it falls, the training works",
        fix="log a moving average, and judge by validation",
        weigh=lambda facts: EXCLUDED if facts.has("nan", "diverges") else SPEAKS if facts.kind in ("gan", "rl")
        else NEUTRAL,
    ),
)  # fmt: skip
