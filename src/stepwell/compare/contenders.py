"""The optimizers of a comparison, from what a user gives: names, ranges of learning rates, options, schedules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell import arguments
from stepwell.compare import names as named
from stepwell.compare.axes import checked
from stepwell.compare.plan import SCHEDULES, Contender
from stepwell.errors import UsageError, shown

FURTHEST = 1e100  # between the lowest and the highest rate


def contenders(
    names: Sequence[str],
    family: str,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    tune: Sequence[str] = ("lr",),
) -> tuple[Contender, ...]:
    """The optimizers to compare, each with the learning rates published for `family` and its usual options.

    A name may have settings, `"adamw[betas=(0.9, 0.95), schedule=constant]"`, so that one optimizer is compared with
    several. `ranges` and `options` are by the name of an optimizer, or by a name with its settings.

    Raises UsageError for an unknown name (with the nearest known name), for a name given twice, for a range or option
    of an optimizer that is not compared, and for an empty range.
    """
    from stepwell.optimizers import find

    names = arguments.sequence("compare", "optimizers", names, "a list of names, as ['sgd', 'adamw']")
    if not names:
        raise UsageError("no optimizers to compare; give --optimizers adamw,lion")
    read = [named.read(name) if isinstance(name, str) else (name, {}) for name in names]
    classes = [find(name) for name, _ in read]
    found = [named.label(cls.__name__, mine) for cls, (_, mine) in zip(classes, read, strict=True)]
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"optimizer '{name}' is given twice; name each optimizer once, or with other settings")
    given_ranges = _by_label("--lr-range", {} if ranges is None else ranges, found, classes)
    given_options = _by_label("--option", {} if options is None else options, found, classes)
    known = family if isinstance(family, str) and family in ("cnn", "transformer", "toy") else None
    tuned = checked(tuple(arguments.sequence("compare", "tune", tune, "a list of names, as ['lr', 'betas']")))
    chosen = []
    for cls, name, (_, own) in zip(classes, found, read, strict=True):
        own = dict(own)
        schedule = _checked_schedule(name, own.pop("schedule")) if "schedule" in own else None
        given = arguments.mapping(
            "compare", f"options of {name}", given_options.get(name, {}), "a dict, as {'momentum': 0.9}"
        )
        mine = _checked_options(name, {**given, **own})
        inside = find(mine["base"]) if "base" in mine else cls  # what a wrapper is put around decides on its rates
        low, high = _checked_range(name, given_ranges[name]) if name in given_ranges else inside.facts.lr_range(known)
        usual = dict(inside.facts.compare_options)
        chosen.append(Contender(name, float(low), float(high), {**usual, **mine}, schedule or inside.facts.schedule,
                                cls.__name__, tuned))  # fmt: skip
    return tuple(chosen)


def _checked_schedule(name: str, given: Any) -> str:
    """A name of the table, or an expression that is one. A Python literal is not a schedule."""
    if not isinstance(given, str):
        raise UsageError(f"compare: schedule of {name} is {shown(given)}; it must be one of {', '.join(SCHEDULES)}, or "
                         "an expression as warmup(0.1).then(linear())")  # fmt: skip
    if given in SCHEDULES:
        return given
    from stepwell.schedules.expression import parse

    parse(given)
    return given


def _checked_range(name: str, given: Any) -> tuple[float, float]:
    span = arguments.sequence("compare", f"lr_ranges of {name}", given, "two numbers, (low, high)")
    if len(span) != 2 or not all(map(arguments.is_finite_number, span)):
        raise arguments.refusal("compare", f"lr_ranges of {name}", given, "two finite numbers, (low, high)")
    low, high = (float(arguments.plain_number(end) or 0.0) for end in span)
    if not 0 < low < high:
        raise UsageError(f"learning rates of {name} from {low:g} to {high:g}; it must be 0 < low < high")
    if high > FURTHEST * low:
        raise UsageError(f"learning rates of {name} from {low:g} to {high:g} are more than {FURTHEST:g} times apart")
    return low, high


def _checked_options(name: str, given: Any) -> dict[str, Any]:
    """The options as stored in `run.json`, by which a later call recognizes the run."""
    options = arguments.mapping("compare", f"options of {name}", given, "a dict, as {'momentum': 0.9}")
    for key, value in options.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise arguments.refusal("compare", f"an option of {name}", key, "the name of an argument, as momentum")
        if key == "lr":
            raise UsageError(
                f"compare: options of {name} contain lr={shown(value)}, which is searched; give its range as lr_ranges"
            )
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except Exception:  # a tensor, nan, a lone surrogate, a list inside itself
            raise arguments.refusal(
                "compare", f"{key} of {name}", value, "a value that a file can store: finite numbers, str, lists, None"
            ) from None
    return options


def _by_label(flag: str, given: Mapping[str, Any], found: Sequence[str], classes: Sequence[Any]) -> dict[str, Any]:
    """Settings by what each optimizer is called. A plain name is about all contenders of that class."""
    from stepwell.optimizers import find

    settled: dict[str, Any] = {}
    for name, value in arguments.mapping("compare", flag, given, "a dict from names of optimizers").items():
        plain, mine = named.read(name)
        cls = find(plain)
        exact = named.label(cls.__name__, mine)
        meant = [
            label for label, one in zip(found, classes, strict=True) if label == exact or (not mine and one is cls)
        ]
        if not meant:
            raise UsageError(f"{flag} names {exact}, which is not compared; compared: {', '.join(found)}")
        for label in meant:
            if label == exact or label not in settled:
                settled[label] = value
    return settled
