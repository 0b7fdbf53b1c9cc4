"""Answers to remarks: one row per rationalization, red flag and pitfall.

A remark is read by words. In the texts, {advised} is the recipe without constraints, {kept} the recipe as asked, {low}
and {high} the published rates, {near} the nearest published configurations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stepwell.advisor.objections.context import Context
from stepwell.advisor.objections.objection import Objection


@dataclass(frozen=True)
class Saying:
    """A remark: how it is recognized, what is true and what it costs, what to do, and both sides."""

    name: str
    words: str
    cost: str
    fix: str
    evidence: str
    but: str = ""


_TUNED = "Choi et al., 1910.05446: with tuned searches the order of optimizers depends on the search space"
_WASH = "Schmidt et al., 2007.01547: several optimizers at their defaults are about as good as one that is tuned"

SAYINGS: tuple[Saying, ...] = (
    Saying("modern-standard", r"modern standard|state of the art|everyone uses adam|latest optimizer",
           "there is no standard for every task: published configurations near this use {advised}.",
           "{advised}.", "nearest: {near}", _WASH),
    Saying("adam-is-adamw", r"adam(w)? and adam(w)? (are|is)|same as adamw|adamw is (just|the same)|basically the same",
           "they differ as soon as weight_decay is not 0: Adam adds the decay to the gradient and divides it by the "
           "gradient's size, AdamW shrinks the weights directly.",
           "AdamW where a decay is wanted; without decay the two are the same.", "1711.05101",
           "fairseq's and DeepSpeed's 'Adam' is AdamW: look at the code that runs"),
    Saying("weight-decay-is-weight-decay", r"weight decay is weight decay|decay is (just )?decay|l2 is weight decay",
           "a size is never copied between forms: L2 (SGD, Adam), decoupled times lr (AdamW), and fully decoupled.",
           "keep form and size together: {advised}.", "1711.05101; optimi's documentation",
           "for SGD the two forms are the same up to the factor lr"),
    Saying("defaults", r"default(s| hyper| value| setting| lr)|out of the box",
           "defaults are starting points: torch's lr 1e-3 is right for few of the published configurations.",
           "tune lr at least, between {low} and {high}; with more time beta1, then eps, then beta2.",
           "tuning playbook: fewer than 10 trials lr only, 10 to 25 lr and beta1",
           _WASH),
    Saying("requested", r"(user|boss|team|client|they|he|she) (explicitly )?(request|want|ask|insist|said to use)"
                        r"|insist"
           r"|explicitly requested|requested x",
           "the request is kept, and its cost is said: {kept}.",
           "{advised} would be advised without the request.", "nearest: {near}", _WASH),
    Saying("sgd-is-old", r"sgd is (old|out|obsolete|dead)|old.?fashioned|outdated",
           "SGD with momentum still holds published results on convolutional networks.",
           "{advised}.", "torchvision's ResNet-50 80.86; AlgoPerf's target for ResNet-50 is heavy-ball",
           "ConvNeXt is trained with AdamW, RSB with LAMB: 82.1 and 80.4"),
    Saying("does-not-matter", r"does ?n.?t matter|no difference between optimi|optimizer is irrelevant",
           "it depends: SGD fails where Adam-type optimizers work on language models, and rates differ by 100 times.",
           "{advised}; then the rate matters more than the choice.", "2402.19449: heavy-tailed classes", _WASH),
    Saying("same-rate", r"same (lr|learning rate|rate)|keep the (lr|learning rate)|lr (works|carries)",
           "rates of SGD are 10 to 100 times those of Adam-type optimizers: each optimizer needs its own.",
           "lr between {low} and {high} for this optimizer; search it (stepwell.find_lr).", "nearest: {near}",
           "Muon with match_rms_adamw and 8-bit Adam do keep AdamW's rate"),
    Saying("paper", r"paper|published|authors?|arxiv",
           "a paper's settings belong to its batch size, data and length: bring them to yours.",
           "start from the paper, scale the rate to your batch, and search around it: {advised}.",
           "nearest: {near}", "GPT-3's rates are not the best for small models (NormFormer), and MLPerf's are tuned "
                              "for speed"),
    Saying("easier", r"easier|easy|forgiving|simple to tune|less tuning|convenient",
           "easy is worth something when there is no time to tune, and costs nothing to check against the published "
           "choice.",
           "{advised}; with a range test (stepwell.find_lr) its rate takes minutes.", "nearest: {near}", _TUNED),
    Saying("sgd-failed", r"(failed|fails|not work|diverged|bad).*sgd|sgd.*(failed|fails|not work|doesn.?t work"
                         r"|diverged)",
           "a failure is mostly the rate, not the optimizer.",
           "search the rate with SGD first (stepwell.find_lr), then compare at both best rates.",
           "tuning playbook: find the rate that diverges first",
           "on language models with heavy-tailed classes SGD does fail (2402.19449)"),
    Saying("try-all", r"try (all|every|several|many)|all optimizers",
           "a comparison at one rate compares nothing: each optimizer needs its own search and the same budget.",
           "stepwell compare searches each one fairly; judge after the decay to the end.",
           "2509.02046: order can flip during the decay", _WASH),
    Saying("nesterov", r"nesterov",
           "it is free to try and often a little better.",
           "nesterov=True if the source of the recipe has it, else leave it: {advised}.",
           "tuned searches choose it for fastMRI and OGBG (AlgoPerf)",
           "they choose heavy-ball for ResNet-50: 'always' is not supported"),
    Saying("popular", r"popular|common choice|everybody|everyone|most people",
           "popular for which task? Near this, published configurations use {advised}.",
           "{advised}.", "nearest: {near}", "a popular choice is well tested, which is worth something"),
    Saying("not-the-optimizer", r"optimizer is ?n.?t the problem|not the optimizer|lr is more important"
           r"|learning rate is more important|learning rate matters more",
           "mostly true: the rate comes first. The wrong choice still costs, where rates cannot repair it.",
           "check in this order: rate ({low} to {high}), stability, batch size, gradients, optimizer last.",
           "tuning AdamW's rate alone gives up to 2 times (2509.02046)",
           "2402.19449: SGD on language models cannot be repaired by its rate"),
    Saying("fast", r"fast(er)? training|train(ing)? fast|quick(ly)? converge|converge fast|speed",
           "fast at the start is not fast to the goal: Adam-type optimizers fall faster at first.",
           '{advised}; priority="fast" asks for the fast start.', "nearest: {near}",
           "AlgoPerf: Shampoo 28 % and schedule-free 8 % faster to the target than NAdamW (2502.15015)"),
    Saying("bert-uses-it", r"(bert|gpt|llama|vit|they all|openai|google|meta) uses?|used (by|in) (bert|gpt|llama)",
           "what a transformer was trained with says little about another kind of network.",
           "{advised}.", "nearest: {near}", "ConvNeXt and DeiT did take over AdamW from transformers, with success"),
    Saying("copied", r"cop(y|ied|ying)|from another project|successful project|their config",
           "settings belong to a batch size, data and length: copied alone, the rate is off.",
           "copy the whole recipe and scale it (recipe.scaled), or take {advised}.", "nearest: {near}",
           "8-bit Adam and LoRA rates do carry over"),
    Saying("nobody-cares", r"do ?n.?t care|nobody cares|no one cares|users (won|don)",
           "the result differs where a decay is used, and the fix is one word.", "AdamW instead of Adam: {advised}.",
           "1711.05101", "graph networks are published with Adam and L2"),
    Saying("urgent", r"urgent|asap|hurry|no time|time pressure|right now|deadline|just tell me|quick answer"
                     r"|immediately",
           "short: {advised}, rate {low} to {high}, schedule {schedule}.",
           "start it as it is; if the loss oscillates divide the rate by 3, if it falls slowly multiply it by 3.",
           "nearest: {near}", "a range test takes minutes and saves a wrong run"),
    Saying("framework", r"framework|timm|transformers|fastai|keras|lightning|hugging ?face|pytorch.*default|library",
           "a framework's choice serves all its models: timm's and transformers' defaults are sensible there.",
           "for this training: {advised}.", "nearest: {near}",
           "timm scales lr with the square root for 'ada' and 'lamb' and in proportion else, as here"),
    Saying("works-already", r"(it.?s |already |it )work(s|ing)|do ?n.?t change|never change",
           "then change nothing in a run that converges; compare on a short one.",
           "keep {kept}; a comparison with {advised} at the same budget decides.", "2509.02046: compare after the "
                                                                                   "decay",
           "OLMo extended its schedule in the middle of a run, with success"),
    Saying("too-complicated", r"complicated|complex|simplify|simpler|too much|just one line",
           "three things cannot be left out: the optimizer, its rate, and the form of the decay.",
           "{advised}, schedule {schedule}; everything else may stay at its default.", "nearest: {near}",
           "the exempt tensors and eps have small effects"),
    Saying("one-for-all", r"(always|only) use|for everything|one optimizer|all tasks|every task|every model"
                          r"|adam for all",
           "no optimizer is published for all families: RMSprop for EfficientNet, SGD for ResNet and LSTM, Adam for "
           "GANs.",
           "{advised} for this training.", "nearest: {near}", _WASH),
    Saying("does-not-work", r"optimizer.*(doesn.?t|does not|not) work|is (broken|useless|bad)$|not working"
                            r"|does not learn"
           r"|doesn.?t learn|oscillat\w*|nan\b|diverg\w*",
           "change one thing, in this order: rate, stability, batch size, gradients, optimizer last.",
           "rate first: {low} to {high}; then clip, then fp32 to rule out precision; keep the optimizer. stepwell "
           "doctor "
           "looks at a run.", "tuning playbook; the debugging order of the seeds",
           "mixed precision is no cure for a loss that explodes"),
    Saying("unfair-comparison", r"\b(beats?|better than|outperform\w*|wins?|compar\w+)\b",
           "an order of optimizers holds for the searched rates only.",
           "stepwell compare: the same budget for each, several seeds, judged at the end of the "
           "decay.", "1910.05446", _WASH),
    Saying("no-question", r"which optimizer|what optimizer|best optimizer",
           "it depends on the model, the batch and the goal: they are asked by `stepwell advise`.",
           "for what is known: {advised}.", "nearest: {near}", _WASH),
    Saying("beta-cargo", r"\bbetas?\b|beta1|beta2|0\.95|0\.98",
           "beta2 is a half-life: 0.999 is about 700 updates, 0.95 about 14. It follows the batch size.",
           "keep the half-life in samples; for this training {betas}.", "2507.07101",
           "a wide range is near the optimum: tuned points run from 0.06 to 0.9988 (AlgoPerf)"),
    Saying("bias-correction", r"bias.?correct\w*|(own|custom|my) (adam|implementation)|implement\w* adam",
           "without the correction the first steps are 1 / (1 - beta) times wrong: the averages start at zero.",
           "divide by 1 - beta1^t and 1 - beta2^t, with t from 1; torch and stepwell do it.", "Kingma and Ba, "
           "1412.6980",
           "BERT's original Adam has none, and trained with a warmup"),
    Saying("distributed", r"gpus?\b|distributed|nodes|world size|ddp|more devices",
           "the batch of one update grows with the devices: the rate belongs to it.",
           "recipe.scaled(devices=...): in proportion for SGD with momentum, with the square root for Adam-type; "
           "warmup in "
           "samples; not beyond 8 times without a search.", "1706.02677; 2205.10287",
           "tuned exponents run from 0 to 1, median 0.44 (MLPerf)"),
    Saying("optimizer-state", r"optimizer state|checkpoint|resum\w+|load_state|momentum buffers",
           "a resumed run needs the state: without it the averages start again, and the loss jumps.",
           "resume: load it (Step.load). Fine-tuning on another task: a fresh optimizer with a warmup.",
           "torch's documentation on saving", "after some hundred steps a fresh state has caught up"),
    Saying("decay-on-bias", r"\bbias(es)?\b|exempt|exclude.*decay|norm (params|weights|layers).*decay|no.?decay",
           "decay on norms and biases has little use.",
           "exempt them: groups.by_role does, here {exempt}.", "DeiT, Swin, ConvNeXt, nanoGPT",
           "there is no single convention: OLMo exempts embeddings only, torchtitan nothing; the effect is small"),
    Saying("gradient-norms", r"grad(ient)?.?norms?|explod\w+|vanish\w+|monitor\w*",
           "without the norms a clip and a rate are guesses.",
           "done.grad_norm of each step; clip at the 90th percentile; above half of the steps clipped the rate is "
           "too high.",
           "tuning playbook", "nanochat's norms never reached 1: the clip did nothing and was removed"),
    Saying("no-range", r"lr range|range of (lr|learning)|what (lr|learning rate)",
           "a rate without a range says nothing about its doubt.", "between {low} and {high}, here {lr}.",
           "nearest: {near}", "the best rate moves with the batch size and the length"),
    Saying("batch-ignored", r"batch size|small batch|large batch|accumulat\w+",
           "the rate belongs to a batch size.",
           "recipe.scaled(batch_size=...); small batches work if beta2 keeps its half-life.", "2507.07101; 1811.03600",
           "above the critical batch more samples are needed (1812.06162)"),
    Saying("fast-or-best", r"final (performance|accuracy|quality)|best (end|final|accuracy)|generali[sz]\w+|trade.?off",
           "the fast start and the best end can ask for different optimizers.",
           'priority="fast" or priority="best"; here {advised}.', "nearest: {near}", _TUNED),
    Saying(
        "adam-kept",
        r"\badam\b.*weight.?decay|(can.?t|cannot|can not|may not) (change|switch)|must (use|be) adam\b",
        "Adam with weight_decay adds the decay to the gradient and divides it by the gradient's size: the decay hardly "
        "acts where gradients are large.",
        "one word, Adam -> AdamW: {advised}. If it must be Adam: weight_decay=0.",
        "1711.05101",
        "graph networks are published with Adam and L2, and fairseq's 'Adam' is AdamW",
    ),
    Saying("decay-practices", r"weight.?decay|regulari[sz]\w+",
           "the size depends on the form and the family: 1e-4 (L2) for ResNets, 0.05 for ViT, 0.1 for language "
           "models, 0 "
           "for GANs, diffusion and reinforcement learning.",
           "{decay} here, as {form}.", "nearest: {near}", "less data and longer runs take more (2405.13698)"),
    Saying("needs-adam", r"\badam\b.*(transformer|bert|gpt|vit)|(transformer|bert|gpt|vit).*\badam\b",
           "Adam without decay is AdamW with weight_decay=0; near this a decay is published.", "{advised}.",
           "nearest: {near}", "GPT-3 and translation transformers are published with Adam"),
)  # fmt: skip


def answered(c: Context) -> list[Objection]:
    """The answers to what the user says, at most five, in the order of the table."""
    text = " ".join(c.asked.saying.lower().split())
    if not text:
        return []
    found = [row for row in SAYINGS if re.search(row.words, text)]
    if not found:
        return [
            Objection(
                "not-understood", "answer", f"the remark {c.asked.saying[:80]!r}", "it was not understood, and "
                                                                                   "changes nothing.",
                f"{c.said(c.free)} is advised.", "-",
            )
        ]  # fmt: skip
    return [_filled(row, c) for row in found[:5]]


def _filled(row: Saying, c: Context) -> Objection:
    low, high = c.published
    free, kept = c.free, c.recipe
    values = {
        "advised": c.said(free), "kept": c.said(kept), "low": f"{low:.2g}", "high": f"{high:.2g}", "lr": f"{kept.lr:g}",
        "near": ", ".join(name for name, _, _ in kept.near[:3]), "schedule": free.schedule,
        "betas": str(free["betas"]) if "betas" in free.choices else "no betas",
        "exempt": str(free["exempt"]) or "nothing", "decay": f"{free.weight_decay:g}", "form": free.decay_form,
    }  # fmt: skip
    return Objection(
        row.name,
        "answer",
        f"the remark {c.asked.saying[:80]!r}",
        row.cost.format(**values),
        row.fix.format(**values),
        row.evidence.format(**values),
        row.but.format(**values),
    )
