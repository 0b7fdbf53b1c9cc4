"""How far a training is from a published configuration: a number, and the same in words.

The distance is a weighted sum of differences. The weights are few and round. They were chosen by leaving out one
member of a family at a time, together with its copies (`bench/advisor.py`), never on single rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from stepwell.advisor.names import read_task
from stepwell.advisor.published import Published, words_of
from stepwell.advisor.situation import Situation, of_published

# Weights of the differences, each of which lies between 0 and 1.
FAMILY, KIN, TASK, REGIME, ARCHITECTURE, BACKBONE, NAME, BATCH, SIZE, DATA, LENGTH, NORM = (
    3.0, 1.2, 0.8, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.5, 1.0,
)  # fmt: skip
BATCH_SPAN, SIZE_SPAN, LENGTH_SPAN = 6.0, 3.0, 4.0  # doublings, powers of ten, doublings that count as 1

# Families whose members train alike.
KINS: tuple[frozenset[str], ...] = (
    frozenset({"cnn_classification", "vit_supervised", "ssl_vision", "large_batch", "algoperf_target"}),
    frozenset({"lm_pretraining", "new_optimizer", "large_batch"}),
    frozenset({"lm_pretraining", "translation", "speech_audio", "algoperf_target"}),
    frozenset({"fine_tuning", "contrastive_multimodal"}),
    frozenset({"gan", "image_restoration", "diffusion"}),
    frozenset({"recsys", "algoperf_target", "tabular_timeseries"}),
    frozenset({"detection_segmentation", "cnn_classification"}),
)


@dataclass(frozen=True)
class Neighbor:
    """A published configuration with its distance, and the differences in words."""

    row: Published
    distance: float
    words: str

    def __str__(self) -> str:
        return f"{self.row.id} (distance {self.distance:.1f}: {self.words})"


def neighbors(one: Situation, rows: tuple[Published, ...]) -> list[Neighbor]:
    """The rows by distance, nearest first."""
    found = [measured(one, row) for row in rows]
    return sorted(found, key=lambda neighbor: (neighbor.distance, neighbor.row.id))


def measured(one: Situation, row: Published) -> Neighbor:
    """The distance between a training and a configuration."""
    other = of_published(row)
    parts = [*_kind(one, other), *_amounts(one, other)]
    distance = sum(size for size, _ in parts)
    said = ", ".join(words for _, words in parts if words)
    return Neighbor(row, distance, said or "the same situation")


def _kind(one: Situation, other: Situation) -> list[tuple[float, str]]:
    parts = []
    if not one.family:
        parts.append((FAMILY / 2, "family not known"))
    elif one.family == other.family:
        parts.append((0.0, "same family"))
    elif any(one.family in kin and other.family in kin for kin in KINS):
        parts.append((KIN, f"related family {other.family}"))
    else:
        parts.append((FAMILY, f"other family {other.family}"))
    mine, its = _task(one.task), _task(other.task)
    if not mine:
        parts.append((TASK / 2, ""))
    elif mine != its:
        parts.append((TASK, f"{other.task} instead of {one.task}"))
    if not one.regime:
        parts.append((REGIME / 2, ""))
    elif one.regime != other.regime:
        parts.append((REGIME, f"{other.regime} instead of {one.regime}"))
    if one.architecture and other.architecture:
        same = one.architecture == other.architecture
        parts.append(
            (0.0 if same else ARCHITECTURE, "" if same else f"{other.architecture} instead of {one.architecture}")
        )
    elif one.architecture or other.architecture:
        parts.append((ARCHITECTURE / 2, ""))
    if one.backbone and other.backbone and one.backbone != other.backbone:
        parts.append((BACKBONE, f"{other.backbone} instead of {one.backbone} inside"))
    if (one.batch_norm is False) != (other.batch_norm is False):
        parts.append((NORM, "with batch norm" if one.batch_norm is False else "without batch norm"))
    if one.model:
        shared = likeness(one.model, other.model)
        parts.append((NAME * (1 - shared), f"model {other.model}"))
    else:
        parts.append((NAME / 2, f"model {other.model}"))
    if one.dataset and other.dataset and one.dataset.lower() != other.dataset.lower():
        parts.append((DATA, f"{other.dataset} instead of {one.dataset}"))
    return parts


def _amounts(one: Situation, other: Situation) -> list[tuple[float, str]]:
    parts = []
    mine, its = one.batch_in_samples, other.batch_in_samples
    if mine and its:
        ratio = its / mine
        words = "" if 0.67 < ratio < 1.5 else _times("batch", ratio)
        parts.append((BATCH * min(1.0, abs(math.log2(ratio)) / BATCH_SPAN), words))
    else:
        parts.append((BATCH / 3 if mine or its else 0.0, ""))
    if one.params and other.params:
        ratio = other.params / one.params
        words = "" if 0.67 < ratio < 1.5 else _times("model", ratio)
        parts.append((SIZE * min(1.0, abs(math.log10(ratio)) / SIZE_SPAN), words))
    else:
        parts.append((SIZE / 3 if one.params or other.params else 0.0, ""))
    if one.total_epochs and other.total_epochs:
        parts.append((LENGTH * min(1.0, abs(math.log2(other.total_epochs / one.total_epochs)) / LENGTH_SPAN), ""))
    elif one.total_steps and other.total_steps:
        parts.append((LENGTH * min(1.0, abs(math.log2(other.total_steps / one.total_steps)) / LENGTH_SPAN), ""))
    else:
        parts.append((LENGTH / 2, ""))
    return parts


def _times(what: str, ratio: float) -> str:
    times = f"{ratio if ratio > 1 else 1 / ratio:.2g} times"
    return f"{what} {times} {'larger' if ratio > 1 else 'smaller'}"


@lru_cache(maxsize=4096)
def _task(text: str) -> str:
    return read_task(text) or text.lower()


@lru_cache(maxsize=4096)
def _stems(model: str) -> frozenset[str]:
    noise = {"base", "small", "large", "big", "tiny", "default", "style", "the", "net", "batch", "b", "m", "s", "l",
             "t", "xl", "x", "d", "v", "k", "ft", "scratch", "and", "with"}  # fmt: skip
    return frozenset(word for word in words_of(model) if word.isalpha() and word not in noise)


@lru_cache(maxsize=65536)
def likeness(one: str, other: str) -> float:
    """How alike two names of models are, from 0 to 1: shared words over all words, without sizes.

    >>> likeness("OLMo-2 13B", "OLMo-2 7B"), likeness("ResNet-50", "VGG-16")
    (1.0, 0.0)
    """
    mine, its = _stems(one), _stems(other)
    return len(mine & its) / len(mine | its) if mine | its else 0.0
