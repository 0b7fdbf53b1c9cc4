"""Where published evidence disagrees with common advice: both sides, for the recipes that the dispute is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe


@dataclass(frozen=True)
class Dispute:
    """One piece of common advice, with what supports it and what does not. `about`: the recipes it matters for."""

    name: str
    advice: str
    supports: str
    against: str
    about: Callable[[Recipe], bool]


def disputes(recipe: Recipe) -> list[Dispute]:
    """The disputes that matter for a recipe."""
    return [dispute for dispute in DISPUTES if dispute.about(recipe)]


def _family(*names: str) -> Callable[[Recipe], bool]:
    return lambda recipe: recipe.situation.family in names


_LM = ("lm_pretraining", "new_optimizer")
_CNN = ("cnn_classification", "large_batch", "algoperf_target")

DISPUTES: tuple[Dispute, ...] = (
    Dispute(
        "sgd-for-cnns",
        "SGD beats Adam on convolutional networks.",
        "torchvision's SGD recipe gives 80.86 on ResNet-50 (76.1 before, the optimizer unchanged); AlgoPerf's "
        "target for "
        "ResNet-50 came from heavy-ball, and the 5-point NAdamW baseline missed it.",
        "With tuned search spaces adaptive methods never underperform momentum (1910.05446); LAMB gives 80.1 to "
        "80.4 on "
        "ResNet-50 (2110.00476), AdamW 82.1 on ConvNeXt.",
        lambda recipe: recipe.situation.family in _CNN and recipe.situation.architecture != "mobile",
    ),
    Dispute(
        "nesterov",
        "Use Nesterov momentum always.",
        "Tuned searches choose it for fastMRI and OGBG.",
        "The same search chooses heavy-ball for ResNet-50, and small changes of the network flip the winner "
        "(AlgoPerf).",
        lambda recipe: recipe.optimizer == "SGD",
    ),
    Dispute(
        "adam-decay",
        "The weight decay of Adam is broken.",
        "It is L2: the gradient's scale divides it, and lr and decay cannot be tuned apart (1711.05101).",
        "Published graph networks use Adam with L2 5e-4 and work; fairseq's and DeepSpeed's 'Adam' decays as AdamW "
        "does.",
        lambda recipe: (recipe.decay_form == "l2" and recipe.optimizer == "Adam") or recipe.situation.family == "gnn",
    ),
    Dispute(
        "optimizer-matters",
        "The choice of the optimizer decides.",
        "Matrix methods save steps in pretraining: 1.4 times at 0.1B parameters, 1.1 times at 1.2B (2509.02046).",
        "Over 8 tasks, several optimizers at their defaults are about as good as one that is tuned (2007.01547); on "
        "language models all but SGD are comparable (2407.07972); tuning AdamW's lr alone gives up to 2 times.",
        lambda recipe: recipe.optimizer not in ("SGD", "LBFGS"),
    ),
    Dispute(
        "warmup",
        "Adam-type optimizers need a warmup.",
        "2 / (1 - beta2) steps suffice without tuning (1910.04209); transformers diverge without one.",
        "DiT, most of MLPerf's BERT points, LoRA and DLRM-DCNv2 train without any.",
        lambda recipe: bool(recipe.value("warmup")),
    ),
    Dispute(
        "clipping",
        "Clip the gradient's norm at 1.",
        "GPT-3, LLaMA and OLMo clip at 1.",
        "nanochat measured no effect from 0.25 to 2 and removed the clip; RoBERTa and translation train without; "
        "MaskFeat "
        "clips at 0.02, nearly every step.",
        lambda recipe: recipe.value("clip_norm") is not None,
    ),
    Dispute(
        "size-and-rate",
        "A larger language model takes a smaller rate.",
        "GPT-3: 6e-4 at 125M to 6e-5 at 175B.",
        "OLMo-2 takes 4e-4 at 1B, 3e-4 at 7B and 6e-4 at 32B; GPT-3's rates for small models are conservative "
        "(NormFormer: 1e-3 at 125M).",
        _family(*_LM),
    ),
    Dispute(
        "small-proxy",
        "Tune on a small model and keep the settings.",
        "muP transfers the rate over width (2203.03466).",
        "Of about 320 runs of nanochat, settings that won at depth 12 hurt at depth 20; one was kept.",
        _family(*_LM),
    ),
    Dispute(
        "beta2",
        "beta2 is 0.999.",
        "It is torch's default and that of most published configurations.",
        "The best of 200 tuned points have beta2 from 0.06 to 0.9988 (AlgoPerf): it interacts with lr.",
        lambda recipe: recipe.value("betas") is not None,
    ),
    Dispute(
        "accumulation",
        "A large batch is needed, by accumulation if it does not fit.",
        "The published rates belong to the published batch sizes.",
        "SGD and Adam are stable down to a batch of 1 if beta2 keeps its half-life in tokens (2507.07101).",
        lambda recipe: (recipe.value("accumulate") or 1) > 1,
    ),
    Dispute(
        "momentum-zero",
        "Momentum 0.9 always helps.",
        "It is the default of nearly all published configurations.",
        "StyleGAN, BigGAN and SAGAN set beta1 to 0, and WGAN uses RMSprop without momentum.",
        _family("gan"),
    ),
    Dispute(
        "rmsprop",
        "RMSprop is obsolete.",
        "Adam has replaced it in most families.",
        "EfficientNet, MobileNetV3, MixNet, A2C, the DQN of Nature and WGAN were published with it.",
        lambda recipe: recipe.optimizer == "RMSprop" or recipe.situation.family == "rl",
    ),
    Dispute(
        "large-rates",
        "A rate above 1 is a mistake.",
        "For Adam-type optimizers a rate above 0.1 diverges.",
        "Linear probes take SGD 30, LSTM language models 30 with clip 0.25, DLRM 18 to 26, LARS 7 to 25.",
        lambda recipe: recipe.lr >= 1 and recipe.optimizer != "Prodigy",
    ),
)
