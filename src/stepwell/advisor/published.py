"""Published configurations: one frozen record per row of the files in `data`, read once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any

from stepwell.errors import UsageError, nearest, shown

# How the optimizers of the sources belong together: names that differ only in bookkeeping (paged memory, skipped steps)
# share a family, and so do Adam and AdamW, whose difference is the form of the weight decay.
KINDS: dict[str, tuple[str, ...]] = {
    "sgd": ("SGD", "NAG", "SGD->ASGD", "ASGD"),
    "adam": (
        "Adam", "AdamW", "SkipStepAdamW", "NAdamW", "NAdam", "DecoupledAdamW", "paged_adamw_32bit", "SparseAdam",
        "RAdam", "AdamW8bit", "AdamW4bit", "Adamax",
    ),
    "rmsprop": ("RMSprop", "RMSpropTF"),
    "lamb": ("LAMB",),
    "lars": ("LARS",),
    "muon": ("Muon", "Muon+AdamW", "Muon+Adam", "Dion"),
    "shampoo": ("SOAP", "Shampoo"),
    "adagrad": ("Adagrad",),
    "lion": ("Lion",),
    "sophia": ("SophiaG", "Sophia"),
    "adafactor": ("Adafactor",),
    "prodigy": ("Prodigy",),
    "schedule-free": ("ScheduleFreeAdamW", "ScheduleFreeSGD"),
    "l-bfgs": ("L-BFGS", "LBFGS"),
}  # fmt: skip
_KIND = {name: kind for kind, names in KINDS.items() for name in names}

# Kinds of schedule that train alike: a fall in stairs by epochs or by a fixed interval, and so on.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "cosine": ("cosine",),
    "linear": ("linear",),
    "stairs": ("step", "multistep"),
    "poly": ("poly",),
    "constant": ("constant", "none"),
    "inverse_sqrt": ("inverse_sqrt", "noam"),
    "plateau": ("plateau",),
    "hold": ("trapezoidal", "wsd", "tri_stage"),
    "one_cycle": ("one_cycle", "triangle"),
    "exponential": ("exponential",),
}
_SCHEDULE = {name: kind for kind, names in SCHEDULES.items() for name in names}


@dataclass(frozen=True)
class Published:
    """One published configuration. None is "not stated in the source"; zero is written as 0.

    `stepwell.advisor.data/README.md` says how the rows were made; `lr_is_peak` and `batch_is_global` say whether the lr
    and the batch size mean the usual thing.
    """

    id: str
    model: str
    family: str
    task: str
    dataset: str | None
    regime: str
    params: float | None
    batch_size: float | None
    batch_unit: str | None
    seq_len: int | None
    optimizer: str
    lr: float | None
    lr_groups: str | None
    momentum: float | None
    nesterov: bool | None
    beta1: float | None
    beta2: float | None
    eps: float | None
    rmsprop_alpha: float | None
    weight_decay: float | None
    wd_type: str | None
    no_decay: str | None
    layer_decay: float | None
    warmup_steps: float | None
    warmup_epochs: float | None
    warmup_frac: float | None
    schedule: str | None
    schedule_detail: str | None
    lr_end: float | None
    total_steps: float | None
    total_epochs: float | None
    total_tokens: float | None
    grad_clip: float | None
    ema_decay: float | None
    label_smoothing: float | None
    result: str | None
    source: str
    verified: str
    notes: str | None

    @property
    def kind(self) -> str:
        """The family of the optimizer, as "adam" for AdamW."""
        return kind_of(self.optimizer)

    @property
    def lr_is_peak(self) -> bool:
        """Whether lr is the rate that the optimizer gets, and not a factor or a base that the code multiplies."""
        said = f"{self.notes or ''} {self.schedule_detail or ''}".lower()
        factor = (
            "noam factor",
            "multiplied by",
            "multiplication by batch",
            "lr is per",
            "lr and wd are per",
            "base lr",
        )
        return not any(words in said for words in factor)

    @property
    def batch_is_global(self) -> bool:
        """Whether batch_size is that of one update, in samples or tokens, and not per device."""
        return self.batch_size is not None and batch_unit(self.batch_unit) is not None

    def decay(self) -> tuple[str, float] | None:
        """The form and the size of the weight decay; ("none", 0) if it is off, None if the source does not say."""
        if self.weight_decay is None:
            return None
        return ("none", 0.0) if self.weight_decay == 0 else (self.wd_type or "decoupled", self.weight_decay)


FILES = ("recipes.json", "more.json")
NAMES = tuple(field.name for field in fields(Published))


def kind_of(optimizer: str) -> str:
    """The family of an optimizer by its published name; an unknown name is its own family.

    >>> kind_of("SkipStepAdamW"), kind_of("NAG")
    ('adam', 'sgd')
    """
    return _KIND.get(optimizer, optimizer.lower())


def schedule_kind(schedule: str | None) -> str | None:
    """The kind of a schedule: "multistep" and "step" are both stairs."""
    return None if schedule is None else _SCHEDULE.get(schedule, schedule)


def batch_unit(unit: str | None) -> str | None:
    """The unit of a batch size in one word; None if the unit is per device or is not known.

    >>> batch_unit("samples (x8 accumulation)"), batch_unit("samples/GPU"), batch_unit("rays")
    ('samples', None, 'rays')
    """
    if unit is None or "/" in unit or "audio samples" in unit:
        return None
    return {"images": "samples", "graphs": "samples"}.get(unit.split()[0], unit.split()[0])


def read(rows: Iterable[Mapping[str, Any]]) -> tuple[Published, ...]:
    """The records of these rows. Raises UsageError for a row that lacks a key of the schema or has another one."""
    found = []
    for number, row in enumerate(rows, start=1):
        name = row.get("id", f"row {number}")
        lacking = [key for key in NAMES if key not in row]
        if lacking:
            raise UsageError(
                f"published configuration {name}: the key {lacking[0]!r} is missing; write null if unknown"
            )
        strange = [key for key in row if key not in NAMES]
        if strange:
            raise UsageError(f"published configuration {name}: the key {strange[0]!r} is not one of the schema")
        found.append(Published(**row))
    return tuple(found)


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """All published configurations of the package."""
    folder = resources.files("stepwell.advisor").joinpath("data")
    return read(row for name in FILES for row in json.loads(folder.joinpath(name).read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def _by_id() -> dict[str, Published]:
    return {row.id: row for row in published()}


def words_of(text: str) -> list[str]:
    """The words and numbers of a text: "ViT-B/16" is vit, b, 16."""
    return re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.lower())


def search(query: str) -> list[Published]:
    """The published configurations whose id, model, task, data, family, optimizer or source has every word of `query`.

    >>> [row.id for row in search("vit-b imagenet scratch")[:2]]
    ['vit-b-16-mae-style-scratch-imagenet-1k', 'vit-b-16-imagenet-1k']
    """
    wanted = words_of(query)
    found = []
    for row in published():
        short = words_of(f"{row.id} {row.model}")
        text = f"{row.id} {row.model} {row.task} {row.dataset} {row.family} {row.regime} {row.optimizer} {row.source}"
        words = {*words_of(text), *text.lower().replace("_", " ").split()}
        if all(word in words or any(len(word) > 2 and other.startswith(word) for other in words) for word in wanted):
            found.append((-sum(word in short for word in wanted), len(short), row))
    return [row for _, _, row in sorted(found, key=lambda item: item[:2])]


def find(query: str) -> Published:
    """The published configuration with this id, or the best match of a search.

    Raises UsageError with the nearest ids if there is no match.
    """
    if not isinstance(query, str) or not query.strip():
        raise UsageError(f"recipe={shown(query)}; it must be a name, as 'vit-b-16-imagenet-1k'; see stepwell recipes")
    if query in _by_id():
        return _by_id()[query]
    found = search(query)
    if found:
        return found[0]
    raise UsageError(
        f"unknown recipe {shown(query)}: {nearest(query, [])}".replace(" known: ", " see stepwell recipes")
    )
