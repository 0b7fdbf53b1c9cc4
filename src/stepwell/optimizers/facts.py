"""What is known about an optimizer beside its rule: one frozen record each, with its sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Facts of one optimizer, read by `compare`, the command line and the documentation.

    Args:
        lr: learning rates worth trying, (low, high), by model family; "default" where a family is not named.
        source: where these ranges come from.
        compare_options: constructor options `compare` uses unless told otherwise.
    """

    lr: Mapping[str, tuple[float, float]]
    source: str
    compare_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def lr_range(self, family: str | None = None) -> tuple[float, float]:
        """The learning rates worth trying for a model family ("cnn", "transformer", "toy"), (low, high)."""
        return self.lr.get(family or "default", self.lr["default"])
