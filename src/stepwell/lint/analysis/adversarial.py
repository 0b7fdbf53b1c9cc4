"""A discriminator's update whose gradients reach the generator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.lint.analysis.events import Event, Loop
from stepwell.lint.analysis.flow import graph
from stepwell.lint.analysis.relations import is_apart, may_touch, updates
from stepwell.lint.analysis.script import Script
from stepwell.lint.analysis.values import Tensor, Thing, tensors


@dataclass
class Leak:
    """`backward` is of the discriminator's loss, `step` of its optimizer; `forward` is the generator's; `update` is
    the step of the generator's optimizer that uses what leaked, or None where `reset` comes first; `again` is a later
    backward pass through the same output of the generator, whose graph `backward` has freed."""

    backward: Event
    step: Event
    forward: Event
    generator: Thing
    update: Event | None
    reset: Event | None
    again: Event | None = None


def leaks(script: Script) -> Iterator[list[Leak]]:
    """By the place of the backward pass; only where it leaks for every caller."""
    found: dict[int, list[Leak]] = {}
    for _, loop in script.loops:
        if not loop.body or all(event.kind != "backward" for event in loop.events()):
            continue
        if any(inner is not loop and inner.loops[-1:] == (loop,) and _has_steps(inner) for _, inner in script.loops):
            continue  # the loop inside is looked at
        rounds = script.ways(loop)
        if rounds is None:
            continue
        for one in _in_rounds(script, loop, rounds):
            found.setdefault(id(one.backward.node), []).append(one)
    yield from found.values()


def _has_steps(loop: Loop) -> bool:
    return sum(event.kind == "step" for event in loop.events()) > 1


def _in_rounds(script: Script, loop: Loop, rounds: list[list[Event]]) -> Iterator[Leak]:
    best: dict[int, Leak] = {}
    for way in rounds:
        steps = [
            event
            for event in way
            if event.kind == "step" and event.target is not None and event.target.kind == "optimizer"
        ]
        if len({id(event.target) for event in steps}) < 2:
            continue
        for index, event in enumerate(way):
            if event.kind == "backward" and isinstance(event.value, Tensor):
                one = _leak(way, index, steps)
                if one is not None and (id(event.node) not in best or best[id(event.node)].update is None):
                    best[id(event.node)] = one
    yield from best.values()


def _leak(way: list[Event], index: int, steps: list[Event]) -> Leak | None:
    backward = way[index]
    assert isinstance(backward.value, Tensor)
    after = way[index + 1 :] + way[: index + 1]
    step = next((event for event in after[: len(way) - index - 1] if event.kind == "step"), None)
    if step is None or step.target is None or step.target.kind != "optimizer" or not step.target.of:
        return None
    own = next((number for number in range(index + 1, len(way)) if way[number] is step), index)
    if any(_resets(event, step.target) for event in way[index:own]):
        return None  # this backward pass is of another step
    parts = list(graph(backward.value))
    for other in steps:
        optimizer = other.target
        assert optimizer is not None
        if optimizer.is_same(step.target) or not optimizer.of or _share(optimizer, step.target):
            continue
        found = _generator(parts, {id(event.node) for event in way if event.kind == "forward"}, optimizer, step.target)
        if found is None or not _sees_real(way[: own + 1], step.target, optimizer):
            continue
        forward = next((event for event in way if event.kind == "forward" and event.node is found.node), None)
        if forward is None or forward.no_grad is not False:
            continue
        if any(
            event.kind == "freeze" and event.target is not None and updates(optimizer, event.target) is not False
            for event in way
        ):
            return None
        if any(may_touch(event, optimizer) and _may_reset(event) for event in way):
            return None
        update, reset = _what_next(after[own - index :], optimizer)
        if update is None and reset is None:
            return None
        return Leak(backward, step, forward, found.models[-1], update, reset, _again(way[index:], found))
    return None


def _again(after: list[Event], output: Tensor) -> Event | None:
    """The next backward pass through an output, where the first of these frees its graph."""
    call = after[0].call
    if call is None or call.args or call.keywords:  # retain_graph
        return None
    for one in after[1:]:
        value = one.value if one.kind == "backward" else None
        if isinstance(value, Tensor) and any(part is output for part in graph(value)):
            return one
    return None


def _generator(parts: list[Tensor], forwards: set[int], optimizer: Thing, step: Thing) -> Tensor | None:
    """What a model of the one optimizer computed, and one of the other optimizer was given."""
    for part in parts:
        if id(part.node) not in forwards or not any(
            updates(step, one) and is_apart(optimizer, one) for one in part.models
        ):
            continue
        for inner in graph(part):
            if (
                inner is not part
                and id(inner.node) in forwards
                and inner.models
                and (updates(optimizer, inner.models[-1]) and is_apart(step, inner.models[-1]))
            ):
                return inner
    return None


def _sees_real(way: list[Event], step: Thing, optimizer: Thing) -> bool:
    """Whether the model of `step` is also given something else: it tells fakes from what is real."""
    for event in way:
        if event.kind == "forward" and event.target is not None and updates(step, event.target):
            outputs = list(tensors([event.value]))
            if outputs and not any(
                updates(optimizer, one) for out in outputs for part in graph(out) for one in part.models
            ):
                return True
    return False


def _what_next(after: list[Event], optimizer: Thing) -> tuple[Event | None, Event | None]:
    """The next step of the other optimizer, or the next reset of its gradients. Two steps without a backward pass
    between
    them belong to one loss."""
    backward = False
    for event in after:
        backward = backward or event.kind == "backward"
        if event.kind == "step" and event.target is not None and event.target.is_same(optimizer):
            return (event, None) if backward else (None, None)
        if _resets(event, optimizer):
            return None, event
    return None, None


def _resets(event: Event, optimizer: Thing) -> bool:
    if event.kind != "zero":
        return False
    if event.target is None:
        return True
    return (
        event.target.is_same(optimizer)
        if event.target.kind == "optimizer"
        else updates(optimizer, event.target) is not False
    )


def _may_reset(event: Event) -> bool:
    name = event.name.lower()
    return any(word in name for word in ("zero", "reset", "grad", "toggle", "freeze"))


def _share(one: Thing, other: Thing) -> bool:
    """Whether two optimizers may update the same."""
    return not (one.whole and other.whole) and any(updates(one, model) is not False for model in other.of)


def is_by_design(script: Script, backward: Event) -> bool:
    """Whether the gradients of other networks are switched off around a backward pass, as Lightning does."""
    from stepwell.lint.analysis.evaluating import text_of

    function = backward.function
    text = text_of(script, function) if function is not None else script.source
    return bool(
        re.search(r"toggle_\w*optimizer|set_requires_grad|\.requires_grad\b|requires_grad_\(|toggle_grad|freeze", text)
    )
