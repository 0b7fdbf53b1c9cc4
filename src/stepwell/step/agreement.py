"""What every process of a distributed run must do alike. The processes compare it through the store of their process
group, before something would wait: a difference is then one error in all of them, and no hang.

It is compared where it begins or changes, not in every update: settings and weights at the first update, the length of
a loader at the beginning of each pass, a metric whenever it is observed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stepwell.engine import together
from stepwell.errors import UsageError

PATIENCE = 1800.0  # seconds; one process may compile, or evaluate alone, while the others wait for it


class Agreement:
    """The processes that train together.

    Args:
        groups: those over which gradients are averaged, and that of the stages of a pipeline; none for one process.
    """

    def __init__(self, groups: Sequence[Any]) -> None:
        self._ranks: list[int] | None = None
        if len(groups) == 1:
            self._ranks = torch.distributed.get_process_group_ranks(groups[0])
        elif groups:
            self._ranks = list(range(torch.distributed.get_world_size()))
        self._agreed: Mapping[str, Any] | None = None

    @property
    def _alone(self) -> bool:
        return self._ranks is None or len(self._ranks) < 2

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Raise UsageError in every process if the settings of this update are not those of the others. They are
        compared when they are new."""
        if self._alone or settings == self._agreed:
            return
        said = [json.loads(text) for text in self._met("step", json.dumps(dict(settings)))]
        for name in settings:
            self._check(f"{name} is", [one[name] for one in said])
        self._agreed = settings

    def length(self, length: int | None) -> None:
        """Raise UsageError in every process if the loaders have different numbers of batches."""
        if self._alone:
            return
        said = self._met("step.batches", "" if length is None else str(length))
        self._check("the number of batches of the loader is", [int(text) for text in said if text], len(said))

    def mean(self, metric: Any) -> Any:
        """The mean over the processes of a metric that each has observed; the same number in all of them."""
        if self._alone:
            return metric
        values = [float.fromhex(text) for text in self._met("step.observe", float(metric).hex())]
        return sum(values) / len(values)

    def _met(self, what: str, said: str) -> list[str]:
        return together.meet("Step", what, said, self._ranks, PATIENCE)

    def _check(self, what: str, values: Sequence[Any], count: int | None = None) -> None:
        assert self._ranks is not None
        for rank, value in zip(self._ranks, values, strict=False):
            if value != values[0] and (count is None or count == len(values)):
                raise UsageError(
                    f"Step: {what} {_shown(values[0])} in rank {self._ranks[0]} and {_shown(value)} in rank {rank}; it "
                    "must be the same in every rank, which otherwise wait for one another; nothing is updated"
                )


def _shown(value: Any) -> str:
    return ("given" if value else "not given") if isinstance(value, bool) else str(value)
