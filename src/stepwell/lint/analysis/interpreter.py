"""Reads a script as Python would run it, with things in the place of values, and writes down what happens.

One walk gives what all checks need: names followed through imports, aliases, attributes and tuples; a name that is bound
anew (`loss = loss.item()`) is another value; calls of functions of the same file are followed, with what they are given
and with the `no_grad` around them. Loops are gone through once. Nothing of the script is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stepwell.lint.analysis import expressions
from stepwell.lint.analysis.events import Block, Branch, Call, Event, Jump, Loop
from stepwell.lint.analysis.interest import Interest
from stepwell.lint.analysis.known import kind_of_name
from stepwell.lint.analysis.roles import role_of
from stepwell.lint.analysis.scope import Scope, class_of, imported, is_constant, test_of
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

DEEPEST = 7  # calls inside calls that are followed
SHALLOW = 4  # as far as the last one does nothing but compute
_GUARDS = {"no_grad": True, "grad": False, "set_grad": None}
STATEMENTS = 20_000  # that are gone through for one file; calls after these are not followed


class Interpreter:
    """The state of a walk."""

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.scope = Scope()
        self.block: Block = []
        self.loops: tuple[Loop, ...] = ()
        self.branches: tuple[tuple[Branch, int], ...] = ()
        self.frames: tuple[ast.AST, ...] = ()
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

    # What happens

    def emit(self, kind: str, node: ast.AST, target: Thing | None = None, **more: Any) -> Event:
        event = Event(
            kind, node, target, loops=self.loops, branches=self.branches, frames=self.frames, no_grad=self.no_grad,
            autocast=self.autocast, function=self.function, order=self.number, **more,
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
        added = _added_to(node)
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
            by = {ast.Add: "+", ast.Div: "/", ast.Mult: "*", ast.Sub: "-"}.get(type(node.op), "")  # type: ignore[call-overload]
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

    def accumulate(self, node: ast.AST, target: ast.expr, result: Tensor, added: Value) -> None:
        """`target` becomes the sum `result`."""
        name = ast.unparse(target)
        born: tuple[object, ...] = ()
        if isinstance(target, ast.Name):
            holder = self.scope.holder(name)
            born = holder.born.get(name, ()) if holder is not None else ()
        self.emit("accumulate", node, name=name, value=added, result=result, extra={"born": born, "target": target})
        self.store(target, result)

    def value_quietly(self, node: ast.expr) -> Value:
        with self.hushed():
            return self.value(node)

    # Names

    def bind(self, target: ast.expr, value: Value, source: ast.expr | None = None) -> None:
        """`target = value`, as written in `source`."""
        if isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, source)
            return
        if isinstance(target, ast.Starred):
            target = target.value
        if isinstance(target, ast.Name):
            if self.loops and isinstance(self.scope.names.get(target.id), Tensor) and not isinstance(value, Tensor):
                self.emit("reset", target, name=target.id)
            self.scope.born[target.id] = self.loops
        lost = isinstance(value, Tensor) and _names_no_tensor(target)  # optimizer = model.configure_optimizers()
        if (value is None or lost) and isinstance(source, ast.Call):
            value = self._guessed(target, source) or value
        if isinstance(value, (Thing, Many)) and not value.name:
            value.name = ast.unparse(target)
        self.store(target, value)

    def _guessed(self, target: ast.expr, source: ast.Call) -> Value:
        """What an unknown call gives, by the name that its result gets."""
        name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
        kind = kind_of_name(name)
        given = [one for item in (*source.args, *(k.value for k in source.keywords))
                 for one in things(self.value_quietly(item))]  # fmt: skip
        if (
            kind == "optimizer"
            and name in ("opt", "opts")
            and not any(g.kind in ("parameters", "model") for g in given)
        ):
            return None
        if not kind:
            return None
        of = tuple(
            one
            for one in given
            if one.kind in {"optimizer": ("model", "parameters"), "scheduler": ("optimizer",)}.get(kind, ())
        )
        return Thing(kind, ast.unparse(target), made=source, sure=False, of=of, whole=False)

    def _unpack(self, targets: list[ast.expr], value: Value, source: ast.expr | None) -> None:
        items: list[Value] = [None] * len(targets)
        if isinstance(value, Many) and value.items and len(value.items) == len(targets):
            items = list(value.items)
        elif isinstance(value, Many) and value.member is not None:
            items = [value.member] * len(targets)
        elif isinstance(value, Tensor):
            items = [
                value if value.by == "data" else Tensor(value.attached, value.by, (value,), value.models, value.node)
                for _ in targets
            ]
            if value.by in ("max", "min", "topk", "sort", "median", "mode") and len(targets) == 2:
                items[1] = Tensor(False, "index")
        elif isinstance(value, Thing) and value.kind in ("loader", "parameters"):
            items = [value] * len(targets)
        for target, item in zip(targets, items, strict=True):
            self.bind(target, item, source)

    def store(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self.scope.bind(target.id, value)
        elif isinstance(target, ast.Attribute):
            owner = self.value_quietly(target.value)
            if isinstance(owner, Thing):
                self._store_attribute(owner, target, value)
            elif target.attr == "grad" and isinstance(value, Constant) and value.value is None:
                self.emit("zero", target)
            elif target.attr == "requires_grad" and isinstance(value, Constant) and value.known:
                self.emit("unfreeze" if value.value else "freeze", target)
        elif isinstance(target, ast.Subscript):
            owner = self.value_quietly(target.value)
            index = self.value_quietly(target.slice)
            if isinstance(owner, Many):
                known = isinstance(index, Constant) and index.known
                if owner.keys is not None and known and index.value not in owner.keys:  # type: ignore[union-attr]
                    owner.keys.append(index.value)  # type: ignore[union-attr]
                    owner.items.append(value)
                else:
                    owner.member = joined(owner.member, value)
            elif isinstance(owner, Thing) and owner.kind == "model":
                self.emit("replace", target, owner, name=ast.unparse(target.slice), value=value)

    def _store_attribute(self, owner: Thing, target: ast.Attribute, value: Value) -> None:
        if owner.kind == "parameters" and target.attr == "grad":
            self.emit("zero", target, targets=owner.of)
            return
        if target.attr == "requires_grad" and isinstance(value, Constant):
            kind = "freeze" if value.known and not value.value else "unfreeze"
            for model in owner.of or (owner,):
                self.emit(kind, target, model, extra={"known": value.known})
            return
        inside = getattr(self.function, "name", "") == "__init__" and isinstance(target.value, ast.Name)
        if owner.kind == "model" and not inside:
            self.emit("replace", target, owner, name=target.attr, value=value)
        if isinstance(value, Thing) and owner.kind == "model" and value.kind == "model" and value.parent is None:
            value.parent = owner
        before = owner.attributes.get(target.attr)
        owner.attributes[target.attr] = joined(value, before) if self.branches and value is not before else value

    # Branches and loops

    def _If(self, node: ast.If) -> None:
        if _is_main(node.test):
            self.run(node.body)
            return
        self.value(node.test)
        decided = is_constant(node.test)
        if decided is not None:
            self.run(node.body if decided else node.orelse)
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
        if isinstance(over, Many) and over.whole and 0 < len(over.items) <= 4 and all(
            isinstance(item, (Thing, Many)) and any(things(item)) for item in over.items
        ):  # fmt: skip
            for item in over.items:  # as written out
                self.bind(node.target, item)
                self.run(node.body)
                if self.block and isinstance(self.block[-1], Jump):
                    if self.block[-1].kind in ("break", "continue"):
                        self.block.pop()
                    break
            return
        item = item_of(over)
        role = role_of(node, over)
        if item is None and role == "batch":
            item = Tensor(False, "data", node=node.target)
        self._loop(node, Loop(node, role, over=over, target=ast.unparse(node.target)), node.target, item)

    _AsyncFor = _For

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
            elif value is None and self.no_grad is False and _may_guard(item.context_expr):
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
        body = function.node
        if isinstance(body, ast.Lambda):
            return self._call_lambda(function, body, given)
        plain = body not in self.interest
        if id(body) in self.running or len(self.running) >= (SHALLOW if plain else DEEPEST) or self.left <= 0:
            targets = tuple(one for value in (*given.values(), function.owner) for one in things(value))
            self.emit("unknown", node, name=body.name, targets=targets)
            return None
        saved = (self.scope, self.frames, self.running, self.no_grad, self.function, self.returned, self.block)
        if not self.quiet:
            self.entered[id(body)] = self.entered.get(id(body), 0) + 1
        self.scope = Scope(function.scope)
        self.frames, self.running = (*self.frames, node), (*self.running, id(body))
        self.function, self.returned = body, []
        call = Call(node, body)
        self.block = call.body
        expressions.bind_parameters(self, function, given, hidden)
        for decorator in body.decorator_list:
            guard = expressions.guard_of(self, decorator)
            if guard:
                self.no_grad = None if guard == "maybe" else guard == "no_grad"
        self.run(body.body)
        result: Value = None
        for index, value in enumerate(self.returned):
            result = value if index == 0 else joined(result, value)
        self.scope, self.frames, self.running, self.no_grad, self.function, self.returned, self.block = saved
        if self.lasts:
            self.no_grad, self.lasts = self.lasting, bool(self.frames)
        if call.body and not self.quiet:
            self.block.append(call)
        if self.interest.is_generator(body):
            return Thing("loader", body.name, sure=False)
        return result

    def _call_lambda(self, function: Function, body: ast.Lambda, given: dict[str | int, Value]) -> Value:
        if len(self.running) >= DEEPEST or id(body) in self.running:
            return None
        saved = self.scope, self.running
        self.scope, self.running = Scope(function.scope), (*self.running, id(body))
        for index, one in enumerate(body.args.args):
            self.scope.names[one.arg] = given.get(index, given.get(one.arg))
        result = self.value(body.body)
        self.scope, self.running = saved
        return result


def _added_to(node: ast.Assign) -> ast.expr | None:
    """x of `total = total + x`, or None."""
    if len(node.targets) != 1 or not isinstance(node.value, ast.BinOp) or not isinstance(node.value.op, ast.Add):
        return None
    target = node.targets[0]
    if not isinstance(target, (ast.Name, ast.Attribute, ast.Subscript)):
        return None
    text = ast.unparse(target)
    if ast.unparse(node.value.left) == text:
        return node.value.right
    return node.value.left if ast.unparse(node.value.right) == text else None


def _names_no_tensor(target: ast.expr) -> bool:
    name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
    return kind_of_name(name) in ("optimizer", "scheduler", "scaler")


def _is_main(test: ast.expr) -> bool:
    return "__name__" in ast.dump(test) and "__main__" in ast.dump(test)


def _may_guard(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return "grad" in text or "eval" in text or "inference" in text
