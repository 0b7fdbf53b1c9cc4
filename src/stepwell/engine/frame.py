"""What surrounds every rule, in this order: unscale and clip, coupled decay, direction, decoupled decay, apply.

The frame is arithmetic like a rule and is traced together with it, so that one kernel holds both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.engine.rule import Rule


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
    shared: Sequence[str] = (),
    **hyperparameters: Any,
) -> tuple[Any, list[Any]]:
    """One update of one element: the new parameter and its new slots.

    g <- gradient_factor * g                        unscaling, clipping and the sign of `maximize` in one factor
    g <- g + weight_decay * p                       decay "coupled": L2, seen by the rule
    direction, slots <- rule(g, p, t, slots)
    p <- p * (1 - lr * weight_decay)                decay "decoupled"
    p <- p - lr * direction

    `shared` are the numbers of the frame that the rule takes, too; with `lr` among them it returns the whole step.
    """
    g = g * gradient_factor
    if decay == "coupled":
        g = g + weight_decay * p
    numbers = {"lr": lr, "weight_decay": weight_decay}
    hyperparameters |= {name: numbers[name] for name in shared}
    direction, *new_slots = _as_tuple(rule(g, p, t, *slots, **hyperparameters))
    if decay == "decoupled":
        p = p * (1 - lr * weight_decay)
    return p - (direction if "lr" in shared else lr * direction), new_slots


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
