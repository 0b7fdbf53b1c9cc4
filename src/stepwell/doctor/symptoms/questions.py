"""Questions that are open, the most decisive first: those whose answers would change the causes most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from stepwell.doctor.symptoms.facts import Facts
from stepwell.doctor.symptoms.rates import usual
from stepwell.doctor.symptoms.record import Record

MOST = 6
_LEAST = 0.1  # change of likelihood, summed over all causes, below which a question decides nothing


def _rates(facts: Facts) -> list[dict[str, Any]]:
    low, high = usual(facts.optimizer or "AdamW", facts.kind)
    name = facts.optimizer or "AdamW"
    return [{"optimizer": name, "lr": value} for value in (low / 100, (low * high) ** 0.5, high * 30)]


def _said(topic: str) -> Callable[[Facts], list[dict[str, Any]]]:
    return lambda facts: [{"said": {**facts.said, topic: answer}} for answer in (True, False)]


# (fact or topic, question, answers to try)
_QUESTIONS: tuple[tuple[str, str, Callable[[Facts], list[dict[str, Any]]]], ...] = (
    ("lr", "What is the peak learning rate?", _rates),
    (
        "optimizer",
        "Which optimizer is used?",
        lambda facts: [{"optimizer": name} for name in ("SGD", "AdamW", "Muon", "ScheduleFreeAdamW")],
    ),
    (
        "batch",
        "How many samples are in the batch of one optimizer step?",
        lambda facts: [{"batch": size} for size in (4, 128, 8192)],
    ),
    (
        "precision",
        "Which precision: fp32, fp16 or bf16, with autocast or in the weights?",
        lambda facts: [{"precision": name} for name in ("fp32", "fp16", "bf16")],
    ),
    (
        "kind",
        "What is trained: a CNN, a transformer, an RNN, a GAN, an RL agent, or a pretrained model?",
        lambda facts: [{"kind": name} for name in ("cnn", "transformer", "rnn", "fine-tuning")],
    ),
    (
        "moment",
        "When does it start: from the first step, after some thousand, at an epoch's boundary, or after resuming?",
        lambda facts: [{"moment": name} for name in ("start", "late", "epoch")],
    ),
    ("warmup", "Does the learning rate warm up?", _said("warmup")),
    ("schedule", "Is there a schedule, and is it stepped per batch or per epoch?", _said("schedule")),
    ("clip", "Are gradients clipped, and at which norm?", _said("clip")),
    ("accumulation", "Are gradients accumulated over micro-batches?", _said("accumulation")),
    ("zero_grad", "Is zero_grad() called once per optimizer step?", _said("zero_grad")),
    ("batch_norm", "Does the model use batch norm?", _said("batch_norm")),
    ("shuffle", "Is the training data shuffled?", _said("shuffle")),
    ("normalized", "Are the inputs normalized?", _said("normalized")),
    ("pretrained", "Are the weights pretrained?", _said("pretrained")),
)


def open_questions(
    facts: Facts, causes: Sequence[Record], chance_of: Callable[[Record, Facts], float]
) -> tuple[str, ...]:
    """At most MOST questions about facts that are not known. `chance_of` gives the likelihood of a cause."""
    decisive = []
    for name, question, answers in _QUESTIONS:
        if name in facts.said or getattr(facts, name, None) is not None:
            continue
        variants = [replace(facts, **answer) for answer in answers(facts)]
        now = [chance_of(cause, facts) for cause in causes]
        changes = [abs(chance_of(cause, one) - was) for one in variants for cause, was in zip(causes, now, strict=True)]
        change = sum(changes) / len(variants)
        if change >= _LEAST:
            decisive.append((change, question))
    decisive.sort(key=lambda one: -one[0])
    return tuple(question for _, question in decisive[:MOST])
