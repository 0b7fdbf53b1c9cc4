"""The frame around every rule, in order: unscale and clip, coupled decay, direction, caution, decoupled decay, apply.

The frame is arithmetic like a rule, and is traced together with the rule into one kernel.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from stepwell.engine.rule import Rule
from stepwell.engine.whole import Asking
from stepwell.ops import abs, maximum, sign, where


def frame(
    rule: Rule,
    g: Any,
    p: Any,
    t: Any,
    slots: Sequence[Any],
    *,
    lr: Any,
    weight_decay: Any,
    gradient_factor: Any,
    decay: str | None,
    cautious: bool = False,
    shared: Sequence[str] = (),
    **hyperparameters: Any,
) -> tuple[Any, list[Any]]:
    """One update of one element: the new parameter and its new slots.

    g <- gradient_factor * g                        unscaling, clipping and the sign of `maximize` in one factor
    g <- g + weight_decay * p                       decay "coupled": L2, seen by the rule
    direction, slots <- rule(g, p, t, slots)
    direction <- direction where its sign is that of g, else 0; times elements / kept       `cautious`
    p <- p * (1 - lr * weight_decay)                decay "decoupled"
    p <- p - lr * direction

    `shared` are numbers of the frame that the rule uses as well; a rule that uses `lr` returns the whole step.

    Cautious: Liang et al., arXiv 2411.16085, algorithm 1, with the mask scaled by its mean, at least 1e-3, as in the
    authors' later code; `kept` comes from a first pass over the tensor (`sums`).
    """
    if cautious:
        share = hyperparameters.pop("kept") / hyperparameters.pop("elements")
    numbers = {"lr": lr, "weight_decay": weight_decay}
    g = _gradient(g, p, gradient_factor, weight_decay, decay)
    direction, *new_slots = _as_tuple(_called(rule, g, p, t, slots, shared, numbers, hyperparameters))
    if cautious:
        direction = where(direction * g > 0, direction, 0) * (1 / maximum(share, 1e-3))
    if decay == "decoupled":
        p = p * (1 - lr * weight_decay)
    return p - (direction if "lr" in shared else lr * direction), new_slots


def direct_stack(
    rule: Rule,
    g: Any,
    p: Any,
    t: Any,
    slots: Sequence[Any],
    *,
    lr: float,
    weight_decay: float,
    gradient_factor: float,
    decay: str | None,
    shared: Sequence[str] = (),
    is_sound: Callable[[Any, list[Any]], bool] = lambda direction, slots: True,
    **hyperparameters: Any,
) -> Asking[tuple[Any, list[Any]] | None]:
    """The first half of `frame` on tensors: the direction and the new slots; or None if `is_sound` is False for them.
    The direction is None where a rule makes no step, and decay neither.

    `p` may be None: where a matrix is divided over processes, nobody has all weights. A rule that is a generator asks
    for sums on the way (`engine/whole.py`).
    """
    if gradient_factor != 1.0 or decay == "coupled":
        g = _gradient(g, p, gradient_factor, weight_decay, decay)
    numbers = {"lr": lr, "weight_decay": weight_decay}
    found = _called(rule, g, p, t, slots, shared, numbers, hyperparameters)
    if inspect.isgenerator(found):
        found = yield from found
    direction, *new_slots = _as_tuple(found)
    return (direction, new_slots) if is_sound(direction, new_slots) else None


def apply_in_place(
    p: Any, direction: Any, *, lr: float, weight_decay: float, decay: str | None, shared: Sequence[str]
) -> None:
    """The second half of `frame`, with the new parameters written over `p`.

    A stack of matrices is megabytes; each intermediate one costs as much in fresh pages as a pass over it. `alpha=lr`
    would save one more, but torch rounds it once in whole vectors and twice in what is left over at the end: the same
    weight would differ with the length of the part that a process has.
    """
    if direction is None:
        return
    if decay == "decoupled" and weight_decay:
        p.mul_(1 - lr * weight_decay)
    p.sub_(direction if "lr" in shared else lr * direction)


def _called(
    rule: Rule,
    g: Any,
    p: Any,
    t: Any,
    slots: Sequence[Any],
    shared: Sequence[str],
    numbers: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
) -> Any:
    """What the rule returns; it receives the hyperparameters in its signature."""
    hyperparameters = {**hyperparameters, **{name: numbers[name] for name in shared}}
    wanted = _named(rule)
    return rule(g, p, t, *slots, **{k: v for k, v in hyperparameters.items() if k in wanted})


def sums(
    rule: Rule,
    measure: Rule | None,
    g: Any,
    p: Any,
    t: Any,
    slots: Sequence[Any],
    *,
    lr: Any,
    weight_decay: Any,
    gradient_factor: Any,
    decay: str | None,
    shared: Sequence[str] = (),
    **hyperparameters: Any,
) -> dict[str, Any]:
    """The contribution of one element to the sums of its tensor, by name: the first of two passes, which only reads."""
    g = _gradient(g, p, gradient_factor, weight_decay, decay)
    numbers = {"lr": lr, "weight_decay": weight_decay}
    hyperparameters |= {name: numbers[name] for name in shared}
    if measure is not None:
        wanted = _named(measure)
        return measure(g, p, t, *slots, **{k: v for k, v in hyperparameters.items() if k in wanted})
    direction = _as_tuple(rule(g, p, t, *slots, **hyperparameters))[0]
    return {"kept": where(direction * g > 0, abs(sign(g)), 0)}  # one each


def _gradient(g: Any, p: Any, gradient_factor: Any, weight_decay: Any, decay: str | None) -> Any:
    g = g * gradient_factor
    return g + weight_decay * p if decay == "coupled" else g


@cache
def _named(rule: Rule) -> frozenset[str]:
    return frozenset(inspect.signature(rule).parameters)


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
