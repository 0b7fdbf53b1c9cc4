"""Objections against values: one function per row, which returns an objection or None."""

from __future__ import annotations

from stepwell.advisor.choosing.lr import choose
from stepwell.advisor.objections.context import Context
from stepwell.advisor.objections.objection import Objection
from stepwell.advisor.published import kind_of


def adam_with_decay(c: Context) -> Objection | None:
    if c.recipe.optimizer != "Adam" or not c.asked.weight_decay or c.asked.optimizer is None:
        return None
    decay = c.asked.weight_decay
    usual = c.recipe.situation.family == "gnn"
    free = c.free
    advised = free.weight_decay if free.decay_form == "decoupled" else decay
    return Objection(
        "adam-with-decay",
        "answer" if usual else "costly",
        f"Adam with weight_decay={decay:g}",
        "torch's Adam adds weight_decay * p to the gradient, and divides it by the gradient's running size: weights "
        "with "
        "large gradients are hardly decayed, and lr and decay cannot be tuned apart.",
        f"one word: Adam -> AdamW, with weight_decay={advised:g}; the two values are not the same thing, so do not "
        f"copy "
        "the number without a look. If it must be Adam: weight_decay=0.",
        "Loshchilov and Hutter, 1711.05101",
        "11 published graph networks use Adam with L2 (7 of them 5e-4) and work; fairseq's and DeepSpeed's 'Adam' "
        "decays as AdamW does",
    )


def adam_on_transformer(c: Context) -> Objection | None:
    if c.asked.optimizer != "Adam" or c.asked.weight_decay or not c.transformer or c.free.optimizer != "AdamW":
        return None
    decay = c.free.weight_decay if c.free.decay_form == "decoupled" else 0.0
    return Objection(
        "adam-on-transformer",
        "costly" if decay else "answer",
        "Adam for a transformer",
        f"without decay Adam is AdamW with weight_decay=0; published configurations near this decay by {decay:g}.",
        f"AdamW with weight_decay={decay:g}: one word and one number.",
        "configurations nearest to this: " + ", ".join(name for name, _, _ in c.recipe.near[:3]),
        "GPT-3 and the translation transformers are published with Adam, and the latter without decay",
    )


def other_optimizer(c: Context) -> Objection | None:
    if c.asked.optimizer is None or c.kind == kind_of(c.free.published_optimizer):
        return None
    choice = c.recipe["optimizer"]
    far = "No published setting" in choice.reason
    against = {
        "sgd": "with tuned search spaces adaptive methods never underperform momentum (1910.05446); the recipe "
               "around the "
        "optimizer moves ResNet-50 by 4.7 points",
    }.get(kind_of(c.free.published_optimizer), "several optimizers at their defaults are about as good as one that is "
          "tuned (2007.01547)")  # fmt: skip
    return Objection(
        "other-optimizer",
        "costly" if far else "answer",
        f"{c.recipe.optimizer} instead of {c.free.optimizer}",
        f"published configurations near this use {c.free.optimizer}. {choice.reason}.",
        f"{c.said(c.free)}; or keep {c.recipe.optimizer} at lr {c.recipe.lr:g} and search the rate (stepwell.find_lr).",
        f"{c.free['optimizer'].reason}",
        against,
    )


def rate_too_high(c: Context) -> Objection | None:
    lr, (low, high) = c.asked.lr, c.published
    if lr is None or lr <= 3 * high or c.recipe.optimizer == "Prodigy":
        return None
    usual = c.kind == "adam" and lr >= 0.01
    why = (
        "an Adam-type step moves every weight by about lr, whatever the gradient: rates of SGD are 10 to 100 times "
        "too high"
        if usual
        else "the loss will probably rise or oscillate"
    )
    return Objection(
        "rate-too-high",
        "wrong",
        f"lr={lr:g} for {c.recipe.optimizer}",
        f"published rates near this are {low:.2g} to {high:.2g}: {why}.",
        f"lr={_rate(c):g}.",
        "; ".join(c.free["lr"].sources[:3]),
        "some trainings need rates above 1: linear probes 30, LSTM language models 30 with clip 0.25, DLRM 18, LARS "
        "7 to 25",
    )


def rate_too_low(c: Context) -> Objection | None:
    lr, (low, high) = c.asked.lr, c.published
    if lr is None or lr >= low / 3 or c.recipe.optimizer == "Prodigy":
        return None
    why = "SGD's step shrinks with the gradient: rates of Adam are 10 to 100 times too low" if c.kind == "sgd" else (
        "the loss will fall too slowly"
    )  # fmt: skip
    return Objection(
        "rate-too-low",
        "wrong" if lr < low / 10 else "costly",
        f"lr={lr:g} for {c.recipe.optimizer}",
        f"published rates near this are {low:.2g} to {high:.2g}: {why}.",
        f"lr={_rate(c):g}.",
        "; ".join(c.free["lr"].sources[:3]),
        "fine-tuning and very small batches take smaller rates than training from scratch",
    )


