"""Decision trees: that of the seeds, and that of the published configurations; to look at, and to walk.

A tree is data: a question, the words of its branches, and leaves with a recommendation. `drawn` prints a tree, and
`walk` takes a situation to a leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepwell.advisor.situation import Situation


@dataclass(frozen=True)
class Leaf:
    """A recommendation: optimizer, learning rate, weight decay (form, size), schedule, and a remark."""

    optimizer: str
    lr: float | None
    decay: tuple[str, float] = ("none", 0.0)
    schedule: str = "cosine"
    said: str = ""
    doubt: str = ""

    def __str__(self) -> str:
        rate = "" if self.lr is None else f" lr {self.lr:g}"
        decay = "" if self.decay[0] == "none" else f", weight decay {self.decay[1]:g}"
        return f"{self.optimizer}{rate}{decay}" + (f"; {self.said}" if self.said else "")


@dataclass(frozen=True)
class Question:
    """A question with branches: (answer in words, whether a situation takes it, where it leads). The last takes all."""

    text: str
    branches: tuple[tuple[str, Callable[[Situation], bool], Question | Leaf], ...]


def walk(tree: Question | Leaf, one: Situation) -> Leaf:
    """The leaf that a situation reaches."""
    while isinstance(tree, Question):
        tree = next(leads for _, takes, leads in tree.branches if takes(one))
    return tree


def drawn(tree: Question | Leaf, plain: bool = False, doubts: bool = True) -> str:
    """The tree as text, one line per branch; what published evidence says against a leaf stands under it."""
    lines: list[str] = []
    _draw(tree, "", lines, ("|", "+-", "`-") if plain else ("│", "├─", "└─"), doubts)
    return "\n".join(lines)


def _draw(tree: Question | Leaf, indent: str, lines: list[str], signs: tuple[str, str, str], doubts: bool) -> None:
    if isinstance(tree, Leaf):
        lines[-1] += f" → {tree}" if signs[0] == "│" else f" -> {tree}"
        if doubts and tree.doubt:
            lines.append(f"{indent}   but: {tree.doubt}")
        return
    lines.append(f"{indent}{tree.text}")
    for number, (answer, _, leads) in enumerate(tree.branches):
        last = number == len(tree.branches) - 1
        lines.append(f"{indent}{signs[2] if last else signs[1]} {answer}")
        _draw(leads, f"{indent}{' ' if last else signs[0]}  ", lines, signs, doubts)


def _any(one: Situation) -> bool:
    return True


def _is(*families: str) -> Callable[[Situation], bool]:
    return lambda one: one.family in families


def _built(*architectures: str) -> Callable[[Situation], bool]:
    return lambda one: one.architecture in architectures


def _large(one: Situation) -> bool:
    return (one.batch_in_samples or 0) > 8192


def _transformer(one: Situation) -> bool:
    return one.family in ("lm_pretraining", "translation", "fine_tuning") or one.architecture in (
        "causal_lm", "masked_lm", "seq2seq", "lm", "speech", "contrastive")  # fmt: skip


_VISION = _built("cnn", "mobile", "modern_cnn", "detector", "segmenter", "restorer")

# The tree of the seeds, as they teach it. What is dated or wrong in it stands in `doubt`.
SEEDS = Question(
    "Is a pretrained model fine-tuned?",
    (
        ("yes", lambda one: one.regime == "fine_tune",
         Leaf("AdamW", 1e-5, ("decoupled", 0.01), "cosine", "head 1e-3, warmup 5 to 10 %",
              "adapters (LoRA) take 2e-4, convolutional networks SGD 0.01")),
        ("no", _any, Question("Which model?", (
            ("a vision transformer", lambda one: one.architecture == "vit" or one.backbone == "vit",
             Leaf("AdamW", 1e-3, ("decoupled", 0.05), "cosine", "warmup", "plain ViT takes weight decay 0.3")),
            ("another transformer", _transformer,
             Leaf("AdamW", 5e-4, ("decoupled", 0.01), "cosine", "warmup 10 %",
                  "language models: betas 0.9, 0.95, weight decay 0.1; translation: inverse square root, no decay")),
            ("a GAN", _is("gan"), Leaf("Adam", 2e-4, schedule="constant", said="beta1 0.5, no warmup")),
            ("an RNN or LSTM", lambda one: one.family == "rnn_lm" or one.architecture == "recurrent",
             Leaf("Adam", 1e-3, schedule="constant", said="clip 1",
                  doubt="the published LSTM language models use SGD 30 with clip 0.25")),
            ("a policy", _is("rl"), Leaf("Adam", 3e-4, schedule="constant", said="no weight decay",
                                         doubt="tuned rates span 2e-5 to 2.3e-3 over environments; A2C uses RMSprop")),
            ("images, batch above 8192", lambda one: _VISION(one) and _large(one), Leaf("LARS", 1.0, ("l2", 1e-4))),
            ("a convolutional network", lambda one: _VISION(one) or one.family == "cnn_classification",
             Leaf("SGD", 0.1, ("l2", 1e-4), "cosine", "Nesterov momentum 0.9",
                  "without batch norm 0.01; MobileNet and EfficientNet use RMSprop, ConvNeXt AdamW, RSB LAMB; Nesterov "
                  "is not always better (AlgoPerf: heavy-ball on ResNet-50)")),
            ("text, batch above 8192", _large, Leaf("LAMB", 1e-3, ("decoupled", 0.01), "linear")),
            ("something else", _any, Leaf("AdamW", 1e-3, ("decoupled", 0.01), "cosine", "a baseline",
                                          "graphs: Adam 0.01 with L2 5e-4; diffusion: constant rate, no decay")),
        ))),
    ),
)  # fmt: skip

# The selection guide of the seeds: a situation, and what is recommended for it.
GUIDE = Question(
    "What describes the training best?",
    (
        ("a baseline for deep learning", _is("tabular_timeseries"), Leaf("AdamW", 1e-3, ("decoupled", 0.01))),
        ("vision at a large scale (ResNet, ViT)", _is("cnn_classification", "vit_supervised", "large_batch"),
         Leaf("SGD", 0.1, ("l2", 1e-4), "cosine", "with momentum; or AdamW 1e-3", "the recipe around the optimizer "
                                                                                  "decides")),
        ("transformers, language models", _transformer,
         Leaf("AdamW", 5e-4, ("decoupled", 0.1), "cosine", "with warmup")),
        ("sparse embeddings", _is("recsys"),
         Leaf("SparseAdam", 1e-3, schedule="constant", doubt="DLRM is published with SGD 18 to 26, DCNv2 with "
                                                             "Adagrad 0.004")),
        ("a small model with a full batch", _is("scientific_inverse"),
         Leaf("LBFGS", 1.0, schedule="constant", said="with a closure", doubt="after Adam: 15,000 steps first for a "
                                                                              "PINN")),
        ("a convex problem, averaging needed", lambda one: one.family == "rnn_lm",
         Leaf("ASGD", 0.01, schedule="constant", doubt="published for LSTM language models after SGD, on a plateau")),
        ("no tuning of the learning rate wanted", lambda one: one.tuning == "none",
         Leaf("Adadelta", 1.0, schedule="constant",
              doubt="Prodigy and schedule-free AdamW are newer ways; the latter's README says it still needs tuning")),
        ("super-convergence", _any, Leaf("SGD", 0.1, ("l2", 1e-4), "one_cycle", "with one cycle of the rate")),
    ),
)  # fmt: skip
