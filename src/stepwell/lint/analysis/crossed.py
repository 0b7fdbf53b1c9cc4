"""Two networks whose updates get in each other's way: gradients that the one leaves in the other, and a graph whose
weights the other's step has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.lint.analysis.events import Event
from stepwell.lint.analysis.flow import graph
from stepwell.lint.analysis.relations import is_apart, may_reset, may_touch, updates
from stepwell.lint.analysis.script import Script
from stepwell.lint.analysis.values import Tensor, Thing, tensors


@dataclass
class LeftOver:
    """`step` also uses the gradients that `other` left in `model`: `other` is the loss of `update`, the step of another
    optimizer, whose network hands its output to `model`. The own loss of `step` does not reach that network: otherwise
    both losses may be meant for `model`."""

    step: Event
    other: Event
    update: Event
    model: Thing


@dataclass
class Stale:
    """`backward` goes through the output `forward` of `model`, whose weights `step` has changed since."""

    backward: Event
    step: Event
    forward: Event
    model: Thing


def left_over(script: Script) -> list[LeftOver]:
    """By the place of the step; only where it is so on every way with an update of both, and for every caller."""
    found: dict[int, LeftOver | None] = {}
    for way in _rounds(script):
        for index, event in enumerate(way):
            if event.kind == "step" and not event.closure and not event.name and _is_crossed(way, event.target):
                one = _left_over(way, index)
                known = found.get(id(event.node), one)
                found[id(event.node)] = one if known is not None else None
    return [one for one in found.values() if one is not None]


def stale(script: Script) -> list[Stale]:
    """By the place of the backward pass; only where it is so on every way and for every caller."""
    found: dict[int, Stale | None] = {}
    for way in _rounds(script):
        for index, event in enumerate(way):
            if event.kind == "backward" and isinstance(event.value, Tensor) and event.autocast is None:
                one = _stale(way, index, event.value)
                known = found.get(id(event.node), one)
                found[id(event.node)] = one if known is not None else None
    return [one for one in found.values() if one is not None]


def _rounds(script: Script) -> Iterator[list[Event]]:
    """The ways through the innermost loops in which two optimizers are stepped."""
    for _, loop in script.loops:
        own = [event for event in loop.events() if event.kind == "step" and event.loops[-1:] == (loop,)]
        if len({id(event.target) for event in own}) > 1:
            yield from script.ways(loop) or ()


def _is_crossed(way: list[Event], optimizer: Thing | None) -> bool:
    """Whether this way has an update of another network whose loss goes through one of this optimizer."""
    if optimizer is None or optimizer.kind != "optimizer":
        return False
    loss: Tensor | None = None
    for event in way:
        if event.kind == "backward":
            loss = event.value if isinstance(event.value, Tensor) else None
        elif event.kind == "step" and event.target is not None and not event.target.is_same(optimizer) and loss:
            model = _reached(loss, optimizer)
            if model is not None and _hands_on(loss, event.target, optimizer, model):
                return True
    return False


def _left_over(way: list[Event], index: int) -> LeftOver | None:
    step = way[index]
    optimizer = step.target
    if optimizer is None or optimizer.kind != "optimizer" or not optimizer.of or not optimizer.whole:
        return None
    own: Event | None = None  # the loss that the step is of
    between: Event | None = None  # the step of another optimizer before that loss
    found: LeftOver | None = None
    for event in (*reversed(way[:index]), *reversed(way[index + 1 :])):  # back into the round before
        if may_touch(event, optimizer) or event.kind in ("grad", "freeze", "unfreeze"):
            return None
        if may_reset(event, optimizer):
            return found
        if event.kind == "step" and event.target is not None:
            if event.target.is_same(optimizer):
                return None  # no reset at all: another mistake
            between = event
        if event.kind != "backward" or not isinstance(event.value, Tensor):
            continue
        reached = _reached(event.value, optimizer)
        if own is None:
            if between is not None or reached is None:
                return None  # a step of both networks after their losses
            own = event
        elif between is None:
            if reached is not None:
                continue  # two losses of one step
        elif reached is not None and between.target is not None and found is None:
            joint = isinstance(own.value, Tensor) and _reached(own.value, between.target) is not None
            if not joint and _hands_on(event.value, between.target, optimizer, reached):
                found = LeftOver(step, event, between, reached)
            between = None
        else:
            between = None
    return None


def _reached(loss: Tensor, optimizer: Thing) -> Thing | None:
    """The model of the optimizer that a loss reaches."""
    for part in graph(loss):
        for model in part.models:
            if model.kind == "model" and updates(optimizer, model):
                return model
    return None


def _hands_on(loss: Tensor, upstream: Thing, optimizer: Thing, model: Thing) -> bool:
    """Whether a network of `upstream` alone computes what `model`, of `optimizer` alone, is given."""
    if not is_apart(upstream, model):
        return False
    for part in graph(loss):
        if not part.models or not part.models[0].is_same(model):
            continue
        for inner in graph(part):
            if inner is part:
                continue
            for one in inner.models:
                if updates(upstream, one) and not one.is_same(model) and is_apart(optimizer, one):
                    return True
    return False


def _stale(way: list[Event], index: int, loss: Tensor) -> Stale | None:
    parts = {id(part): part for part in graph(loss) if part.models}
    steps: list[Event] = []
    for event in reversed(way[:index]):
        if event.kind == "step" and event.target is not None and event.target.kind == "optimizer":
            steps.append(event)
        outputs = tensors([event.value]) if event.kind == "forward" else ()
        part = next((parts[id(one)] for one in outputs if id(one) in parts), None)
        if part is None or event.target is None or event.no_grad is not False or event.autocast is not None:
            continue
        for step in steps:
            assert step.target is not None
            if step.target.of and updates(step.target, event.target) and _needs_weights(part, event.target):
                return Stale(way[index], step, event, event.target)
    return None


def _needs_weights(output: Tensor, model: Thing) -> bool:
    """Whether the backward pass of a model reads its weights: behind its first layer, or where its input learns."""
    if any(one.kind == "model" and not one.is_inside(model) for part in graph(output) for one in part.models):
        return True
    return model.local is not None and _parts(model) > 1


def _parts(model: Thing, depth: int = 3) -> int:
    """How many layers a model has, those without weights counted too."""
    inside = [one for one in model.attributes.values() if isinstance(one, Thing) and one.kind == "model"]
    return sum(max(1, _parts(one, depth - 1)) for one in inside) if depth else 0
