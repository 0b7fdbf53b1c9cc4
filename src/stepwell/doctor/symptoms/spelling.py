"""Typing errors: a word that is near a known word is replaced by that."""

from __future__ import annotations

import difflib
import re
from functools import cache

from stepwell.doctor.symptoms import words
from stepwell.doctor.symptoms.known import SYMPTOMS
from stepwell.optimizers import TABLE

_NEAR = 0.82  # ratio of difflib: "oscilates" to "oscillates" 0.95, "stable" to "unstable" 0.86 (see _opposite)
_WORDS = """oscillates oscillating oscillation unstable diverges diverging diverged explodes exploding exploded
plateau plateaus decrease decreases decreasing increases increasing constant gradients gradient vanish vanishing
learning rate batch momentum precision mixed overfits overfitting underfitting validation accuracy random chance
memory resuming resumed resume checkpoint spikes spiking suddenly discriminator generator collapse collapses
transformer warmup schedule without clipping accumulation shuffle epoch iteration iterations steps training
suspiciously negative reward converge converging converges improve improving suspicious periodic reproducible
generalize optimizer bounces fluctuates stagnates finetuning pretrained dropout negative throughput predicts
imbalanced slowly leak distributed nonfinite"""


@cache
def vocabulary() -> tuple[frozenset[str], tuple[str, ...]]:
    """All known words, and those that a misspelled word is compared with."""
    patterns = [pattern for symptom in SYMPTOMS.values() for pattern in symptom.words]
    patterns += [*words.KINDS.values(), *words.GOALS.values(), *words.PRECISIONS.values(), *words.TOPICS.values()]
    pieces = {piece for pattern in patterns for piece in re.findall(r"[a-z]{3,}", pattern)}
    targets = {*_WORDS.split(), *(name.lower() for name in TABLE if len(name) > 3)}
    return frozenset({*pieces, *targets, *words.ENGLISH}), tuple(sorted(targets))


def corrected(text: str) -> str:
    """Text in lower case with its misspelled words replaced.

    >>> corrected("the los oscilates with adma")
    'the los oscillates with adam'
    """
    return re.sub(r"[a-z]{4,40}", lambda match: _word(match.group()), text)


@cache
def _matches_a_pattern(word: str) -> bool:
    return any(symptom.pattern.fullmatch(word) for symptom in SYMPTOMS.values())


def _word(word: str) -> str:
    known, targets = vocabulary()
    if word in known or _matches_a_pattern(word) or any(word.removesuffix(end) in known for end in ("s", "ed", "ing")):
        return word
    letters = sorted(word)
    for target in targets:
        if (
            len(target) == len(word) and target[0] == word[0] and sorted(target) == letters
        ):  # "adma", "sgd" is too short
            return target
    if len(word) < 5:
        return word
    near = difflib.get_close_matches(word, targets, n=1, cutoff=_NEAR)
    return near[0] if near and not _opposite(word, near[0]) else word


def _opposite(word: str, other: str) -> bool:
    """ "stable" and "unstable", "finite" and "nonfinite"."""
    return any({word, other} == {shorter, prefix + shorter} for prefix in ("un", "in", "non", "ir", "im", "dis")
               for shorter in (word, other))  # fmt: skip
