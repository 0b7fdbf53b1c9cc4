"""Gradient accumulation that a script does by itself: a backward pass for every batch, a step for every n-th."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.lint.analysis.events import Branch, Event, Loop
from stepwell.lint.analysis.order import is_training, may_concern, models_of, ways_to
from stepwell.lint.analysis.relations import may_reset
from stepwell.lint.analysis.script import Script
from stepwell.lint.analysis.syntax import written

_MICRO = re.compile(
    r"accum|micro|grad_?steps|n_acc|acc_steps|update_(freq|every|interval|steps)|iter_size|virtual", re.I
)
INVERTED = "not 0"  # `counter % every` without a comparison: true in every round but each n-th


@dataclass(eq=False)
class Accumulation:
    """Micro-batches that are collected for one step.

    Attributes:
        script: the script.
        loop: the loop over micro-batches.
        step: the step, which is made in some rounds only.
        backward: the backward pass, which is made in all.
        branch: the condition around the step.
        test: the comparison `counter % every == rest`, or `not counter % every`.
        counter, every: its parts.
        rest: the text of what the remainder is compared with.
        alone: whether the test is all of the condition: no `or` with the last batch.
        clips: clipping of every micro-batch.
    """

    script: Script
    loop: Loop
    step: Event
    backward: Event
    branch: Branch
    test: ast.expr
    counter: ast.expr
    every: ast.expr
    rest: str
    alone: bool
    clips: list[Event]

    @property
    def is_counted_from_zero(self) -> bool:
        """Whether the counter is the index of the loop, 0 in the first round."""
        node = self.loop.node
        if not isinstance(self.counter, ast.Name):
            return False
        if self.loop.implicit:  # Lightning gives it
            return self.counter.id in ("batch_idx", "batch_index")
        return isinstance(node, ast.For) and _index(self.script, node) == self.counter.id


def _index(script: Script, node: ast.For) -> str:
    """The name of the index of a loop that counts from 0, or ""."""
    call: ast.expr = node.iter
    if isinstance(call, ast.Name):  # bar = tqdm(enumerate(loader))
        found = [one.value for one in script.each(ast.Assign)
                 if any(isinstance(target, ast.Name) and target.id == call.id for target in one.targets)]  # fmt: skip
        call = found[0] if len({written(one) for one in found}) == 1 else call
    while (
        isinstance(call, ast.Call)
        and call.args
        and written(call.func).split(".")[-1] in ("tqdm", "track", "list", "progress_bar", "trange")
    ):
        if written(call.func).endswith("trange"):
            break
        call = call.args[0]
    if not isinstance(call, ast.Call):
        return ""
    name = written(call.func).split(".")[-1]
    if (
        name == "enumerate"
        and isinstance(node.target, (ast.Tuple, ast.List))
        and isinstance(node.target.elts[0], ast.Name)
    ):
        start = call.args[1] if len(call.args) > 1 else next((k.value for k in call.keywords if k.arg == "start"), None)
        inner = written(call.args[0]) if call.args else ""
        zero = start is None or (isinstance(start, ast.Constant) and start.value == 0)
        return node.target.elts[0].id if zero and "islice" not in inner else ""
    if name in ("range", "trange") and isinstance(node.target, ast.Name):
        first = call.args[0] if len(call.args) > 1 else None
        zero = first is None or (isinstance(first, ast.Constant) and first.value == 0)
        return node.target.id if zero and len(call.args) < 3 else ""
    return ""


@dataclass(eq=False)
class Waste:
    """Gradients that are reset for every micro-batch, although the step comes for every n-th."""

    step: Event
    backward: Event
    zero: Event
    every: ast.expr


def wasted(script: Script) -> list[list[Waste]]:
    """By the place of the step; only where it is so for every caller."""
    found = []
    for steps in script.places("step"):
        each = [_waste(script, step) for step in steps]
        if all(one is not None for one in each):
            found.append([one for one in each if one is not None])
    return found


def _waste(script: Script, step: Event) -> Waste | None:
    one = _accumulation(script, step, collects=False)
    if one is None or (isinstance(one.every, ast.Constant) and one.every.value == 1):
        return None
    if not _MICRO.search(written(one.every)):
        return None  # another rhythm: a generator that steps for every fifth batch
    for event in one.loop.events():
        if (
            event.kind == "zero"
            and event.loops
            and event.loops[-1] is one.loop
            and event.target is not None
            and event.target.is_same(step.target or event.target)
            and not any(_is_in(branch, one.loop) for branch, _ in event.branches)
            and _is_in_all_rounds(script, event, one)
        ):
            return Waste(step, one.backward, event, one.every)
    return None


def _is_in_all_rounds(script: Script, zero: Event, one: Accumulation) -> bool:
    """Whether gradients are reset on every way that makes no step: none of them leaves the round before."""
    ways = script.ways(one.loop, is_training) or ()
    without = [way for way in ways if one.backward in way and not any(event.kind == "step" for event in way)]
    return bool(without) and all(zero in way for way in without)


def accumulations(script: Script) -> list[list[Accumulation]]:
    """Those of a script, by the place of their step; only places that are one for every caller."""
    found = []
    for steps in script.places("step"):
        each = [_accumulation(script, step) for step in steps]
        if all(one is not None for one in each):
            found.append([one for one in each if one is not None])
    return found


def _accumulation(script: Script, step: Event, collects: bool = True) -> Accumulation | None:
    optimizer = step.target
    if optimizer is None or optimizer.kind != "optimizer" or step.closure or step.name or not step.loops:
        return None
    loop = step.loops[-1]
    inside = [(branch, index) for branch, index in step.branches if _is_in(branch, loop)]
    for branch, index in inside:
        if not isinstance(branch.node, ast.If):
            continue
        if index != 0 and not (len(branch.node.orelse) and _is_unequal(branch.node.test)):
            continue
        for test, alone in _tests(script, branch.node.test):
            parts = _remainder(test)
            if parts is None:
                continue
            counter, every, rest = parts
            backward = _backward(script, step, loop, branch)
            if backward is None or _collects(loop, step, branch) is not collects:
                return None
            clips = [
                one
                for one in loop.events()
                if one.kind == "clip"
                and one.loops[-1] is loop
                and not any(b is branch for b, _ in one.branches)
                and _same_condition(one, branch) is False
                and may_concern(optimizer, one.targets)
            ]
            return Accumulation(script, loop, step, backward, branch, test, counter, every, rest, alone, clips)
    return None


def _is_in(branch: Branch, loop: Loop) -> bool:
    """Whether a branch stands in the body of a loop, in the text or by a call."""
    todo = [*loop.body]
    while todo:
        item = todo.pop()
        if item is branch:
            return True
        if isinstance(item, Branch):
            todo += [one for body in item.bodies for one in body]
        elif hasattr(item, "body") and not isinstance(item, Loop):
            todo += item.body
    return False


def _tests(script: Script, test: ast.expr) -> Iterator[tuple[ast.expr, bool]]:
    """The comparisons of a condition, and whether nothing else makes the condition hold; names are looked up."""
    if isinstance(test, ast.BoolOp):
        for one in test.values:
            for inner, alone in _tests(script, one):
                yield inner, alone and isinstance(test.op, ast.And)
    elif isinstance(test, ast.Name):
        found = [
            node.value
            for node in script.each(ast.Assign)
            if any(isinstance(one, ast.Name) and one.id == test.id for one in node.targets)
        ]
        if len(found) == 1 and not isinstance(found[0], ast.Name):
            yield from _tests(script, found[0])
    else:
        yield test, True


def _remainder(test: ast.expr) -> tuple[ast.expr, ast.expr, str] | None:
    """(counter, every, rest) of `counter % every == rest`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        one = test.operand
        if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mod):
            return one.left, one.right, "0"
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Eq, ast.NotEq)):
        one = test.left
        if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mod):
            return one.left, one.right, written(test.comparators[0])
    if isinstance(test, ast.BinOp) and isinstance(test.op, ast.Mod) and _MICRO.search(written(test.right)):
        return test.left, test.right, INVERTED
    return None