def _rate(c: Context) -> float:
    found = choose(c.ground, c.recipe.published_optimizer)
    return float(found.value) if found is not None else c.free.lr  # type: ignore[arg-type]


def linear_for_adam(c: Context) -> Objection | None:
    batch = c.recipe.situation.batch_in_samples
    if c.asked.lr is None or c.kind != "adam" or not batch or batch < 1024 or c.asked.lr < 0.01:
        return None
    return Objection(
        "linear-scaling-for-adam",
        "wrong",
        f"lr={c.asked.lr:g} at batch {batch:g}",
        "a rate that was scaled in proportion to the batch diverges with Adam-type optimizers.",
        f"scale with the square root of the batch, keep the warmup in samples: lr={_rate(c):g}; never more than "
        f"about 8 "
        "times without a search.",
        "Malladi et al., 2205.10287; LAMB, 1904.00962",
        "exponents tuned in MLPerf run from 0 to 1 (median 0.44); Llama 3.1 405B and DINO scale AdamW in proportion",
    )


def heavy_ball(c: Context) -> Objection | None:
    if c.recipe.optimizer != "SGD" or c.asked.nesterov is not False or not c.recipe.value("momentum"):
        return None
    return Objection(
        "no-nesterov",
        "answer",
        "SGD with momentum, nesterov=False",
        "Nesterov momentum costs nothing and often converges a little faster.",
        "nesterov=True, if it is cheap to try; the rate stays.",
        "tuned searches choose it for fastMRI and OGBG (AlgoPerf)",
        "the same searches choose heavy-ball for ResNet-50, and small changes of the network flip the winner: it is "
        "no rule",
    )


def small_batch_layerwise(c: Context) -> Objection | None:
    batch = c.recipe.situation.batch_in_samples
    if c.asked.optimizer not in ("LAMB", "LARS") or not batch or batch >= 1024:
        return None
    return Objection(
        "layerwise-at-small-batch",
        "costly",
        f"{c.asked.optimizer} at batch {batch:g}",
        "it is made for batches of thousands; below, it has no advantage and one more thing to tune.",
        f"{c.said(c.free)}.",
        "1904.00962; MLPerf's reference points start at 256 for BERT and at 1,632 for ResNet-50",
        "LAMB at 2,048 gives 80.1 to 80.4 on ResNet-50 (2110.00476)",
    )


def small_eps(c: Context) -> Objection | None:
    if c.asked.eps is None or c.recipe.situation.architecture != "mobile" or c.asked.eps > 1e-4:
        return None
    return Objection(
        "eps-of-mobilenet",
        "costly",
        f"eps={c.asked.eps:g}",
        "eps 1e-3 is a tuned value of these recipes, inside the root; a small one makes other steps.",
        "eps=1e-3 (0.0316 for MobileNetV3 in some sources).",
        "MobileNetV3, MixNet and EfficientNet as published",
        "Adam-type optimizers on other networks take 1e-8 to 1e-6",
    )


def long_beta2(c: Context) -> Objection | None:
    if c.asked.betas is None or len(c.asked.betas) < 2 or c.asked.betas[1] < 0.999 or c.kind != "adam":
        return None
    usual = c.free.betas
    if usual is None or usual[1] >= 0.99:
        return None
    return Objection(
        "beta2-of-language-models",
        "costly",
        f"beta2={c.asked.betas[1]:g}",
        "the running size of the gradient forgets too slowly when the gradient grows, and the loss can spike.",
        f"beta2={usual[1]:g}.",
        "; ".join(c.free["betas"].sources[:3]),
        "a wide range of beta2 is near the optimum: tuned points run from 0.06 to 0.9988 (AlgoPerf)",
    )


def unclipped_lstm(c: Context) -> Objection | None:
    if c.recipe.situation.family != "rnn_lm" or c.asked.clip_norm != 0:
        return None
    return Objection(
        "unclipped-lstm",
        "wrong",
        "an LSTM language model without clipping",
        "the published rate 30 holds for steps that are all clipped; without the clip it explodes.",
        "clip_norm=0.25.",
        "AWD-LSTM",
    )


def memory_is_tight(c: Context) -> Objection | None:
    one = c.recipe.situation
    if one.memory is None or not one.params or c.recipe.value("state") != "int8":
        return None
    return Objection(
        "state-does-not-fit",
        "answer",
        f"{one.memory:g} GiB for {one.params:.3g} parameters",
        "weights, gradients and fp32 state leave no room for activations.",
        'state="int8" (the recipe has it): the same hyperparameters, a quarter of the state.',
        "bitsandbytes documentation",
    )


ROWS = (
    adam_with_decay, adam_on_transformer, other_optimizer, rate_too_high, rate_too_low, linear_for_adam, heavy_ball,
    small_batch_layerwise, small_eps, long_beta2, unclipped_lstm, memory_is_tight,
)  # fmt: skip
