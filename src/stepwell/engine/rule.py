"""The declarations of an update rule: its slots, and the ranges of its hyperparameters."""

from __future__ import annotations

import dis
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch

from stepwell.arguments import MOST, plain_flag, plain_number
from stepwell.engine import formats
from stepwell.errors import UsageError, shown

# Every rule: (g, p, t, *slots, **hyperparameters) -> (direction, *new slots). The frame multiplies the direction by the
# learning rate; a rule that names `lr` among its hyperparameters returns the whole step instead, lr included.
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Slot:
    """One piece of the state of a rule, under the name that torch uses.

    Args:
        name: the key in `optimizer.state[p]` and in checkpoints.
        when: the hyperparameter without which the slot does not exist (`"momentum"`: no buffer at momentum 0), or a
            function of the group. The rule then receives None.
        start: the initial value: a number, or a function of the group (Adagrad's initial value).
        signed: whether the slot can be negative; low-bit formats use a sign bit only then.
        per: "element"; "tensor" for one float64 that the rule updates from numbers alone (a product over the steps);
            "run" for one that all tensors share (Prodigy's d). Of matrix rules also "row" and "column" of the last
            two dimensions, and "left" and "right": square matrices of the sides of `as_matrix`.
        wide: whether the slot is fp32 in every format: for a weight, or a value that rounding would invalidate.
        limit: for "left" and "right", the hyperparameter with the maximal side; longer sides get an empty matrix.
        memory: for a moving average or a momentum, the argument of the rule that is its decay (`"beta1"`), a function
            of the group, or a number: 0 for a slot without memory of earlier steps. Signed slots with a long memory are
            stored in a wider format than int8 and int4 (`formats.slot_format`); in int4, so are slots without `memory`.
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
        """The decay of the average in the slot, 0 if it is not an average, nan if unknown."""
        if self.memory is None:
            return math.nan
        decay: Any = self.memory
        if callable(decay):
            decay = decay(group)
        elif isinstance(decay, str):
            decay = argument(decay, group)
        return float(decay or 0.0)  # Adafactor's beta1 may be None

    def format(self, group: Mapping[str, Any], state: str) -> str:
        """The format of the slot if the elements of a tensor have the format `state` (see `formats.slot_format`)."""
        beta = self.beta(group) if self.signed and state in formats.LONGEST else 0.0
        return formats.slot_format(self.per, self.wide, state, group["state"], beta)

    @property
    def is_number(self) -> bool:
        return self.per in ("tensor", "run")

    def shape(self, shape: Sequence[int], group: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of the slot for a parameter of this shape."""
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
    """Rows and columns of a tensor for a matrix rule: the first dimension by all others, (4, 27) for a convolution
    kernel (4, 3, 3, 3); a vector is a column."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


@dataclass(frozen=True)
class Range:
    """The allowed values of a hyperparameter, and their description."""

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

    def is_plain(self, value: float) -> bool:
        """Whether this is a range of one number and `value` is a plain number inside it."""
        return self.count is None and not self.whole and value in self and abs(value) <= FLOAT32_MAX

    def __str__(self) -> str:
        if self.whole and self.high == math.inf:
            or_none = "" if self.open_high else ", or infinity"
            return f"a whole number of at least {self.low + self.open_low:g}{or_none}"
        what = "a whole number " if self.whole else ""
        if self.high == math.inf:
            limit = "and finite" if self.open_high else "or infinite"
            return f"{what}{'above' if self.open_low else 'at least'} {self.low:g} {limit}"
        return f"{what}in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


FLOAT32_MAX = 3.4028234663852886e38
_NOTHING = object()


@dataclass(frozen=True)
class OneOf:
    """The allowed names of a hyperparameter that selects a variant."""

    names: tuple[str | bool | None, ...]

    def found(self, value: Any) -> Any:
        """The name that equals a value, including numpy's flags and str; `_NOTHING` if none does."""
        value = plain_flag(value)
        for name in self.names:
            if value is name or (isinstance(value, str) and isinstance(name, str) and value == name):
                return name
        return _NOTHING

    def __contains__(self, value: Any) -> bool:
        return self.found(value) is not _NOTHING

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
    """The ranges of an optimizer. Ranges that are not in `ranges` are derived from the defaults of its arguments: a
    flag must be a flag, there are as many betas as in the default, `adamw_lr` has the range of `lr`, and any other
    number is finite."""
    ranges = {**RANGES, **own}
    for name, parameter in inspect.signature(initialiser).parameters.items():
        usual = parameter.default
        allowed = ranges.get(name)
        if allowed is None and name.startswith("adamw_"):  # of what AdamW updates inside another
            like = RANGES.get(name.removeprefix("adamw_"))
            allowed = replace(like, optional=usual is None) if isinstance(like, Range) else like
        if allowed is None and isinstance(usual, bool):
            allowed = FLAG
        if allowed is None and isinstance(usual, (int, float)):
            allowed = Range(-math.inf, open_low=True)
        if isinstance(usual, tuple) and isinstance(allowed, Range):
            allowed = replace(allowed, count=len(usual))
        if allowed is not None:
            ranges[name] = allowed
    return ranges