def _is_unequal(test: ast.expr) -> bool:
    """`counter % every != rest`, whose step stands in the else."""
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.NotEq)


def _backward(script: Script, step: Event, loop: Loop, branch: Branch) -> Event | None:
    """The backward pass of every round: before the step on each way."""
    found: Event | None = None
    ways = ways_to(script, step, loop)
    for before, _ in ways:
        back = next(
            (
                event
                for event in before
                if event.kind in ("backward", "zero")
                and event.loops
                and event.loops[-1] is loop
                and (event.kind == "zero" or may_concern(step.target, models_of(event)))
            ),
            None,
        )
        if back is None or back.kind == "zero" or any(one is branch for one, _ in back.branches):
            return None
        if _same_condition(back, branch) or (back.by is not None and back.by.kind not in ("scaler", "accelerator")):
            return None
        found = back
    return found


def _same_condition(event: Event, branch: Branch) -> bool:
    return any(one.test is not None and one.test == branch.test for one, _ in event.branches)


def _collects(loop: Loop, step: Event, branch: Branch) -> bool:
    """Whether gradients are reset in some rounds only."""
    resets = [event for event in loop.events() if may_reset(event, step.target)]
    ours = [event for event in resets if event.loops and event.loops[-1] is loop]
    return all(any(_is_in(one, loop) for one, _ in event.branches) for event in ours)
