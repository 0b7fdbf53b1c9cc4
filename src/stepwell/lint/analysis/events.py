"""What a script does, in the order in which it does it: events in blocks, branches and loops.

Calls of functions of the file are followed, so that their events stand where they happen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from stepwell.lint.analysis.values import Tensor, Thing, Value


@dataclass(eq=False)
class Event:
    """Something that matters for training.

    Attributes:
        kind: one of

            ========== ===============================================================================
            make       an object is made: `target`
            zero       gradients are reset: `target` is the optimizer or model, None for a loop by hand
            backward   `value` is the loss; `by` the scaler, accelerator or engine
            step       an update of `target`; `by` the scaler; `closure` whether it has one
            schedule   a step of the scheduler `target`
            clip       gradients of `targets` are clipped; `name` says how: "norm", "value"
            unscale    of the optimizer `target` by the scaler `by`
            update     of the scaler `target`
            train, eval    a mode of the model `target`
            forward    a call of the model `target`: `value` is the output
            loss       a call of a loss function: `value` is the loss
            accumulate `value` is added to a number or list that outlives the iteration: `result`
            reset      the variable `name` gets something that is no tensor, inside a loop
            discard    an expression statement whose result is lost: `name` is the method, extra["of"] its tensor
            save, load a checkpoint; load_state: into `target`
            freeze, unfreeze   parameters of `target`
            replace    the part `name` of the model `target` is replaced
            rebind     the name of the model `target` gets another model, `value`, made by `call`
            set_epoch  of the sampler `target`
            average    an average of weights is updated
            grad       torch.autograd.grad or a hook: gradients without backward
            unknown    a call that is not followed: `name` is its text, `targets` what it is given
            ========== ===============================================================================
        loops, branches: what the event is inside of, outermost first; those of the callers included.
        frames: the calls that led here, outermost first.
        no_grad: True, False, or None where a condition decides.
        autocast: the `with` of an autocast around it, or None.
        flags: what decides whether this is training: the phase of a loop, the parameters of a call.
    """

    kind: str
    node: ast.AST
    target: Thing | None = None
    value: Value = None
    by: Thing | None = None
    name: str = ""
    targets: tuple[Thing, ...] = ()
    closure: bool = False
    result: Tensor | None = None
    call: ast.Call | None = None
    loops: tuple[Loop, ...] = ()
    branches: tuple[tuple[Branch, int], ...] = ()
    frames: tuple[ast.AST, ...] = ()
    no_grad: bool | None = False
    autocast: ast.AST | None = None
    function: ast.AST | None = None
    flags: tuple[tuple[str, object], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    order: int = 0

    def is_on(self, thing: Thing | None) -> bool:
        """Whether this is done to `thing`; an event of unknown target may be."""
        return self.target is None or thing is None or self.target.is_same(thing)

    @property
    def line(self) -> int:
        return getattr(self.node, "lineno", 0)


@dataclass(eq=False)
class Branch:
    """Alternatives, of which a path takes one.

    Attributes:
        test: the text of the condition, without `not`; None where nothing is known (an exception).
        bodies: the block where the condition holds, then the other; or all alternatives.
    """

    node: ast.AST
    test: str | None
    bodies: list[Block] = field(default_factory=list)
    negated: bool = False


@dataclass(eq=False)
class Loop:
    """A loop. `role`: "batch", "epoch", "run" (folds, seeds, grids), "step" (counted updates), or "" if unknown."""

    node: ast.AST
    role: str
    body: Block = field(default_factory=list)
    over: Value = None  # the loader, or the list
    target: str = ""  # the text of the loop variable
    once: bool = False  # it cannot come to a second round
    loops: tuple[Loop, ...] = ()
    function: ast.AST | None = None
    implicit: bool = False  # a framework calls the function in its loop

    def events(self) -> Iterator[Event]:
        """All events in the body, those in inner loops included."""
        yield from events_of(self.body)


@dataclass(eq=False)
class Jump:
    """Leaving a block: "return", "break", "continue", "raise"."""

    kind: str
    node: ast.AST


@dataclass(eq=False)
class Call:
    """The body of a function of the file, where it is called: a return leads behind it."""

    node: ast.AST
    function: ast.AST
    body: Block = field(default_factory=list)


Item: TypeAlias = Event | Branch | Loop | Jump | Call
Block: TypeAlias = list[Item]


def events_of(block: Block) -> Iterator[Event]:
    """All events of a block, in the order of the text."""
    for item in block:
        if isinstance(item, Event):
            yield item
        elif isinstance(item, Branch):
            for body in item.bodies:
                yield from events_of(body)
        elif isinstance(item, (Loop, Call)):
            yield from events_of(item.body)


def loops_of(block: Block) -> Iterator[Loop]:
    """All loops of a block, outer ones first."""
    for item in block:
        if isinstance(item, Loop):
            yield item
        if isinstance(item, Branch):
            for body in item.bodies:
                yield from loops_of(body)
        elif isinstance(item, (Loop, Call)):
            yield from loops_of(item.body)
