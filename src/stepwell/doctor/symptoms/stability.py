"""Causes, tier 3: numbers that leave the range or the resolution of their format."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import HALF, LOW, Facts
from stepwell.doctor.symptoms.rates import adam_eps
from stepwell.doctor.symptoms.record import AGAINST, EXCLUDED, NEUTRAL, SPEAKS, Record

TIER = "numerical stability"


def _half(facts: Facts) -> float:
    if facts.precision in HALF:
        return SPEAKS
    return 0.7 if facts.precision is None else EXCLUDED


def _half_precision_only(facts: Facts) -> float:
    """Rarer troubles of fp16: they need a sign besides the format."""
    if facts.precision in HALF:
        return SPEAKS if facts.has("precision_only") else NEUTRAL
    return EXCLUDED


def _lost_updates(facts: Facts) -> float:
    if facts.precision == "bf16":
        return SPEAKS
    return NEUTRAL if facts.precision == "fp16" and facts.has("precision_only") else EXCLUDED


def _eps(facts: Facts) -> float:
    if facts.optimizer is not None and not adam_eps(facts.optimizer):
        return EXCLUDED
    return NEUTRAL if facts.adaptive or facts.precision in LOW else AGAINST


def _late_spikes(facts: Facts) -> float:
    if not facts.has("spikes", "nan", "diverges") or facts.moment in ("start", "early"):
        return EXCLUDED
    if facts.kind in ("transformer", "vit"):
        return SPEAKS if facts.moment == "late" or facts.has("spikes") else NEUTRAL
    return AGAINST if facts.kind is None else EXCLUDED


CAUSES = (
    Record(
        name="fp16-overflow",
        tier=TIER,
        title="fp16 overflows or underflows",
        fits={"precision_only": 0.6, "nan": 0.4, "oscillates": 0.3, "spikes": 0.25, "diverges": 0.3, "stuck": 0.2,
              "not_working": 0.2, "zero": 0.12, "explode_grad": 0.25, "vanish": 0.3, "gan_collapse": 0.12},
        why=lambda facts: (
            ("mixed precision is fp16 unless bf16 is chosen; " if facts.precision == "mixed" else "")
            + ("if the training runs in fp16: " if facts.precision is None else "")
            + "fp16 ends at 65,504 and loses gradients below 6e-8: losses, logits and squared gradients leave this "
            "range"
        ),
        test="run 200 steps from the same weights and batches in fp32: if the symptom is gone, the precision is "
        "the cause "
        "(it does not cure too high a learning rate)",
        fix="bf16 needs no scaler:\n    with torch.autocast('cuda', dtype=torch.bfloat16):\n"
        "        loss = loss_fn(model(x), y)\n"
        "else torch.amp.GradScaler('cuda'), with loss, softmax and norms in fp32",
        weigh=_half,
    ),
    Record(
        name="scaler-skips-steps",
        tier=TIER,
        title="GradScaler skips most steps",
        fits={"stuck": 0.25, "slow": 0.2, "constant": 0.3, "precision_only": 0.4, "plateau": 0.12},
        why="a skipped step changes nothing; a few skips at the start are normal, more than 10% or a scale below 1 "
        "are not",
        test="count the skips: scaler.get_scale() falls at each one",
        fix="find the inf: run the batch in fp32 with torch.autograd.set_detect_anomaly(True); use bf16 where the "
        "device "
        "has it",
        weigh=_half_precision_only,
    ),
    Record(
        name="bf16-lost-updates",
        tier=TIER,
        title="Updates are lost in rounding: the weights themselves are in low precision",
        fits={"precision_only": 0.5, "plateau": 0.35, "slow": 0.3, "stuck": 0.25, "constant": 0.3, "not_working": 0.15,
              "overfits": 0.05, "oscillates": 0.1},
        why="bf16 has 8 bits: an update below about 0.4% of a weight changes nothing, and usual updates are 0.1%",
        test="count what one step changes; above half unchanged is lost:\n"
        "    before = p.clone(); optimizer.step(); print((p == before).float().mean())",
        fix="keep the weights in fp32 and use autocast, or an optimizer with fp32 master weights or stochastic "
        "rounding",
        weigh=_lost_updates,
    ),
    Record(
        name="unsafe-function",
        tier=TIER,
        title="The loss or the model computes log(0), 0/0, sqrt(0) or exp of a large number",
        fits={"nan": 0.4, "precision_only": 0.15, "spikes": 0.1, "explode_grad": 0.15},
        why="the gradient of sqrt and norm at 0 is inf, and a where() around a bad value still passes nan backward",
        test="this mode is slow and names the function that gave the first nan:\n"
        "    torch.autograd.set_detect_anomaly(True)",
        fix="use the safe forms, and clamp before the function:\n    F.log_softmax(x, -1); F.softplus(x)\n"
        "    torch.log(x.clamp(min=1e-6)); torch.sqrt(x + 1e-8)",
        weigh=lambda facts: NEUTRAL,
    ),
    Record(
        name="adam-eps",
        tier=TIER,
        title="The eps of Adam does not fit the size of the gradients",
        fits={"nan": 0.12, "spikes": 0.2, "slow": 0.12, "reward_flat": 0.2, "precision_only": 0.3},
        why="where gradients are near eps, steps depend on eps; in fp16 state 1e-8 is 0, and rare gradients divide by "
        "almost nothing",
        test="print the median of sqrt(exp_avg_sq): it must be more than 10 times eps",
        fix="    eps = 1e-6  # language models, fp16; 1e-5 for on-policy reinforcement learning",
        weigh=_eps,
    ),
    Record(
        name="late-loss-spikes",
        tier=TIER,
        title="Attention or output logits grow until single batches throw the model off",
        fits={"spikes": 0.35, "nan": 0.2, "diverges": 0.25},
        why="Adam's second average with beta2 0.999 remembers 1,000 steps: a sudden large gradient is divided by "
        "old, small "
        "ones",
        test="log the largest attention logit and the update / weight size per layer before the spike",
        fix="clip at 1.0 and shorten the memory; then query-key norms, a z-loss of 1e-4, or skip the batch:\n"
        "    betas = (0.9, 0.95)",
        weigh=_late_spikes,
    ),
    Record(
        name="first-loss-implausible",
        tier=TIER,
        title="The untrained model is far too sure",
        fits={"high_start": 0.55, "nan": 0.1, "diverges": 0.1, "chance": 0.05},
        why="the first cross-entropy should be near ln(classes): 2.30 for 10, 6.91 for 1,000; twice that means large "
        "outputs or wrong labels",
        test="print the first loss and the standard deviation of the outputs, which should be near 1 or below",
        fix="start the last layer at 0, and normalize the targets of a regression:\n"
        "    torch.nn.init.zeros_(model.head.weight)",
    ),
)  # fmt: skip
