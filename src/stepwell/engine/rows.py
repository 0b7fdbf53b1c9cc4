"""The numbers of the groups in the form for kernels."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from operator import is_, itemgetter
from typing import Any

import numpy as np
from torch import Tensor

from stepwell.engine.rule import Range, RuleSignature, read
from stepwell.errors import UsageError


class Rows:
    """The numbers of every group, float64 (groups, names), which a schedule changes from step to step."""

    def __init__(self, optimizer: Any) -> None:
        # A weak one: the optimizer holds this, and what is in a circle stays in memory until the next collection.
        self.optimizer: Callable[[], Any] = weakref.ref(optimizer)
        self.signatures: tuple[RuleSignature, ...] = tuple(optimizer.signatures.values())
        by_element = [signature for signature in self.signatures if signature.view == "element"]
        numbers = dict.fromkeys(("lr", "weight_decay", *(n for s in by_element for n in s.numbers)))
        self.names = (*numbers, "gradient_sign")
        self.groups: list[dict[str, Any]] = optimizer.param_groups
        self.values = np.zeros((len(self.groups), len(self.names)))
        self._named = tuple(name for name in optimizer.defaults if name not in optimizer.construction)
        self._ranges = [optimizer.all_ranges.get(name) for name in self._named]
        self._read = itemgetter(*self._named)  # as tuples: quick to compare with the last step's
        for index, group in enumerate(self.groups):
            absent = [name for name in self._named if name not in group]
            if absent:
                raise UsageError(f"{type(optimizer).__name__}: group {index} has no {absent[0]!r}; put it back")
            optimizer.check_changed(index, self._named)
        self._raw: list[Any] = [self._read(group) for group in self.groups]
        self._flags = [self._group_flags(group) for group in self.groups]
        for index in range(len(self.groups)):
            self._write(index)

    def refresh(self) -> bool:
        """Update changed numbers; False if a flag has changed, so that other kernels are needed."""
        try:
            raw = [self._read(group) for group in self.groups]
        except KeyError:  # the next plan says which
            return False
        for index, (new, old) in enumerate(zip(raw, self._raw, strict=True)):
            # By identity: 1.0, np.True_ and an array of one compare equal, and are kept in different ways.
            if all(map(is_, new, old)) and not self._has_tensors(new):
                continue
            changed = self._changed(new, old)
            if not changed and new == old and not self._has_tensors(new):
                continue
            if changed:
                self.optimizer().check_changed(index, changed)
                raw[index] = self._read(self.groups[index])
            if self._group_flags(self.groups[index]) != self._flags[index]:
                return False
            self._write(index)
        self._raw = raw
        return True

    def _changed(self, new: tuple[Any, ...], old: tuple[Any, ...]) -> list[str]:
        """The names whose value must be looked at: another object than before, and not simply a number in range."""
        return [
            name
            for name, allowed, value, before in zip(self._named, self._ranges, new, old, strict=True)
            if value is not before and not (type(value) is float and type(allowed) is Range and allowed.is_plain(value))
        ]

    def _write(self, index: int) -> None:
        group, optimizer = self.groups[index], self.optimizer()
        for column, name in enumerate(self.names[:-1]):
            value = self.signatures[0].value(name, group)
            if isinstance(value, Tensor):  # which may have been changed in place
                place = f" in group {index}"
                value = read(type(optimizer).__name__, name, value.item(), optimizer.all_ranges[name], place)
            self.values[index, column] = math.nan if isinstance(value, str) or value is None else value
        self.values[index, -1] = -1.0 if group["maximize"] else 1.0

    @staticmethod
    def _has_tensors(values: tuple[Any, ...]) -> bool:
        """A tensor (torch allows one for lr) can change its value and stay the same object."""
        return any(isinstance(value, Tensor) for value in values)

    def _group_flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """The flags of a group that determine its kernels."""
        return (
            tuple(tuple(sorted(signature.flags(group).items())) for signature in self.signatures),
            tuple(slot.exists(group) for signature in self.signatures for slot in signature.slots),
            tuple(slot.format(group, group["state"]) for signature in self.signatures for slot in signature.slots),
            self.optimizer().decay_of(group),
            group["state"],
            group["weights"],
            group["seed"],
            group["cautious"],
        )
