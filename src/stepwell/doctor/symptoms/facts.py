"""What is known of a training problem: a frozen record, and how far its numbers are from the usual ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from stepwell.doctor.symptoms.rates import adam_type, follows_gradient, usual

HALF = ("fp16", "mixed")  # "mixed" does not say which half precision; autocast's default on CUDA is fp16
LOW = ("fp16", "bf16", "mixed")


@dataclass(frozen=True)
class Facts:
    """Facts of one training problem. None stands for a fact that is not known.

    Args:
        symptoms: names of `stepwell.doctor.symptoms.known.SYMPTOMS`.
        optimizer: its name in the catalogue.
        precision: "fp32", "fp16", "bf16" or "mixed".
        kind: the kind of training, a name of `words.KINDS`.
        goal: what is predicted: "classification", "regression", "segmentation", "detection", "language".
        moment: when the symptom appears: "start", "early", "late", "epoch" or "resume".
        step: the step at which it appears.
        said: what the description says of parts of the training: {"warmup": False} for "without warmup".
    """

    symptoms: tuple[str, ...] = ()
    optimizer: str | None = None
    lr: float | None = None
    batch: int | None = None
    precision: str | None = None
    kind: str | None = None
    goal: str | None = None
    moment: str | None = None
    step: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    said: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def usual_lr(self) -> tuple[float, float] | None:
        """The usual learning rates, (low, high); None if the optimizer is not known."""
        return usual(self.optimizer, self.kind) if self.optimizer else None

    @property
    def effective_lr(self) -> float | None:
        """The learning rate as if momentum were 0.9, with which the usual ranges were found."""
        if self.lr is None or self.momentum is None or not follows_gradient(self.optimizer) or self.momentum >= 1:
            return self.lr
        return self.lr * max(1.0, 0.1 / (1 - self.momentum))  # a lower momentum is no reason to call an lr unusual

    @property
    def lr_above(self) -> float:
        """How many times the usual highest rate; below 1 within the range, 0 if not known."""
        span, rate = self.usual_lr, self.effective_lr
        return rate / span[1] if span and rate is not None else 0.0

    @property
    def lr_below(self) -> float:
        """How many times below the usual lowest rate; below 1 within the range, 0 if not known."""
        span = self.usual_lr
        if not span or self.lr is None:
            return 0.0
        return span[0] / self.lr if self.lr else float("inf")

    @property
    def adaptive(self) -> bool:
        return adam_type(self.optimizer)

    def yes(self, topic: str) -> bool:
        """The description says that the training has it."""
        return self.said.get(topic) is True

    def no(self, topic: str) -> bool:
        """The description says that the training does not have it."""
        return self.said.get(topic) is False

    def has(self, *symptoms: str) -> bool:
        return any(symptom in self.symptoms for symptom in symptoms)


def times(ratio: float) -> str:
    """A ratio in words: 33.3 as "33", 1000 as "1,000".

    >>> times(333.3), times(4.26), times(33333)
    ('330', '4.3', '33,000')
    """
    if ratio == float("inf"):
        return "infinitely many"
    if ratio >= 1e6:
        return rate(float(f"{ratio:.2g}"))
    return f"{float(f'{ratio:.2g}'):,.0f}" if ratio >= 9.95 else f"{ratio:.2g}"


def span_text(span: tuple[float, float]) -> str:
    return f"{rate(span[0])} to {rate(span[1])}"


def rate(value: float) -> str:
    """A learning rate as people write it: 0.1, 3e-4.

    >>> rate(0.1), rate(3e-4), rate(0.016), rate(25.0)
    ('0.1', '3e-4', '0.016', '25')
    """
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
