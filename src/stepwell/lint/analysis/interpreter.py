"""Reads a script as Python would run it, with things in the place of values, and writes down what happens.

One walk gives what all checks need: names followed through imports, aliases, attributes and tuples; a name that is
bound again (`loss = loss.item()`) is another value; calls of functions of the same file are followed, with what they
are given and with the `no_grad` around them. Loops are gone through once. Nothing of the script is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stepwell.lint.analysis import expressions
from stepwell.lint.analysis.assignments import Names
from stepwell.lint.analysis.events import Block, Branch, Event, Jump, Loop
from stepwell.lint.analysis.following import follow
from stepwell.lint.analysis.interest import Interest
from stepwell.lint.analysis.known import kind_of_name
from stepwell.lint.analysis.phases import decided, deciding, phase_of, phases
from stepwell.lint.analysis.roles import role_of
from stepwell.lint.analysis.scope import Scope, class_of, imported
from stepwell.lint.analysis.syntax import added_to, is_main, may_guard, test_of, written
from stepwell.lint.analysis.tensors import computed, parameters_of
from stepwell.lint.analysis.values import (
    Class,
    Constant,
    Function,
    Many,
    Tensor,
    Thing,
    Value,
    item_of,
    joined,
    things,
)

_GUARDS = {"no_grad": True, "grad": False, "set_grad": None}
STATEMENTS = 20_000  # that are gone through for one file; calls after these are not followed


class Interpreter(Names):
    """The state of a walk."""

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.scope = Scope()
        self.block: Block = []
        self.loops: tuple[Loop, ...] = ()
        self.branches: tuple[tuple[Branch, int], ...] = ()
        self.frames: tuple[ast.AST, ...] = ()
        self.flags: tuple[tuple[str, object], ...] = ()  # values that decide whether this trains
        self.running: tuple[int, ...] = ()  # functions that are being followed
        self.no_grad: bool | None = False
        self.lasting: bool | None = False
        self.lasts = False  # whether a statement has set it for good
        self.autocast: ast.AST | None = None
        self.function: ast.AST | None = None
        self.returned: list[Value] = []
        self.entered: dict[int, int] = {}  # how often a function was followed
        self.handed: set[int] = set()  # functions that were handed to code outside
        self.classes: list[Class] = []
        self.functions: list[Function] = []
        self.selves: dict[int, Thing] = {}
        self.shapes: dict[int, Value] = {}  # what the forward of a class returns
        self.owner: tuple[ast.AST | None, Value] = (None, None)  # of the last attribute that was looked up
        self.quiet = 0
        self.left = STATEMENTS
        self.number = 0

    def kind_of(self, name: str) -> str:
        """What a variable of this name is: by what the file does with it, or by what such names usually mean."""
        return kind_of_name(name) or ("model" if name.rsplit(".", 1)[-1] in self.interest.models else "")

    # What happens

    def emit(self, kind: str, node: ast.AST, target: Thing | None = None, **more: Any) -> Event:
        event = Event(
            kind, node, target, loops=self.loops, branches=self.branches, frames=self.frames, no_grad=self.no_grad,
            autocast=self.autocast, function=self.function, flags=self.flags, order=self.number, **more,
        )  # fmt: skip
        self.number += 1
        if not self.quiet:
            self.block.append(event)
        return event

    @contextmanager
    def hushed(self) -> Iterator[None]:
        """What happens inside is not written down."""
        self.quiet += 1
        block, self.block = self.block, []
        try:
            yield
        finally:
            self.quiet -= 1
            self.block = block

    # Statements

    def run(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.left -= 1
            self.statement(statement)
            if self.block and isinstance(self.block[-1], Jump):
                return

    def statement(self, node: ast.stmt) -> None:
        visit = getattr(self, f"_{type(node).__name__}", None)
        if visit is not None:
            visit(node)
            return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)

    def value(self, node: ast.expr | None) -> Value:
        return None if node is None else expressions.value(self, node)

    def _Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name, value in imported(node).items():
            self.scope.bind(name, value)

    _ImportFrom = _Import

    def _FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        function = Function(node, self.scope)
        if not self.quiet:
            self.functions.append(function)
        self.scope.bind(node.name, function)

    _AsyncFunctionDef = _FunctionDef

    def _ClassDef(self, node: ast.ClassDef) -> None:
        made = class_of(node, [self.value(base) for base in node.bases], self.scope)
        self.classes.append(made)
        self.scope.bind(node.name, made)

    def _Global(self, node: ast.Global | ast.Nonlocal) -> None:
        if isinstance(node, ast.Global):
            self.scope.outer.update(node.names)

    _Nonlocal = _Global

    def _Return(self, node: ast.Return) -> None:
        self.returned.append(self.value(node.value))
        self.block.append(Jump("return", node))

    def _Raise(self, node: ast.Raise) -> None:
        self.value(node.exc)
        self.block.append(Jump("raise", node))

    def _Break(self, node: ast.Break) -> None:
        self.block.append(Jump("break", node))

    def _Continue(self, node: ast.Continue) -> None:
        self.block.append(Jump("continue", node))

    def _Expr(self, node: ast.Expr) -> None:
        value = self.value(node.value)
        call = node.value
        if isinstance(value, Thing) and value.name == "lasting" and value.kind in _GUARDS:
            self.no_grad = self.lasting = _GUARDS[value.kind]  # torch.set_grad_enabled(False), to the end of the run
            self.lasts = True
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(value, Tensor):
            of = self.value_quietly(call.func.value)
            self.emit("discard", node, name=call.func.attr, value=value, call=call, extra={"of": of})

    def _Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        added = added_to(node)
        if added is not None and isinstance(value, Tensor):
            self.accumulate(node, node.targets[0], value, self.value_quietly(added))
            return
        for target in node.targets:
            self.bind(target, value, node.value)

    def _AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.bind(node.target, self.value(node.value), node.value)

    def _NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self.value(node.value)
        self.bind(node.target, value, node.value)
        return value

    def _AugAssign(self, node: ast.AugAssign) -> None:
        added = self.value(node.value)
        before = self.value_quietly(node.target)
        if isinstance(added, Tensor):
            parts = tuple(one for one in (before, added) if isinstance(one, Tensor))
            by = {ast.Add: "+", ast.Div: "/", ast.Mult: "*", ast.Sub: "-"}.get(type(node.op), "")
            result = computed(by, node, parts)
            if self.no_grad is True:
                result.attached = False
            if isinstance(node.op, ast.Add):
                self.accumulate(node, node.target, result, added)
            else:
                self.store(node.target, result)
        elif isinstance(before, Tensor):
            by = "/" if isinstance(node.op, ast.Div) else "*" if isinstance(node.op, ast.Mult) else ""
            self.store(node.target, computed(by, node, (before,)))
        elif isinstance(before, Thing) and before.kind == "parameters" and isinstance(node.op, ast.Add):
            self.store(node.target, parameters_of([before, added], node.value))
        elif isinstance(before, Many):
            before.items += added.items if isinstance(added, Many) else [added]
            before.whole = before.whole and isinstance(added, Many) and added.whole
        elif isinstance(before, Constant):
            self.store(node.target, Constant(known=False))

    def value_quietly(self, node: ast.expr) -> Value:
        with self.hushed():
            return self.value(node)

    # Branches and loops

    def _If(self, node: ast.If) -> None:
        if is_main(node.test):
            self.run(node.body)
            return
        self.value(node.test)
        holds = decided(self, node.test)
        if holds is not None:
            self.run(node.body if holds else node.orelse)
            return
        test, negated = test_of(node.test)
        self.alternatives(Branch(node, test, negated=negated), [node.body, node.orelse])

    def alternatives(self, branch: Branch, bodies: list[list[ast.stmt]]) -> None:
        """Each body on its own, from the same names; then names have what they have at the end of any."""
        before, around, outside = self.scope.names, self.block, self.branches
        ends: list[dict[str, Value]] = []
        for index, body in enumerate(bodies):
            self.scope.names = dict(before)
            self.block = []
            self.branches = (*outside, (branch, index))
            self.run(body)
            branch.bodies.append(self.block)
            if not (self.block and isinstance(self.block[-1], Jump)):
                ends.append(self.scope.names)
        self.block, self.branches = around, outside
        self.block.append(branch)
        result = ends[0] if ends else before
        for other in ends[1:]:
            for name, value in other.items():
                if name not in result:
                    result[name] = value
                elif result[name] is not value:
                    result[name] = joined(result[name], value)
        self.scope.names = result
        if len(branch.bodies) == 2 and not ends:
            self.block.append(Jump("return", branch.node))

    def _Match(self, node: ast.Match) -> None:
        self.value(node.subject)
        self.alternatives(Branch(node, None), [*(case.body for case in node.cases), []])

    def _Try(self, node: ast.Try) -> None:
        self.run(node.body)
        ended = self.block and isinstance(self.block[-1], Jump)
        jump = self.block.pop() if ended else None
        if node.handlers:
            after = [jump] if jump is not None else []
            branch = Branch(node, None)
            self.alternatives(branch, [node.orelse, *(handler.body for handler in node.handlers)])
            branch.bodies[0].extend(after)
        else:
            self.run(node.orelse)
            if jump is not None:
                self.block.append(jump)
        finally_block, self.block = self.block, []
        self.run(node.finalbody)
        added, self.block = self.block, finally_block
        if self.block and isinstance(self.block[-1], Jump):
            self.block[-1:-1] = added
        else:
            self.block += added

    _TryStar = _Try

    def _For(self, node: ast.For | ast.AsyncFor) -> None:
        over = self.value(node.iter)
        rounds = phases(over)
        if rounds is not None:
            self._written_out(node, rounds)
            return
        if isinstance(over, Many) and over.whole and 0 < len(over.items) <= 4 and all(
            isinstance(item, (Thing, Many)) and any(things(item)) for item in over.items
        ):  # fmt: skip
            self._written_out(node, over.items)
            return
        item = item_of(over)
        role = role_of(node, over)
        if item is None and role == "batch":
            item = Tensor(False, "data", node=node.target)
        self._loop(node, Loop(node, role, over=over, target=written(node.target)), node.target, item)

    _AsyncFor = _For

    def _written_out(self, node: ast.For | ast.AsyncFor, items: list[Value]) -> None:
        """The body once for each item, as if there were no loop."""
        outside = self.flags
        for item in items:
            word = phase_of(item)
            self.flags = (*outside, (written(node.target), word)) if word else outside
            self.bind(node.target, deciding(item))
            self.run(node.body)
            if self.block and isinstance(self.block[-1], Jump):
                jump = self.block[-1].kind
                if jump in ("break", "continue"):
                    self.block.pop()
                if jump != "continue":
                    break
        self.flags = outside

    def _While(self, node: ast.While) -> None:
        self.value(node.test)
        self._loop(node, Loop(node, role_of(node, None), target=""), None, None)

    def _loop(self, node: Any, loop: Loop, target: ast.expr | None, item: Value) -> None:
        loop.loops, loop.function = self.loops, self.function
        around, outside = self.block, self.loops
        self.block, self.loops = loop.body, (*outside, loop)
        if target is not None:
            self.bind(target, item)
        before = dict(self.scope.names)
        self.run(node.body)
        last = loop.body[-1] if loop.body else None
        loop.once = isinstance(last, Jump) and last.kind in ("break", "return")
        if not loop.role and isinstance(node, ast.For) and _goes_over_data(loop):
            loop.role = "epoch"
        self.block, self.loops = around, outside
        for name, value in before.items():  # the body may never have run
            if isinstance(value, Thing) and self.scope.names.get(name) is None:
                self.scope.names[name] = value
        self.block.append(loop)
        self.run(node.orelse)

    def _With(self, node: ast.With | ast.AsyncWith) -> None:
        no_grad, autocast = self.no_grad, self.autocast
        for item in node.items:
            value = self.value(item.context_expr)
            if isinstance(value, Thing) and value.kind in ("no_grad", "grad", "set_grad"):
                self.no_grad = _GUARDS[value.kind]
            elif isinstance(value, Thing) and value.kind == "autocast":
                self.autocast = None if value.name == "off" else node
            elif value is None and self.no_grad is False and may_guard(item.context_expr):
                self.no_grad = None
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value, item.context_expr)
        self.run(node.body)
        self.no_grad, self.autocast = no_grad, autocast

    _AsyncWith = _With

    def _Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.scope.names.pop(target.id, None)

    # Functions of the file

    def call(self, function: Function, node: ast.AST, given: dict[str | int, Value], hidden: bool = False) -> Value:
        """Follow a call. `given`: position or keyword -> value; `hidden`: more is given by * or **."""
        return follow(self, function, node, given, hidden)


def _goes_over_data(loop: Loop) -> bool:
    """Whether each round trains on all batches, with an optimizer that was made before: an epoch by any name."""
    inner = [one for one in loop.body if isinstance(one, Loop) and one.role == "batch"]
    trains = any(event.kind == "backward" for one in inner for event in one.events())
    return trains and not any(
        event.kind == "make" and event.target is not None and event.target.kind in ("optimizer", "model")
        for event in loop.events()
    )