def as_plain_numbers(group: Mapping[str, Any], ranges: Mapping[str, Range | OneOf]) -> dict[str, Any]:
    """The hyperparameters of `group` that have a range, as Python numbers, flags, str, and tuples of these.

    Configurations contain betas as a list, a ListConfig of OmegaConf or an array, and numpy numbers. A list could
    change unnoticed, and numpy numbers cannot be loaded with `weights_only`. Other values are kept, for
    `check_hyperparameters` to refuse.
    """
    result = {}
    for name, allowed in ranges.items():
        if name in group:
            try:
                result[name] = read("", name, group[name], allowed)
            except UsageError:
                result[name] = group[name]
    return result


def check_hyperparameters(
    owner: str, group: Mapping[str, Any], ranges: Mapping[str, Range | OneOf], place: str = ""
) -> dict[str, Any]:
    """The hyperparameters of `group` that have a range, as returned by `read`. Raises UsageError for the first out of
    range.

    `place` is the group in messages: " in group 0".
    """
    return {name: read(owner, name, group[name], allowed, place) for name, allowed in ranges.items() if name in group}


def read(owner: str, name: str, value: Any, allowed: Range | OneOf, place: str = "") -> Any:
    """A hyperparameter as a Python number, flag, str, or tuple of numbers. Raises UsageError outside its range.

    `stepwell.arguments` defines what counts as a number. A tensor for a learning rate is kept, because its owner may
    change it in place. A whole number may be given as a float (`0.1 * steps`).
    """
    if isinstance(allowed, OneOf):
        found = allowed.found(value)
        if found is _NOTHING:
            raise UsageError(f"{owner}: {name}={shown(value)}{place}; it must be {allowed}")
        return found
    if value is None and allowed.optional and allowed.count is None:
        return None
    if allowed.count is None:
        if _members(value) is not None:
            raise UsageError(
                f"{owner}: {name}={shown(value)}{place} is not one number; it must be one number, {allowed}"
            )
        number = _number(owner, name, value, value, allowed, place)
        return value if name.endswith("lr") and isinstance(value, torch.Tensor) else number
    members = _members(value, allowed.count)
    if members is None:
        what = f"{allowed.count} numbers"
        raise UsageError(f"{owner}: {name}={shown(value)}{place} is not {what}; it must be {what}, each {allowed}")
    return tuple(
        None if member is None and allowed.optional else _number(owner, name, value, member, allowed, place)
        for member in members
    )


