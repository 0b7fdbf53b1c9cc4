"""The properties that a kernel is specialized for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from stepwell.engine import formats
from stepwell.engine.rule import Rule, RuleSignature

_SHARED = ("lr", "weight_decay")  # the frame's own numbers


@dataclass(frozen=True)
class LaunchKind:
    """The properties that a kernel is specialized for. Numbers are not among them: a schedule compiles nothing."""

    rule: Rule
    decay: str | None
    flags: tuple[tuple[str, Any], ...]
    slots: tuple[str | None, ...]  # the name of each slot of the rule, None where absent
    slot_formats: tuple[str, ...]
    signed: tuple[bool, ...]
    weights: str
    rounding: str
    gradients: str
    number_arguments: tuple[str, ...]  # the rule's own arguments that are numbers
    shared: tuple[str, ...]  # the frame's numbers that the rule takes, too
    row_names: tuple[str, ...]  # what a row of `Rows` holds, in order
    cautious: bool = False
    measure: Rule | None = None  # what the rule wants summed over a tensor, or over all
    sums: tuple[str, ...] = ()  # the names of the sums; none: one pass
    over: str = "tensor"  # what they are sums of, or "run"
    view: str = "element"  # what the rule sees: "element", or stacks of "matrix" or "tensor"
    sizes: tuple[str, ...] = ()  # ("elements",) where the number of elements is asked for

    @cached_property
    def number_slots(self) -> tuple[str, ...]:
        """The slots that are one number per tensor: the columns of `Slots.numbers`."""
        pairs = zip(self.slots, self.slot_formats, strict=True)
        return tuple(name for name, storage in pairs if name is not None and storage == formats.NUMBER)

    @property
    def used(self) -> tuple[str, ...]:
        """The formats of the slots that are present."""
        return tuple(storage for name, storage in zip(self.slots, self.slot_formats, strict=True) if name is not None)

    @property
    def coded(self) -> tuple[str, ...]:
        """Those among them that have blocks."""
        return tuple(storage for storage in self.used if formats.block_of(storage) > 1)

    def draws_by_row(self, length: int, of_line: int) -> bool:
        """Whether elements draw random bits by their place in the whole tensor where other processes have elements
        between rows of `length` elements. Blocks of codes must not be longer; `of_line` is the length of their lines.
        """
        if self.coded:
            return length == of_line
        return self.rounding == "stochastic" or "bf16" in self.used

    @property
    def takes_rows(self) -> bool:
        """Whether a row-sparse gradient updates only its rows, because no row depends on others."""
        return self.view == "element" and not self.sums


def kind_of(
    optimizer: Any,
    signature: RuleSignature,
    group: dict[str, Any],
    tensor: Tensor,
    name: str,
    row_names: tuple[str, ...],
) -> LaunchKind:
    """The kind of the launch that updates one parameter. `row_names`: the names of the numbers in a row of a group."""
    weights = formats.format_of(tensor, f"the parameter {name!r}")
    present = tuple(slot.name if slot.exists(group) else None for slot in signature.slots)
    state, _ = formats.state_format(group["state"], weights, tensor.numel())
    flags, decay = optimizer.choose(group, tensor, signature.flags(group), optimizer.decay_of(group))
    cautious = bool(group["cautious"])
    sums = ("kept",) if cautious else signature.sums
    return LaunchKind(
        rule=signature.rule,
        decay=decay,
        flags=tuple(sorted(flags.items())),
        slots=present,
        slot_formats=tuple(slot.format(group, state) for slot in signature.slots),
        signed=tuple(slot.signed for slot in signature.slots),
        weights=weights,
        rounding=formats.weight_rounding(group["weights"], weights),
        gradients=weights,
        number_arguments=tuple(n for n in signature.hyperparameters if n not in flags and n not in _SHARED),
        shared=tuple(n for n in signature.hyperparameters if n in _SHARED),
        row_names=row_names,
        cautious=cautious,
        measure=signature.measure,
        sums=sums,
        over=signature.over,
        view=signature.view,
        sizes=("elements",) if cautious or "elements" in signature.named else (),
    )


def of_part(kind: LaunchKind) -> LaunchKind:
    """The kind of a launch of the parts of divided matrices, whose state is elsewhere. Rounding takes the bits that it
    takes after all slots."""
    return replace(kind, slots=(None,) * len(kind.slots))


def norm_of(kind: LaunchKind) -> LaunchKind:
    """The kind that sums the squares of gradients of `kind`; its table has two columns, its rows one number."""
    return LaunchKind(
        rule=_square,
        decay=None,
        flags=(),
        slots=(),
        slot_formats=(),
        signed=(),
        weights=kind.weights,
        rounding="native",
        gradients=kind.gradients,
        number_arguments=(),
        shared=(),
        row_names=("gradient_sign",),
        measure=_square,
        sums=("squared",),
    )


def _square(g: Any, p: Any, t: Any) -> dict[str, Any]:
    return {"squared": g * g}
