"""Causes, tier 5: gradients and the model."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import Facts
from stepwell.doctor.symptoms.record import AGAINST, EXCLUDED, FAR, NEUTRAL, SPEAKS, Record

TIER = "gradients and model"


def _no_clipping(facts: Facts) -> float:
    if facts.yes("clip"):
        return AGAINST
    return SPEAKS if facts.no("clip") or facts.kind == "rnn" or facts.has("explode_grad") else NEUTRAL


def _clipping(facts: Facts) -> float:
    if facts.no("clip"):
        return EXCLUDED
    return SPEAKS if facts.has("clips_always") else NEUTRAL if facts.yes("clip") else EXCLUDED


def _vanishing(facts: Facts) -> float:
    return SPEAKS if facts.kind == "rnn" or facts.has("vanish") else NEUTRAL


def _decay_strength(facts: Facts) -> float:
    """Decay of SGD is usual up to 5e-4 and of Adam-type optimizers up to 0.3 (recipes)."""
    if facts.weight_decay is None:
        return EXCLUDED
    usual = 0.3 if facts.adaptive or facts.optimizer in ("Lion", "Muon") else 5e-3
    if facts.optimizer is None:
        usual = 0.3
    return FAR if facts.weight_decay >= 30 * usual else SPEAKS if facts.weight_decay > usual else EXCLUDED


CAUSES = (
    Record(
        name="exploding-gradients",
        tier=TIER,
        title="Gradients explode, and nothing limits them",
        fits={"explode_grad": 0.6, "spikes": 0.4, "nan": 0.3, "diverges": 0.3, "oscillates": 0.2, "reward_flat": 0.12,
              "drop_then_rise": 0.12},
        why=lambda facts: (
            "the description says that gradients are not clipped"
            if facts.no("clip")
            else "recurrent networks multiply gradients over time: clipping is part of every published recipe"
            if facts.kind == "rnn"
            else "a few large gradients, or a depth over which they multiply, throw the weights far off"
        ),
        test="log the norm that the function returns: 10 times the median twice in 10 steps is an explosion",
        fix="set max_norm near the 90th percentile of the norms:\n"
        "    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)",
        weigh=_no_clipping,
    ),
    Record(
        name="clipping-dominates",
        tier=TIER,
        title="Clipping limits most steps and acts as the step size",
        fits={"clips_always": 0.5, "slow": 0.3, "stuck": 0.15, "plateau": 0.2},
        why="if more than half of the steps are clipped, the threshold is too low or the learning rate too high",
        test="count over 200 steps how often norm > max_norm",
        fix="    max_norm = torch.tensor(norms).quantile(0.9)  # of the last 200 norms",
        weigh=_clipping,
    ),
    Record(
        name="vanishing-gradients",
        tier=TIER,
        title="Gradients vanish toward the first layers",
        fits={"vanish": 0.6, "stuck": 0.2, "slow": 0.2, "plateau": 0.15, "chance": 0.2, "constant": 0.12},
        why="deep stacks without residual connections or norms, sigmoid and tanh, and long sequences shrink gradients",
        test="print gradient norm / weight norm per layer: below 1e-4 of the last layer's in the first layers is "
        "vanishing",
        fix="residual connections, LayerNorm, ReLU or GELU in place of sigmoid, an LSTM with forget bias 1; then "
        "Kaiming "
        "initialization",
        weigh=_vanishing,
    ),
    Record(
        name="dead-units",
        tier=TIER,
        title="Most units are dead or saturated",
        fits={"constant": 0.25, "stuck": 0.2, "vanish": 0.3, "chance": 0.2, "one_class": 0.25, "plateau": 0.12},
        why="one step that was too large can make a ReLU zero for all inputs; its gradient is then zero for good",
        test="count units that are zero on all of 20 batches: more than half of a layer is too many",
        fix="lower the learning rate first, start again, and use LeakyReLU or GELU",
    ),
    Record(
        name="initialization",
        tier=TIER,
        title="The initial weights do not fit the model",
        fits={"high_start": 0.4, "vanish": 0.3, "explode_grad": 0.3, "chance": 0.15, "stuck": 0.15, "nan": 0.12,
              "diverges": 0.12, "constant": 0.15, "irreproducible": 0.15},
        why="outputs that grow or shrink from layer to layer at the first step make training depend on luck; equal "
        "weights "
        "never become different",
        test="print the standard deviation of each layer's output before the first step: it should stay between "
        "0.1 and 10",
        fix="residual branches start at 0, other layers:\n"
        "    torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
        weigh=lambda facts: EXCLUDED if facts.kind in ("fine-tuning", "lora") or facts.moment in ("late", "resume")
        else SPEAKS if facts.moment == "start" and facts.has("high_start", "explode_grad") else NEUTRAL,
    ),
    Record(
        name="weight-decay-too-strong",
        tier=TIER,
        title="Weight decay is too strong",
        fits={"stuck": 0.3, "slow": 0.3, "plateau": 0.35, "chance": 0.3, "constant": 0.2, "one_class": 0.2,
              "not_working": 0.25,
              "drop_then_rise": 0.15, "vanish": 0.2},
        why=lambda facts: f"weight decay {facts.weight_decay or 0:g}; usual are 1e-5 to 5e-4 for SGD and 0.01 to "
        f"0.3 for AdamW",
        test="log the norm of the weights: it falls at every step; run 500 steps without decay",
        fix=lambda facts: f"    weight_decay = {'0.05' if facts.adaptive else '1e-4'}  # none on norms and biases",
        weigh=_decay_strength,
    ),
    Record(
        name="model-too-small",
        tier=TIER,
        title="The model cannot express more, or is regularized too much",
        fits={"plateau": 0.25, "slow": 0.1, "stuck": 0.1},
        why="if training data is not fitted either, dropout, augmentation or the size of the model limits the result",
        test="train on 100 samples without dropout and augmentation: a loss far from 0 is a bug or a model too small",
        fix="remove regularization first, then double the width",
        weigh=lambda facts: AGAINST if facts.moment in ("start", "early") or facts.kind == "lora" else NEUTRAL,
    ),
    Record(
        name="gan-balance",
        tier=TIER,
        title="The discriminator is too strong for the generator",
        fits={"gan_collapse": 0.5, "oscillates": 0.15, "diverges": 0.12, "not_working": 0.2},
        why="a discriminator with a loss near 0 gives the generator no gradient",
        test="log D(real) and D(fake): values near 1 and 0 over 100 steps are out of balance",
        fix="    opt_d = torch.optim.Adam(D.parameters(), lr=4e-4, betas=(0.0, 0.9))\n"
        "    opt_g = torch.optim.Adam(G.parameters(), lr=1e-4, betas=(0.0, 0.9))\n"
        "with spectral norm or R1 regularization, and an average of the generator's weights",
        weigh=lambda facts: SPEAKS if facts.kind == "gan" else EXCLUDED,
    ),
    Record(
        name="exploration-or-reward-scale",
        tier=TIER,
        title="The agent does not explore, or rewards are too large or too rare",
        fits={"reward_flat": 0.45, "not_working": 0.2, "oscillates": 0.12},
        why="without a first success there is nothing to learn from; rewards of hundreds make value losses explode",
        test="log the entropy of the policy, the share of episodes with any reward, and the size of returns",
        fix="an entropy bonus of 0.01, normalized observations and rewards, several seeds; clip the norm at 0.5",
        weigh=lambda facts: SPEAKS if facts.kind == "rl" else NEUTRAL if facts.has("reward_flat") else EXCLUDED,
    ),
)  # fmt: skip