def _number(owner: str, name: str, value: Any, member: Any, allowed: Range, place: str) -> int | float:
    """One number of the hyperparameter `value`."""
    plain = plain_number(member)
    if plain is None:  # also '1e-3' of a YAML file
        raise UsageError(f"{owner}: {name}={shown(value)}{place} is not a number; it must be {allowed}")
    infinite = type(plain) is float and math.isinf(plain)
    most = MOST if allowed.whole else FLOAT32_MAX  # kernels compute in float32
    right = plain in allowed and (infinite or abs(plain) <= most)
    if right and allowed.whole and not infinite:
        right = plain == int(plain)
        plain = int(plain)
    elif right and type(plain) is int and abs(plain) > MOST:  # torch takes such a number as a float only
        plain = float(plain)
    if not right:
        each = "" if allowed.count is None else " each"
        over = plain in allowed and not infinite and abs(plain) > most
        limit = f", at most {MOST if allowed.whole else '3.4e38'}" if over else ""
        raise UsageError(f"{owner}: {name}={shown(value)}{place} is out of range; it must{each} be {allowed}{limit}")
    return plain


def _members(value: Any, count: int | None = None) -> list[Any] | None:
    """The numbers of a tuple, list, ListConfig, array or tensor of one dimension; None for an unordered value, or for
    another number than `count`."""
    try:
        if isinstance(value, (str, bytes, bytearray, memoryview)):
            return None
        if not (isinstance(value, Sequence) or getattr(value, "ndim", None) == 1):
            return None
        if count is None:
            return []  # nobody reads them
        return list(value) if len(value) == count else None
    except Exception:  # a method of the user's own may raise anything
        return None


@dataclass(frozen=True)
class RuleSignature:
    """A rule with its slots, its sums, and the source of its arguments: `beta1` from `betas[0]` of a group.

    Args:
        measure: the contribution of one element to each sum, by name.
        sums: the names of these sums.
        over: the range of the sums: the elements of a "tensor", or of all tensors of the "run".
        view: the operands of the rule: one "element"; or a stack of tensors of equal shape, each as a "matrix"
            (see `as_matrix`) or in its own shape ("tensor"). Such a rule may return None for a direction: no step. A
            generator asks for sums over whole matrices (`engine/whole.py`).
    """

    rule: Rule
    slots: tuple[Slot, ...]
    measure: Rule | None = None
    sums: tuple[str, ...] = ()
    over: Literal["tensor", "run"] = "tensor"
    view: Literal["element", "matrix", "tensor"] = "element"

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The names of the keyword-only arguments of the rule and of `measure`."""
        functions = [self.rule] if self.measure is None else [self.rule, self.measure]
        found = [p for f in functions for p in inspect.signature(f).parameters.values()]
        return tuple(dict.fromkeys(p.name for p in found if p.kind is p.KEYWORD_ONLY))

    @cached_property
    def asks_for_sums(self) -> bool:
        """Whether the rule is a generator that knows a matrix by its sums (`engine/whole.py`)."""
        return inspect.isgeneratorfunction(self.rule)

    @cached_property
    def reads_weights(self) -> bool:
        """Whether the rule may look at its second argument, p. Where a matrix has an owner, nobody has all weights."""
        code = getattr(self.rule, "__code__", None)
        if code is None or code.co_argcount < 2 or hasattr(self.rule, "__wrapped__"):
            return True
        name = code.co_varnames[1]
        loads = (one.argval for one in dis.get_instructions(code) if one.opname.startswith("LOAD"))
        return any(name == one or (type(one) is tuple and name in one) for one in loads)

    @cached_property
    def hyperparameters(self) -> tuple[str, ...]:
        """The arguments that a group provides; the engine provides sums, the number of elements, the shape and the
        whole."""
        return tuple(name for name in self.named if name not in (*self.sums, "elements", "shape", "whole"))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """All names a row of numbers can hold, `lr` and `weight_decay` first."""
        return ("lr", "weight_decay", *(n for n in self.hyperparameters if n not in ("lr", "weight_decay")))

    def value(self, name: str, group: Mapping[str, Any]) -> Any:
        """The value of one of the rule's arguments in `group`."""
        return argument(name, group)

    def flags(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that are not numbers: they select a kernel and are not passed to it."""
        values = {name: self.value(name, group) for name in self.hyperparameters}
        return {name: v for name, v in values.items() if isinstance(v, (bool, str)) or v is None}
