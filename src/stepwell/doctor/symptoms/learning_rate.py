"""Causes, tier 2: the learning rate, the most frequent cause after bugs."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import Facts, rate, span_text, times
from stepwell.doctor.symptoms.rates import follows_gradient, usual
from stepwell.doctor.symptoms.record import AGAINST, EXCLUDED, FAR, NEUTRAL, SPEAKS, Record

TIER = "learning rate"
_FAR_ABOVE = 10  # times the usual highest: Adam at 0.03, SGD at 6; about 100 times the middle of the range
_FAR_BELOW = 30  # times below the usual lowest: AdamW at 3e-6; fine-tuning at 1e-5 is usual and stays below this
_FREE = ("Prodigy", "DAdaptAdam")  # choose their own rate; lr multiplies that


def _too_high(facts: Facts) -> float:
    if facts.usual_lr is None:
        if facts.lr is None:
            return NEUTRAL
        # without the optimizer: 30 is the highest published rate of any; 0.03 is high for all of Adam's family
        return FAR if facts.lr >= 30 else SPEAKS if facts.lr >= 0.03 else AGAINST if facts.lr <= 1e-5 else NEUTRAL
    if facts.lr_above >= _FAR_ABOVE:
        return FAR
    if facts.lr_above > 1:
        return SPEAKS
    return EXCLUDED if facts.lr_below > 3 else NEUTRAL


def _too_low(facts: Facts) -> float:
    if facts.lr == 0:
        return FAR
    if facts.usual_lr is None:
        if facts.lr is None:
            return NEUTRAL
        return FAR if facts.lr < 1e-7 else SPEAKS if facts.lr <= 1e-6 else AGAINST if facts.lr >= 1e-2 else NEUTRAL
    if facts.lr_below > _FAR_BELOW:
        return FAR
    if facts.lr_below > 1:
        return SPEAKS
    return EXCLUDED if facts.lr_above > 1 else NEUTRAL


def _which(facts: Facts) -> str:
    """The optimizer, and the kind of training where the range is that of the kind."""
    name = facts.optimizer or "AdamW"
    return f" of {name}" + (f" ({facts.kind})" if usual(name, facts.kind) != usual(name) else "")


def _why_high(facts: Facts) -> str:
    span = facts.usual_lr
    if span is None:
        if facts.lr is None:
            return "too high a learning rate is the most frequent cause; its value and the optimizer were not given"
        return (
            f"lr {rate(facts.lr)} is within the usual range of SGD ({span_text(usual('SGD'))}) or near it, and "
            f"above that "
            f"of Adam and AdamW ({span_text(usual('Adam'))})"
            if 0.03 <= facts.lr < 30
            else f"lr {rate(facts.lr)} without the optimizer says little: usual are {span_text(usual('SGD'))} for SGD, "
            f"{span_text(usual('Adam'))} for Adam"
        )
    if facts.lr is None:
        return f"the learning rate was not given; usual{_which(facts)}: {span_text(span)}"
    effective = facts.effective_lr or facts.lr
    rated = f"{facts.optimizer} at lr {rate(facts.lr)}"
    if effective != facts.lr:
        rated += f" with momentum {facts.momentum:g} (as lr {rate(effective)} with momentum 0.9)"
    if facts.lr_above > 1:
        return (
            f"{rated} is {times(effective / span[1])} to {times(effective / span[0])} times the usual {span_text(span)}"
        )
    return f"{rated} is within the usual {span_text(span)}, which your model may still not bear"


def _why_low(facts: Facts) -> str:
    span = facts.usual_lr
    if facts.lr == 0:
        return "at lr 0 no weight changes"
    if facts.lr is None:
        return "the learning rate was not given" + (f"; usual{_which(facts)}: {span_text(span)}" if span else "")
    if span is None:
        return (
            f"lr {rate(facts.lr)}; usual are {span_text(usual('SGD'))} for SGD, {span_text(usual('Adam'))} for "
            f"Adam, and "
            f"{span_text(usual('AdamW', 'fine-tuning'))} for fine-tuning"
        )
    if facts.lr_below > 1:
        return (
            f"{facts.optimizer} at lr {rate(facts.lr)} is {times(facts.lr_below)} to {times(span[1] / facts.lr)} times "
            f"below the usual {span_text(span)}"
        )
    return (
        f"{facts.optimizer} at lr {rate(facts.lr)} is within the usual {span_text(span)}, which may still be low here"
    )


def _middle(facts: Facts) -> float:
    """A first value to try: the geometric middle of the usual range, as 1 or 3 times a power of ten."""
    from math import log10

    low, high = facts.usual_lr or usual("AdamW")
    exponent = (log10(low) + log10(high)) / 2
    whole = int(exponent // 1)
    return float(f"{(3 if 0.25 <= exponent - whole < 0.75 else 10 if exponent - whole >= 0.75 else 1)}e{whole}")


def _range_test(facts: Facts) -> str:
    return f"stepwell find-lr my_task.py:task --optimizer {(facts.optimizer or 'AdamW').lower()}"


def _fix_high(facts: Facts) -> str:
    if facts.lr_above > 1:
        return f"    lr = {rate(_middle(facts))}  # a usual value{_which(facts)}; then search around it"
    if facts.lr is not None:
        return f"divide by 3 until the symptom is gone:\n    lr = {rate(facts.lr / 3)}"
    return "divide the learning rate by 3 until the symptom is gone"


def _fix_low(facts: Facts) -> str:
    if facts.lr == 0 or facts.lr_below > 3:
        return f"    lr = {rate(_middle(facts))}  # a usual value{_which(facts)}; then search around it"
    if facts.lr is not None:
        return f"multiply by 3 while the loss still falls:\n    lr = {rate(facts.lr * 3)}"
    return "multiply the learning rate by 3 while the loss still falls"


def _warmup(facts: Facts) -> float:
    if facts.optimizer in ("RAdam", "LBFGS", "Rprop", *_FREE):
        return AGAINST
    if facts.yes("warmup") or facts.moment in ("epoch", "resume"):
        return AGAINST
    large = facts.batch is not None and facts.batch >= 1024
    if facts.no("warmup"):
        return SPEAKS
    early = facts.moment in ("start", "early")
    return SPEAKS if early and (facts.kind in ("transformer", "vit") or large) else AGAINST if facts.moment else NEUTRAL


def _decay(facts: Facts) -> float:
    if facts.no("schedule"):
        return SPEAKS
    return AGAINST if facts.yes("schedule") or facts.moment in ("start", "early") else NEUTRAL


def _grew(facts: Facts) -> float:
    if facts.has("multi_gpu"):
        return SPEAKS
    return NEUTRAL if facts.batch is not None and facts.batch >= 1024 else EXCLUDED


def _grew_why(facts: Facts) -> str:
    rule = "linearly with the batch for SGD with momentum" if follows_gradient(facts.optimizer) else (
        "with the square root of the batch for Adam-type optimizers" if facts.adaptive else
        "linearly with the batch for SGD with momentum, with the square root for Adam-type optimizers"
    )  # fmt: skip
    size = f"batch {facts.batch:,}" if facts.batch else "batch per GPU times the number of GPUs"
    return f"the batch of one step counts ({size}); a rate tuned for another batch scales {rule}, up to 8 times"


def _momentum(facts: Facts) -> float:
    if facts.momentum is None or facts.momentum < 0.95:
        return EXCLUDED
    return FAR if facts.momentum >= 1 else SPEAKS


def _pretrained(facts: Facts) -> float:
    if facts.kind in ("fine-tuning", "lora") or facts.yes("pretrained"):
        return FAR if facts.kind == "fine-tuning" and facts.lr_above >= _FAR_ABOVE else SPEAKS
    return EXCLUDED if facts.no("pretrained") or facts.kind in ("gan", "rl") else AGAINST


CAUSES = (
    Record(
        name="lr-too-high",
        tier=TIER,
        title="The learning rate is too high",
        fits={"oscillates": 0.55, "diverges": 0.55, "nan": 0.45, "spikes": 0.4, "stuck": 0.3, "chance": 0.3,
              "plateau": 0.25,
              "explode_grad": 0.4, "drop_then_rise": 0.35, "gan_collapse": 0.35, "val_noisy": 0.35, "one_class": 0.25,
              "not_working": 0.35, "constant": 0.2, "reward_flat": 0.3, "clips_always": 0.45,
              "forgets": 0.3, "multi_gpu": 0.2, "overfits": 0.12, "slow": 0.12, "high_start": 0.15,
              "vanish": 0.15, "after_switch": 0.4, "periodic": 0.12},
        why=_why_high,
        test=lambda facts: "take 10 steps on one fixed batch: if its loss rises after more than half of them, the "
        "rate is "
        f"too high; or run the range test:\n    {_range_test(facts)}",
        fix=_fix_high,
        weigh=_too_high,
    ),
    Record(
        name="lr-too-low",
        tier=TIER,
        title="The learning rate is too low",
        fits={"slow": 0.5, "stuck": 0.3, "constant": 0.25, "chance": 0.2, "plateau": 0.25, "not_working": 0.2,
              "reward_flat": 0.2, "one_class": 0.15, "vanish": 0.12, "after_switch": 0.3},
        why=_why_low,
        test="take the same step at 3 and 10 times the rate on one fixed batch: the loss falls further at both; "
        "the size of "
        "update / weight is below 1e-5 (about 1e-3 is usual)",
        fix=_fix_low,
        weigh=_too_low,
    ),
    Record(
        name="lr-of-another-optimizer",
        tier=TIER,
        title="The learning rate was kept when the optimizer changed",
        fits={"after_switch": 0.65},
        why="usual rates differ 10 to 100 times: SGD "
        f"{span_text(usual('SGD'))}, Adam {span_text(usual('Adam'))}, Lion 3 to 10 times below AdamW, Prodigy 1.0",
        test="train 200 steps of the new optimizer at rates 10 and 100 times lower and higher",
        fix=lambda facts: "from SGD to Adam divide by 10 to 100, from Adam to SGD multiply; then search:\n"
        f"    {_range_test(facts)}",
        weigh=lambda facts: SPEAKS if facts.has("after_switch") else EXCLUDED,
    ),
    Record(
        name="warmup-missing",
        tier=TIER,
        title="The learning rate starts at its peak, without a warmup",
        fits={"nan": 0.2, "spikes": 0.3, "diverges": 0.3, "oscillates": 0.2, "plateau": 0.15, "stuck": 0.2,
              "chance": 0.15,
              "explode_grad": 0.2, "one_class": 0.12, "after_switch": 0.12, "multi_gpu": 0.12},
        why=lambda facts: (
            "the description says that there is no warmup; " if facts.no("warmup") else ""
        ) + "in the first steps the averages of Adam hold few gradients, and large batches and transformers then "
        "take steps "
        "that are too large",
        test="run 200 steps at a tenth of the rate: if they are stable, a warmup helps",
        fix="2/(1 - beta2) steps, at most 10% of the run:\n"
        "    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=2000)",
        weigh=_warmup,
    ),
    Record(
        name="no-decay",
        tier=TIER,
        title="The learning rate is not lowered toward the end",
        fits={"plateau": 0.4, "val_noisy": 0.3, "oscillates": 0.2, "drop_then_rise": 0.2, "overfits": 0.1,
              "spikes": 0.12},
        why="at a constant rate the loss settles at a level that the noise of the gradients sets",
        test="continue from the last checkpoint at a tenth of the rate: if the loss falls within a few hundred steps, "
        "decay is missing",
        fix="    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps)",
        weigh=_decay,
    ),
    Record(
        name="lr-not-scaled-with-batch",
        tier=TIER,
        title="The batch grew and the learning rate did not follow",
        fits={"multi_gpu": 0.4, "slow": 0.25, "overfits": 0.1, "plateau": 0.12},
        why=_grew_why,
        test="run with the old total batch on the new setup: if the curves agree, only the rate is left",
        fix="with a warmup; for SGD without the root:\n    lr = old_lr * (batch / old_batch) ** 0.5",
        weigh=_grew,
    ),
    Record(
        name="momentum-too-high",
        tier=TIER,
        title="Momentum multiplies the step",
        fits={"oscillates": 0.35, "diverges": 0.35, "spikes": 0.2, "nan": 0.25, "drop_then_rise": 0.2,
              "not_working": 0.2},
        why=lambda facts: (
            f"momentum {facts.momentum or 0:g} never forgets: it must be below 1"
            if (facts.momentum or 0) >= 1
            else f"the effective rate of SGD is lr / (1 - momentum): momentum {facts.momentum or 0:g} "
            f"multiplies the step by {times(1 / (1 - (facts.momentum or 0)))}, momentum 0.9 by 10"
        ),
        test="run 200 steps with momentum 0.9",
        fix="    momentum = 0.9  # or multiply lr by (1 - momentum) / 0.1",
        weigh=_momentum,
    ),
    Record(
        name="pretrained-overwritten",
        tier=TIER,
        title="The rate is too high for pretrained weights",
        fits={"forgets": 0.6, "drop_then_rise": 0.25, "overfits": 0.3, "diverges": 0.25, "not_working": 0.25,
              "chance": 0.2},
        why=lambda facts: (
            (f"lr {rate(facts.lr)}; " if facts.lr is not None else "")
            + f"full fine-tuning usually takes {span_text(usual('AdamW', 'fine-tuning'))} (AdamW), LoRA "
            f"{span_text(usual('AdamW', 'lora'))}"
        ),
        test="evaluate before the first step, then every 50 steps: the score soon falls below the first one",
        fix="a low rate for the pretrained part, with a warmup:\n"
        "    torch.optim.AdamW([{'params': backbone, 'lr': 2e-5}, {'params': head, 'lr': 1e-3}])",
        weigh=_pretrained,
    ),
)  # fmt: skip
