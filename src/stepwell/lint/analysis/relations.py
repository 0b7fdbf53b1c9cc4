"""Who belongs to whom: which optimizer updates which model, and what a call from elsewhere may do to it."""

from __future__ import annotations

from stepwell.lint.analysis.events import Event, Loop
from stepwell.lint.analysis.values import Thing


def updates(optimizer: Thing | None, model: Thing) -> bool | None:
    """Whether an optimizer updates (parts of) a model; None where that is not known."""
    if optimizer is None or not optimizer.of:
        return None
    if any(one.is_inside(model) or model.is_inside(one) for one in optimizer.of):
        return True
    sure = optimizer.whole and model.sure and all(one.sure for one in optimizer.of)
    return False if sure else None


def is_apart(optimizer: Thing, model: Thing) -> bool:
    """Whether an optimizer has none of a model: all that it has is known, by its class or by its name."""
    return updates(optimizer, model) is False or (
        bool(optimizer.of) and optimizer.whole and not updates(optimizer, model)
    )


def may_reset(event: Event, optimizer: Thing | None) -> bool:
    """Whether a "zero" event may be about the gradients of this optimizer."""
    if event.kind != "zero":
        return False
    if event.target is None:
        return not event.targets or any(updates(optimizer, one) is not False for one in event.targets)
    if event.target.kind == "optimizer":
        if optimizer is None or event.target.is_same(optimizer) or _holds(event.target, optimizer):
            return True
        return any(updates(optimizer, model) for model in event.target.of)  # both update one model
    return event.target.kind == "engine" or updates(optimizer, event.target) is not False


def may_touch(event: Event, thing: Thing | None) -> bool:
    """Whether a call that is not followed may do something with `thing`: it is given it, or an object that holds it."""
    if event.kind != "unknown":
        return False
    if thing is None:
        return True
    return any(one.is_same(thing) or _holds(one, thing) for one in event.targets)


def _holds(owner: Thing, thing: Thing, depth: int = 2) -> bool:
    if owner.kind in ("optimizer", "scheduler", "scaler", "loader", "parameters", "criterion") and any(
        one.is_same(thing) for one in owner.of
    ):
        return True
    if owner.kind == "model" and owner.local is None:
        return False
    return any(
        isinstance(one, Thing) and (one.is_same(thing) or (depth > 0 and _holds(one, thing, depth - 1)))
        for one in owner.attributes.values()
    )


def is_within(event: Event, loop: Loop) -> bool:
    return any(one is loop for one in event.loops)


def one_round(event: Event) -> Loop | None:
    """The innermost loop around an event."""
    return event.loops[-1] if event.loops else None
