"""Updates of a model that the loss before them does not reach, because its output was detached on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.lint.analysis.events import Event
from stepwell.lint.analysis.flow import graph
from stepwell.lint.analysis.relations import may_reset, may_touch, updates
from stepwell.lint.analysis.script import Script
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Tensor, Thing


@dataclass
class Missed:
    """`step` updates `model`, and `backward` is all that came before; `cut` is the detached output of the model."""

    step: Event
    backward: Event
    cut: Tensor | None  # None where the loss is of other models altogether
    model: Thing


def missed(script: Script) -> Iterator[Missed]:
    """By the place of the step; only where it is so on every way."""
    found: dict[int, Missed | None] = {}
    for _, loop in script.loops:
        steps = [event for event in loop.events() if event.kind == "step" and event.loops[-1:] == (loop,)]
        if not steps:
            continue
        for way in script.ways(loop) or ():
            for index, event in enumerate(way):
                if event in steps and not event.closure and not event.name:
                    one = _missed(way, index)
                    known = found.get(id(event.node), one)
                    found[id(event.node)] = one if known is not None else None
    yield from (one for one in found.values() if one is not None)


def _missed(way: list[Event], index: int) -> Missed | None:
    step = way[index]
    optimizer = step.target
    if optimizer is None or optimizer.kind != "optimizer" or not optimizer.of or not optimizer.whole:
        return None
    found: Missed | None = None
    other: Missed | None = None
    for event in reversed(way[:index]):
        if may_touch(event, optimizer) or event.kind == "grad":
            return None
        if event.kind == "step" and event.target is not None and event.target.is_same(optimizer):
            break
        if may_reset(event, optimizer):
            break
        if event.kind == "backward":
            one = _cut(event, optimizer)
            if one is not None:
                found = Missed(step, event, *one)
            elif not (isinstance(event.value, Tensor) and event.value.attached is True
                      and _is_of_others(event.value, optimizer)):  # fmt: skip
                return None
            else:
                other = other or _of_another(way, event, optimizer, step)
    return found or other


def _of_another(way: list[Event], backward: Event, optimizer: Thing, step: Event) -> Missed | None:
    """A loss of which every part is known, and goes through a twin of the model: of two discriminators, say."""
    loss = backward.value
    assert isinstance(loss, Tensor)
    history = list(loss.history())
    if len(optimizer.of) != 1 or any(one.attached is None or (one.by == "call" and not one.models) for one in history):
        return None
    called = {id(event.target) for event in way if event.kind == "forward"}
    own, others = optimizer.of[0], [model for part in graph(loss) for model in part.models]
    made = [written(one.made.func) if one.made is not None else "" for one in (own, *others)]
    known = all(one.kind == "model" and one.name.isidentifier() and id(one) in called for one in (own, *others))
    return Missed(step, backward, None, own) if known and len(set(made)) == 1 and made[0] else None


def missed_terms(script: Script) -> Iterator[Missed]:
    """Terms of a loss, one for each backward pass: the others reach the model that the next step updates."""
    for places in script.places("backward"):
        found = [_term(script, event) for event in places]
        if found[0] is not None and all(one is not None for one in found):
            yield found[0]


def _term(script: Script, backward: Event) -> Missed | None:
    loss = backward.value
    if not isinstance(loss, Tensor) or (not backward.loops and not script.root_of(backward).uncalled):
        return None
    after = (one for one in script.root_of(backward).events if one.order > backward.order)
    step = next((one for one in after if one.kind in ("step", "backward", "zero")), None)
    if step is None or step.kind != "step" or step.function is not backward.function:
        return None
    optimizer = step.target
    if optimizer is None or optimizer.kind != "optimizer" or not optimizer.of or not optimizer.whole:
        return None
    terms = list(_terms(loss))
    if len(terms) < 2:
        return None
    cuts = [_cut_of(term, optimizer) for term in terms]
    first = next((one for one in cuts if one is not None), None)
    return Missed(step, backward, *first) if first is not None and None in cuts else None


def _terms(loss: Tensor) -> Iterator[Tensor]:
    """What a sum adds, factors left out."""
    todo, seen = [loss], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one.by in ("+", "-", "*", "/", "scaled", "mean", "sum") and one.parts:
            todo += one.parts
        elif one.attached is not False:
            yield one


def _cut(backward: Event, optimizer: Thing) -> tuple[Tensor, Thing] | None:
    loss = backward.value
    return _cut_of(loss, optimizer) if isinstance(loss, Tensor) and loss.attached is True else None


def _cut_of(loss: Tensor, optimizer: Thing) -> tuple[Tensor, Thing] | None:
    """(detached output, its model), where a loss has a graph, none of it in what the optimizer updates."""
    if not _is_of_others(loss, optimizer):
        return None
    for part in loss.history():
        for model in part.cut_from.models if part.cut_from is not None else ():
            if updates(optimizer, model):
                return part, model
    return None


def _is_of_others(loss: Tensor, optimizer: Thing) -> bool:
    """Whether the graph of a loss goes through models, none of which the optimizer updates."""
    reached = [model for part in graph(loss) for model in part.models]
    return bool(reached) and all(not updates(optimizer, one) and _is_other(optimizer, one) for one in reached)


def _is_other(optimizer: Thing, model: Thing) -> bool:
    """Whether a model is none of those of an optimizer, by their classes or by their names."""
    if model.kind != "model":
        return False
    return updates(optimizer, model) is False or (
        bool(model.name)
        and all(one.name and one.name.split(".")[-1] != model.name.split(".")[-1] for one in optimizer.of)
    )
