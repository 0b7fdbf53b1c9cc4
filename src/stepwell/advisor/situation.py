"""What is known about a training, and where each piece of knowledge comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from stepwell.advisor.names import Read, family_of, read_dataset, read_model, read_regime, read_task
from stepwell.advisor.published import Published, batch_unit

From = Literal["given", "seen", "read", "assumed"]  # by the user; in the module; in a name or a text; by nobody


@dataclass(frozen=True)
class Situation:
    """What is known about a training, in the words of the published configurations. None is "not known".

    `origin` says of each known field where the knowledge comes from: given, seen in the module, read in a name, or
    assumed. `architecture` is a word of `names`, as "vit" or "mobile"; `traits` are observations on the module.
    """

    model: str = ""
    family: str = ""
    task: str = ""
    dataset: str = ""
    regime: str = ""
    architecture: str = ""
    backbone: str = ""
    params: float | None = None
    batch_size: float | None = None
    batch_unit: str | None = None  # of a known batch size, None is "samples"
    seq_len: int | None = None
    total_steps: float | None = None
    total_epochs: float | None = None
    total_tokens: float | None = None
    batch_norm: bool | None = None
    named_optimizer: str = ""
    traits: frozenset[str] = frozenset()
    devices: int = 1
    memory: float | None = None
    priority: str = ""
    tuning: str = ""
    origin: Mapping[str, From] = field(default_factory=dict, hash=False, compare=False)

    @property
    def batch_in_samples(self) -> float | None:
        """The batch size of one update in samples; None if it is in another unit that cannot be converted."""
        unit = batch_unit(self.batch_unit or "samples")
        if self.batch_size is None or unit is None:
            return None
        if unit == "tokens":
            return self.batch_size / self.seq_len if self.seq_len else self.batch_size / 1024
        return self.batch_size

    @property
    def updates(self) -> float | None:
        """The number of updates of the run, if it is known or follows from epochs or tokens."""
        if self.total_steps:
            return self.total_steps
        samples = read_dataset(self.dataset)[1] if self.dataset else None
        batch = self.batch_in_samples
        if self.total_epochs and samples and batch:
            return max(1.0, self.total_epochs * samples / batch)
        if self.total_tokens and batch and self.seq_len:
            return self.total_tokens / (batch * self.seq_len)
        if self.total_tokens and self.batch_size and batch_unit(self.batch_unit) == "tokens":
            return self.total_tokens / self.batch_size
        return None

    def with_(self, origin: From, **values: Any) -> Situation:
        """The situation with further values, where nothing was known before."""
        new = {name: value for name, value in values.items() if value not in (None, "") and not self.knows(name)}
        return replace(self, **new, origin={**self.origin, **dict.fromkeys(new, origin)})

    def knows(self, name: str) -> bool:
        """Whether this field is given, seen or read."""
        return name in self.origin or getattr(self, name) not in (None, "", frozenset())


def completed(one: Situation) -> Situation:
    """The situation with what follows from names: architecture, task, regime, family, parameters."""
    read = read_model(one.model) if one.model else Read()
    one = one.with_(
        "read", architecture=read.architecture, backbone=read.backbone, params=read.params, batch_norm=read.batch_norm,
        named_optimizer=read.optimizer,
    )  # fmt: skip
    if one.dataset:
        one = one.with_("read", task=read_dataset(one.dataset)[0] if not one.family else "")
    one = one.with_("read", regime=read_regime(one.model))
    one = one.with_("read", family=family_of(one.architecture, read_task(one.task) or one.task, one.regime))
    if one.family == "rl":
        one = one.with_("read", regime="rl")
    elif one.family in ("fine_tuning",):
        one = one.with_("read", regime="fine_tune")
    elif one.family == "scientific_inverse":
        one = one.with_("read", regime="per_instance_fit")
    return one.with_("assumed", regime="from_scratch", family="cnn_classification" if not one.model else "")


@lru_cache(maxsize=1024)
def of_published(row: Published) -> Situation:
    """The situation that a published configuration was made for, without what it answers."""
    names = (
        "model", "family", "task", "dataset", "regime", "params", "batch_size", "batch_unit", "seq_len", "total_steps",
        "total_epochs", "total_tokens",
    )  # fmt: skip
    given = {name: getattr(row, name) for name in names if getattr(row, name) is not None}
    return completed(Situation(**given, origin=dict.fromkeys(given, "given")))
