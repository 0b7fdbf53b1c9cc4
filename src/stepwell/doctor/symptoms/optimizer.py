"""Causes, tier 7 and last: the choice of the optimizer. With a tuned learning rate it seldom decides."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import Facts, span_text
from stepwell.doctor.symptoms.rates import follows_gradient, usual
from stepwell.doctor.symptoms.record import EXCLUDED, NEUTRAL, SPEAKS, Record

TIER = "optimizer choice"


def _coupled(facts: Facts) -> float:
    """L2 inside the adaptive step. Graph networks use it on purpose."""
    coupled = facts.optimizer in ("Adam", "NAdam", "RAdam") and facts.kind != "gnn"
    decays = facts.weight_decay is not None and facts.weight_decay > 0
    return SPEAKS if coupled and (decays or facts.yes("weight_decay")) else EXCLUDED


def _gradient_on_transformer(facts: Facts) -> float:
    attention = facts.kind in ("transformer", "vit", "lora") or facts.goal == "language"
    return SPEAKS if follows_gradient(facts.optimizer) and attention else EXCLUDED


def _gan_momentum(facts: Facts) -> float:
    if facts.kind != "gan" or (facts.momentum is not None and facts.momentum <= 0.5):
        return EXCLUDED
    return SPEAKS if facts.momentum is not None else NEUTRAL


def _instead(facts: Facts) -> str:
    if follows_gradient(facts.optimizer):
        return f"usual lr {span_text(usual('AdamW', facts.kind))}:\n    stepwell.create('adamw', model, lr=3e-4)"
    if facts.optimizer in ("Adam", "AdamW", None):
        return "only with its own tuned rate, on equal terms:\n    stepwell compare my_task.py:task --help"
    return (
        f"AdamW as a reference, usual lr {span_text(usual('AdamW', facts.kind))}:\n"
        "    stepwell.create('adamw', model, lr=3e-4)"
    )


CAUSES = (
    Record(
        name="gradient-descent-on-attention",
        tier=TIER,
        title="SGD trains attention models slowly",
        fits={"slow": 0.45, "plateau": 0.35, "stuck": 0.35, "chance": 0.25, "not_working": 0.3, "oscillates": 0.2,
              "diverges": 0.15, "after_switch": 0.3, "spikes": 0.15, "overfits": 0.1, "nan": 0.15},
        why=lambda facts: f"published recipes for transformers use AdamW; {facts.optimizer} lags on rare words and "
        f"on norms",
        test="train 1,000 steps with AdamW at 3e-4 and a warmup",
        fix="    stepwell.create('adamw', model, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)",
        weigh=_gradient_on_transformer,
    ),
    Record(
        name="coupled-weight-decay",
        tier=TIER,
        title="Adam's weight_decay is an L2 term inside the adaptive step",
        fits={"overfits": 0.3, "plateau": 0.15, "slow": 0.1, "drop_then_rise": 0.15},
        why=lambda facts: f"{facts.optimizer}(weight_decay=...) decays weights with large gradients less; AdamW "
        f"decays all "
        "alike and usually tunes better",
        test="train the same with AdamW and a decay of 0.01 to 0.1",
        fix="    torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)",
        weigh=_coupled,
    ),
    Record(
        name="gan-momentum",
        tier=TIER,
        title="Adam's beta1 of 0.9 is high for a GAN",
        fits={"gan_collapse": 0.3, "oscillates": 0.3, "diverges": 0.25, "not_working": 0.2, "nan": 0.12},
        why=lambda facts: (f"beta1 {facts.momentum:g}; " if facts.momentum is not None else "")
        + "published GANs use beta1 0 or 0.5: momentum chases an opponent that has moved",
        test="run 2,000 steps with betas=(0.5, 0.999)",
        fix="    betas = (0.0, 0.9)  # or (0.5, 0.999)",
        weigh=_gan_momentum,
    ),
    Record(
        name="matrix-optimizer-for-all",
        tier=TIER,
        title="Muon is given embeddings, norms, biases or the head",
        fits={"slow": 0.3, "plateau": 0.35, "diverges": 0.3, "oscillates": 0.3, "not_working": 0.35,
              "stuck": 0.25, "nan": 0.2,
              "spikes": 0.2},
        why="Muon is made for hidden matrices; it trains other tensors badly and without an error",
        test="run `stepwell plan` to see the optimizer of each tensor",
        fix="pass the module, and not its parameters, so that the other tensors get AdamW:\n"
        "    stepwell.create('muon', model, lr=0.02)",
        weigh=lambda facts: SPEAKS if facts.optimizer == "Muon" else EXCLUDED,
    ),
    Record(
        name="optimizer-choice",
        tier=TIER,
        title="Another optimizer may suit better: the last thing to change",
        fits={"oscillates": 0.15, "diverges": 0.12, "slow": 0.2, "plateau": 0.2, "stuck": 0.15, "overfits": 0.12,
              "nan": 0.1,
              "spikes": 0.12, "chance": 0.1, "not_working": 0.12, "drop_then_rise": 0.1, "reward_flat": 0.1,
              "gan_collapse": 0.1, "vanish": 0.1, "explode_grad": 0.1, "after_switch": 0.15, "forgets": 0.1,
              "high_start": 0.1, "one_class": 0.1, "clips_always": 0.1, "constant": 0.1, "multi_gpu": 0.1,
              "precision_only": 0.1, "val_noisy": 0.1, "periodic": 0.1},
        why=lambda facts: (f"{facts.optimizer} is seldom the cause: " if facts.optimizer else "")
        + "trying other optimizers at their defaults helps about as much as tuning one; a change hides the cause",
        test="only after the points above: tune the rate of both, and compare over 3 seeds",
        fix=_instead,
    ),
)  # fmt: skip
