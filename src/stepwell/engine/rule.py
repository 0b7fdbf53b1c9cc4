"""What an update rule declares beside its arithmetic: its slots, and the ranges of its hyperparameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from stepwell.engine import formats
from stepwell.errors import UsageError

# Every rule: (g, p, t, *slots, **hyperparameters) -> (direction, *new slots). The frame multiplies the direction by the
# learning rate; a rule that names `lr` among its hyperparameters returns the whole step instead, lr included.
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Slot:
    """One piece of state that a rule keeps, under the name that torch gives it.

    Args:
        name: the key in `optimizer.state[p]` and in checkpoints.
        when: the hyperparameter without which the slot does not exist (`"momentum"`: no buffer at momentum 0), or a
            function of the group. The rule is then given None for it.
        start: the value it is filled with: a number, or a function of the group (Adagrad's initial value).
        signed: whether it can be negative; low-bit formats spend a bit on it only where it can.
        per: "element"; "tensor" for one float64 that the rule updates from numbers alone (a product over the steps);
            "run" for one that all tensors share (Prodigy's d). Of matrix rules also "row" and "column" of the last
            two dimensions, and "left" and "right": square matrices of the sides of `as_matrix`.
        wide: stays fp32 in every format: a weight, or what rounding would spoil.
        limit: of "left" and "right", the hyperparameter with the longest side that has one; longer sides get an
            empty matrix.
        memory: of a moving average or a momentum, the argument of the rule that is its decay (`"beta1"`), a function
            of the group, or a number: 0 for what holds nothing older than the last step. Signed slots with a long
            memory are kept in a wider format than int8 and int4 (`formats.slot_format`), and in int4 those that do
            not say theirs.
    """

    name: str
    when: str | Callable[[Mapping[str, Any]], bool] | None = None
    start: float | Callable[[Mapping[str, Any]], float] = 0.0
    signed: bool = True
    per: Literal["element", "tensor", "run", "row", "column", "left", "right"] = "element"
    wide: bool = False
    limit: str | None = None
    memory: str | float | Callable[[Mapping[str, Any]], float] | None = None

    def exists(self, group: Mapping[str, Any]) -> bool:
        if callable(self.when):
            return self.when(group)
        return self.when is None or bool(group[self.when])

    def start_value(self, group: Mapping[str, Any]) -> float:
        return self.start(group) if callable(self.start) else self.start

    def beta(self, group: Mapping[str, Any]) -> float:
        """The decay of the average it is, 0 where it is none, nan where it does not say."""
        if self.memory is None:
            return math.nan
        decay: Any = self.memory
        if callable(decay):
            decay = decay(group)
        elif isinstance(decay, str):
            decay = argument(decay, group)
        return float(decay or 0.0)  # Adafactor's beta1 may be None

    def format(self, group: Mapping[str, Any], state: str) -> str:
        """How it is stored where the elements of a tensor have the format `state` (see `formats.slot_format`)."""
        beta = self.beta(group) if self.signed and state in formats.LONGEST else 0.0
        return formats.slot_format(self.per, self.wide, state, group["state"], beta)

    @property
    def is_number(self) -> bool:
        return self.per in ("tensor", "run")

    def shape(self, shape: Sequence[int], group: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape it has for a parameter of this shape."""
        if self.is_number:
            return ()
        if self.per == "row":
            return (*shape[:-1], 1)
        if self.per == "column":
            return (*shape[:-2], 1, *shape[-1:])
        if self.per == "element":
            return tuple(shape)
        side = as_matrix(shape)[self.per == "right"]
        left_out = self.limit is not None and side > group[self.limit]
        return (0, 0) if left_out else (side, side)


def argument(name: str, group: Mapping[str, Any]) -> Any:
    """The value of an argument of a rule in `group`: `beta1` is the first of `betas`."""
    if name in group:
        return group[name]
    stem, place = name[:-1], name[-1:]
    if place.isdigit() and f"{stem}s" in group:
        return group[f"{stem}s"][int(place) - 1]
    if place.isdigit() and stem in group:
        return group[stem][int(place) - 1]
    if name == "weight_decay":
        return 0.0
    raise AssertionError(f"a rule wants {name!r}, which no group has")


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix rule sees it: the first dimension by all others, (4, 27) of a
    convolution kernel (4, 3, 3, 3); a vector is a column."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


@dataclass(frozen=True)
class Range:
    """The values a hyperparameter may take, and how to say so."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = True
    optional: bool = False  # None is allowed, too
    count: int | None = None  # how many numbers there are, as of betas; None: one, and no list of it
    whole: bool = False  # counts something

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        what = "a whole number " if self.whole else ""
        if self.high == math.inf:
            limit = "and finite" if self.open_high else "or infinite"
            return f"{what}{'above' if self.open_low else 'at least'} {self.low:g} {limit}"
        return f"{what}in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


@dataclass(frozen=True)
class OneOf:
    """The names a hyperparameter that chooses between variants may take."""

    names: tuple[str | bool | None, ...]

    def __contains__(self, value: Any) -> bool:
        words = tuple(name for name in self.names if isinstance(name, str))
        return any(value is name for name in self.names) or (isinstance(value, str) and value in words)

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.names))}"


FLAG = OneOf((True, False))  # "false" in a configuration file is true to Python

# The field's hyperparameters; an optimizer that differs says so in its own `ranges`.
RANGES: dict[str, Range | OneOf] = {
    "lr": Range(0),
    "betas": Range(0, 1, count=2),
    "eps": Range(0),
    "weight_decay": Range(0),
    "momentum": Range(0, 1),
    "dampening": Range(0, 1, open_high=False),
    "alpha": Range(0, 1),
    "lr_decay": Range(0),
    "initial_accumulator_value": Range(0),
    **dict.fromkeys(("maximize", "cautious", "decoupled_weight_decay"), FLAG),
}


def ranges_of(initialiser: Callable[..., Any], own: Mapping[str, Range | OneOf]) -> dict[str, Range | OneOf]:
    """The ranges of an optimizer. What need not be said in its `ranges` is read from the defaults of its arguments: a
    flag takes nothing but a flag, and there are as many betas as in the default."""
    ranges = {**RANGES, **own}
    for name, parameter in inspect.signature(initialiser).parameters.items():
        allowed = ranges.get(name)
        if isinstance(parameter.default, bool):
            ranges.setdefault(name, FLAG)
        elif isinstance(parameter.default, tuple) and isinstance(allowed, Range):
            ranges[name] = replace(allowed, count=len(parameter.default))
    return ranges


def as_plain_numbers(group: Mapping[str, Any], ranges: Mapping[str, Range | OneOf]) -> dict[str, Any]:
    """The hyperparameters of `group` that have a range, as Python's own numbers and tuples of them.

    Configurations bring betas as a list, a ListConfig of OmegaConf or an array, and numbers as those of numpy. A list
    could be changed without anybody seeing it, and numpy's numbers cannot be loaded with `weights_only`. What is not
    understood stays as it is, for `check_hyperparameters` to refuse.
    """
    result = {}
    for name, allowed in ranges.items():
        if name not in group:
            continue
        value = group[name]
        if isinstance(allowed, Range) and allowed.count is not None and _is_sequence(value):
            result[name] = tuple(_plain(number.item() if _is_one_number(number) else number) for number in value)
        else:
            result[name] = _plain(value)
    return result


def _is_sequence(value: Any) -> bool:
    """Whether there are numbers in an order: a tuple, list, ListConfig, array or tensor of one dimension."""
    if isinstance(value, (str, bytes)):
        return False
    return isinstance(value, Sequence) or getattr(value, "ndim", None) == 1


def _is_one_number(value: Any) -> bool:
    """Whether a member of a sequence is a tensor of one number."""
    return getattr(value, "ndim", None) == 0 and not getattr(value, "is_meta", False) and hasattr(value, "item")


def _plain(value: Any) -> Any:
    """A number or flag of numpy as Python's own; anything else as it is (a tensor for lr stays one)."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _shown(value: Any) -> str:
    """A value in one line of a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def _as_float(number: Any) -> float:
    """A number as a float; TypeError or ValueError where it is none, and inf where it is too large for one."""
    if isinstance(number, (str, bytes, bool, np.bool_)):  # '1e-3' of a YAML file, of which kernels would make nan
        raise TypeError
    try:
        return float(number)
    except OverflowError:
        return math.inf
    except RuntimeError:  # torch's, of a tensor that is complex, has several elements or no values
        raise TypeError from None


def check_hyperparameters(owner: str, group: Mapping[str, Any], ranges: Mapping[str, Range | OneOf]) -> None:
    """Raise UsageError for the first hyperparameter of `group` that is outside its range."""
    for name, allowed in ranges.items():
        if name not in group:
            continue
        value = group[name]
        if isinstance(allowed, OneOf):
            if value not in allowed:
                raise UsageError(f"{owner}: {name}={_shown(value)}; it must be {allowed}")
            continue
        if value is None and allowed.optional:
            continue
        several = _is_sequence(value)
        if several != (allowed.count is not None) or (several and len(value) != allowed.count):
            what = "one number" if allowed.count is None else f"{allowed.count} numbers"
            each = "" if allowed.count is None else "each "
            raise UsageError(f"{owner}: {name}={_shown(value)} is not {what}; give {what}, {each}{allowed}")
        for number in value if several else (value,):
            if number is None and allowed.optional:
                continue
            try:
                as_float = _as_float(number)
            except (TypeError, ValueError):
                raise UsageError(f"{owner}: {name}={_shown(value)} is not a number; it must be {allowed}") from None
            if as_float not in allowed or (allowed.whole and as_float % 1 != 0 and not math.isinf(as_float)):
                each = " each" if several else ""
                raise UsageError(f"{owner}: {name}={_shown(value)} is out of range; it must{each} be {allowed}")


@dataclass(frozen=True)
class RuleSignature:
    """A rule with what it keeps, what it sums, and how its arguments are filled: `beta1` from `betas[0]` of a group.

    Args:
        measure: what one element adds to each of the sums, by name.
        sums: the names of these sums.
        over: what they are sums of: the elements of a "tensor", or of all tensors of the "run".
        view: what the rule sees: one "element"; or a stack of equally shaped tensors, each as a "matrix"
            (see `as_matrix`) or in its own shape ("tensor").
    """

    rule: Rule
    slots: tuple[Slot, ...]
    measure: Rule | None = None
    sums: tuple[str, ...] = ()
    over: Literal["tensor", "run"] = "tensor"
    view: Literal["element", "matrix", "tensor"] = "element"

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The names of the keyword-only arguments of the rule and of what it measures."""
        functions = [self.rule] if self.measure is None else [self.rule, self.measure]
        found = [p for f in functions for p in inspect.signature(f).parameters.values()]
        return tuple(dict.fromkeys(p.name for p in found if p.kind is p.KEYWORD_ONLY))

    @cached_property
    def hyperparameters(self) -> tuple[str, ...]:
        """Those that a group gives; sums, the number of elements and the shape come from the engine."""
        return tuple(name for name in self.named if name not in (*self.sums, "elements", "shape"))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """All names a row of numbers can hold, `lr` and `weight_decay` first."""
        return ("lr", "weight_decay", *(n for n in self.hyperparameters if n not in ("lr", "weight_decay")))

    def value(self, name: str, group: Mapping[str, Any]) -> Any:
        """The value of one of the rule's arguments in `group`."""
        return argument(name, group)

    def flags(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that are not numbers: they choose a kernel instead of being handed to it."""
        values = {name: self.value(name, group) for name in self.hyperparameters}
        return {name: v for name, v in values.items() if isinstance(v, (bool, str)) or v is None}
