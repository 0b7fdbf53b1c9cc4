"""Causes, tier 4: the batch and the data."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import Facts
from stepwell.doctor.symptoms.record import AGAINST, EXCLUDED, NEUTRAL, SPEAKS, Record

TIER = "batch and data"
_SMALL, _MEDIUM, _LARGE = 8, 64, 4096  # samples per step


def _small_batch(facts: Facts) -> float:
    if facts.batch is None:
        return 0.7
    return SPEAKS if facts.batch <= _SMALL else NEUTRAL if facts.batch < _MEDIUM else EXCLUDED


def _large_batch(facts: Facts) -> float:
    if facts.batch is None:
        return AGAINST
    return SPEAKS if facts.batch >= _LARGE else NEUTRAL if facts.batch >= 512 else EXCLUDED


def _batch_norm(facts: Facts) -> float:
    if facts.no("batch_norm") or (facts.kind in ("transformer", "vit", "lora") and not facts.yes("batch_norm")):
        return EXCLUDED
    small = facts.batch is not None and facts.batch <= 16
    return SPEAKS if facts.yes("batch_norm") or (small and facts.has("train_eval", "val_noisy")) else NEUTRAL


def _shuffle(facts: Facts) -> float:
    if facts.yes("shuffle"):
        return EXCLUDED
    return SPEAKS if facts.no("shuffle") or facts.has("periodic") else AGAINST if facts.moment == "start" else NEUTRAL


def _inputs(facts: Facts) -> float:
    if facts.yes("normalized"):
        return AGAINST
    if facts.no("normalized"):
        return SPEAKS
    return AGAINST if facts.goal == "language" or facts.kind in ("transformer", "lora") else NEUTRAL


def _bad_batch(facts: Facts) -> float:
    return SPEAKS if facts.moment in ("late", "epoch") and facts.step is not None else NEUTRAL


CAUSES = (
    Record(
        name="batch-too-small",
        tier=TIER,
        title="The batch is too small: the gradient is mostly noise",
        fits={"oscillates": 0.45, "val_noisy": 0.3, "spikes": 0.25, "diverges": 0.15, "plateau": 0.15,
              "reward_flat": 0.2,
              "slow": 0.12, "not_working": 0.15, "gan_collapse": 0.15, "nan": 0.05, "irreproducible": 0.12},
        why=lambda facts: (
            "the batch size was not given"
            if facts.batch is None
            else f"a batch of {facts.batch:,} samples gives noisy gradients"
            + (", which a lower rate or accumulation averages" if facts.batch <= _SMALL else " on some tasks")
        ),
        test="accumulate 8 micro-batches per step at the same rate: if the curve is smooth, it was noise",
        fix="step and zero_grad() at every 8th micro-batch, or divide lr by 3:\n    (loss / 8).backward()",
        weigh=_small_batch,
    ),
    Record(
        name="batch-too-large",
        tier=TIER,
        title="The batch is too large: too few steps per epoch",
        fits={"slow": 0.25, "overfits": 0.15, "plateau": 0.15, "step_time": 0.12},
        why=lambda facts: (
            (f"batch {facts.batch:,}: " if facts.batch else "")
            + "beyond the critical batch, samples to a target grow in proportion to the batch"
        ),
        test="halve the batch (rate times 0.7 for Adam-type, 0.5 for SGD): the same loss after as many samples "
        "means no "
        "loss of quality, and fewer samples mean that the batch is too large",
        fix="lower the batch, or raise lr by the square root (Adam-type) or linearly (SGD) with a warmup",
        weigh=_large_batch,
    ),
    Record(
        name="batch-norm-statistics",
        tier=TIER,
        title="The statistics of batch norm do not fit the evaluation",
        fits={"train_eval": 0.5, "val_noisy": 0.4, "multi_gpu": 0.2, "overfits": 0.15, "resume": 0.12},
        why=lambda facts: (
            (f"{facts.batch:,} samples per batch: " if facts.batch is not None and facts.batch <= 16 else "")
            + "small or unusual batches give running averages that differ from those of evaluation"
        ),
        test="evaluate the training data in train() and in eval() mode: a gap is the statistics (or dropout)",
        fix="compute the averages again before the evaluation, or use GroupNorm:\n"
        "    torch.optim.swa_utils.update_bn(train_loader, model)",
        weigh=_batch_norm,
    ),
    Record(
        name="data-not-shuffled",
        tier=TIER,
        title="The data is not shuffled, or its order repeats",
        fits={"periodic": 0.55, "oscillates": 0.2, "overfits": 0.12, "one_class": 0.25, "spikes": 0.15,
              "multi_gpu": 0.12,
              "val_noisy": 0.12, "chance": 0.12},
        why="sorted data shows one class for a long time: the loss repeats its curve in every epoch",
        test="print the labels of the first batches, and plot the loss of two epochs one over the other",
        fix="    DataLoader(data, batch_size=64, shuffle=True)",
        weigh=_shuffle,
    ),
    Record(
        name="inputs-not-normalized",
        tier=TIER,
        title="Inputs or targets are not normalized",
        fits={"stuck": 0.3, "slow": 0.25, "chance": 0.25, "nan": 0.25, "diverges": 0.25, "high_start": 0.4,
              "explode_grad": 0.25, "oscillates": 0.15, "not_working": 0.2, "plateau": 0.12, "one_class": 0.12},
        why="values of 0 to 255, or features whose sizes differ a thousand times, make the best step size differ "
        "as much",
        test="print mean, standard deviation, smallest and largest value of one batch: |mean| above 3 standard "
        "deviations or "
        "a range above 1,000 is too much",
        fix="with statistics of the training data, also in evaluation; the same for targets of a regression:\n"
        "    x = (x - mean) / std",
        weigh=_inputs,
    ),
    Record(
        name="non-finite-data",
        tier=TIER,
        title="A batch contains nan, inf or an invalid label",
        fits={"nan": 0.35, "spikes": 0.12, "explode_grad": 0.1},
        why=lambda facts: (
            f"the loss is good until step {facts.step:,}: the first bad sample may come there"
            if facts.step and facts.moment in ("late", "epoch")
            else "one bad sample is enough to make all weights nan"
        ),
        test="check each batch before the model:\n    assert torch.isfinite(x).all() and torch.isfinite(y).all()",
        fix="remove or repair these samples where the data is loaded; do not hide them with nan_to_num in the loss",
        weigh=_bad_batch,
    ),
    Record(
        name="outlier-batches",
        tier=TIER,
        title="Single batches are far from the rest",
        fits={"spikes": 0.35, "oscillates": 0.12, "val_noisy": 0.05, "explode_grad": 0.2},
        why="long sequences, wrong labels or broken samples give single large losses",
        test="save the batches whose loss is above the median by 6 median deviations, and look at them",
        fix="remove or cap them; clip the gradient norm; use a robust loss (smooth L1)",
    ),
    Record(
        name="labels-wrong",
        tier=TIER,
        title="Labels do not belong to their inputs",
        fits={"chance": 0.4, "stuck": 0.25, "plateau": 0.2, "one_class": 0.25, "high_start": 0.2, "not_working": 0.25,
              "overfits": 0.12},
        why="a shuffle of inputs without their labels, a shifted index, or constant labels leave nothing to learn",
        test="look at 20 samples with their labels as the model receives them; train on one batch of 8 until the "
        "loss is 0",
        fix="keep input and label in one record until the batch is made",
        weigh=lambda facts: AGAINST if facts.moment == "late" else NEUTRAL,
    ),
    Record(
        name="class-imbalance",
        tier=TIER,
        title="One class is far more frequent than the others",
        fits={"one_class": 0.55, "too_good": 0.25, "plateau": 0.12, "chance": 0.15},
        why="predicting the frequent class is a strong minimum; accuracy is then its share and looks good",
        test="count the labels, and print the confusion matrix",
        fix="report the F1 score too, and weight the classes:\n"
        "    loss_fn = torch.nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts))",
        weigh=lambda facts: EXCLUDED if facts.goal == "regression" else NEUTRAL,
    ),
    Record(
        name="target-leak",
        tier=TIER,
        title="The answer is part of the input, or validation data is part of the training data",
        fits={"too_good": 0.6, "zero": 0.3, "val_better": 0.2},
        why="a causal mask that is off by one, a target column among the features, or duplicates over the split",
        test="shuffle the labels: if the validation stays good, there is a leak in the evaluation; drop features "
        "one by one",
        fix="split by source (user, document, time) before any preprocessing, and fit statistics on the training "
        "part only",
    ),
    Record(
        name="evaluation-data-differs",
        tier=TIER,
        title="Validation data is prepared in another way",
        fits={"overfits": 0.3, "train_eval": 0.25, "val_noisy": 0.1, "val_better": 0.15, "forgets": 0.15},
        why="another normalization, image size, tokenizer or prompt format than in training",
        test="evaluate on a part of the training data with the evaluation's code: it must be as good as in training",
        fix="use one function for the preparation in both, with augmentation as the only difference",
    ),
    Record(
        name="memory-of-a-batch",
        tier=TIER,
        title="The activations of one batch do not fit",
        fits={"oom": 0.6},
        why=lambda facts: (
            (f"batch {facts.batch:,}; " if facts.batch else "")
            + "activations grow with batch and length; Adam's state takes 8 bytes per parameter in addition"
        ),
        test="run 3 steps with batch 1: if they fit, the activations are the cause; `stepwell plan` shows the "
        "fixed part",
        fix="smaller micro-batches with accumulation, autocast, torch.utils.checkpoint; then an 8-bit optimizer:\n"
        "    optimizer = stepwell.create('adamw8bit', model, lr=1e-4)",
        weigh=lambda facts: SPEAKS if facts.moment == "start" else NEUTRAL,
    ),
)  # fmt: skip
