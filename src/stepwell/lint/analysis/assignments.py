"""What assignments do: names, tuples, attributes and items get their values."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from stepwell.lint.analysis.events import Branch, Event, Loop
from stepwell.lint.analysis.known import kind_of_name
from stepwell.lint.analysis.scope import Scope
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Constant, Many, Tensor, Thing, Value, joined, things


class Names:
    """The part of the interpreter that assigns."""

    scope: Scope
    loops: tuple[Loop, ...]
    branches: tuple[tuple[Branch, int], ...]
    function: ast.AST | None

    if TYPE_CHECKING:

        def emit(self, kind: str, node: ast.AST, target: Thing | None = None, **more: Any) -> Event: ...

        def value_quietly(self, node: ast.expr) -> Value: ...

        def kind_of(self, name: str) -> str: ...

    def accumulate(self, node: ast.AST, target: ast.expr, result: Tensor, added: Value) -> None:
        """`target` becomes the sum `result`."""
        name = written(target)
        born: tuple[object, ...] = ()
        if isinstance(target, ast.Name):
            holder = self.scope.holder(name)
            born = holder.born.get(name, ()) if holder is not None else ()
        self.emit("accumulate", node, name=name, value=added, result=result, extra={"born": born, "target": target})
        self.store(target, result)

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
            value.name = written(target)
        if isinstance(value, Thing) and value.kind == "model" and isinstance(source, ast.Call):
            self._rebind(target, value, source)
        self.store(target, value)

    def _rebind(self, target: ast.expr, value: Thing, source: ast.Call) -> None:
        """A name of a model that gets another model, none that is made of the first."""
        before: Value = None
        if isinstance(target, ast.Name):
            before = self.scope.names.get(target.id)
        elif isinstance(target, ast.Attribute):
            owner = self.value_quietly(target.value)
            before = owner.attributes.get(target.attr) if isinstance(owner, Thing) else None
        if isinstance(before, Thing) and before.kind == "model" and not before.is_same(value):
            words = {written(one) for one in ast.walk(source) if isinstance(one, (ast.Name, ast.Attribute))}
            if written(target) not in words and before.name not in words:
                self.emit("rebind", target, before, value=value, call=source)

    def _guessed(self, target: ast.expr, source: ast.Call) -> Value:
        """What an unknown call gives, by the name that its result gets."""
        name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
        kind = self.kind_of(name)
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
        return Thing(kind, written(target), made=source, sure=False, of=of, whole=False)

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
                keys = owner.keys if isinstance(index, Constant) and index.known else None
                if isinstance(index, Constant) and keys is not None and index.value not in keys:
                    keys.append(index.value)
                    owner.items.append(value)
                else:
                    owner.member = joined(owner.member, value)
            elif isinstance(owner, Thing) and owner.kind == "model":
                self.emit("replace", target, owner, name=written(target.slice), value=value)

    def _store_attribute(self, owner: Thing, target: ast.Attribute, value: Value) -> None:
        if owner.kind == "parameters" and target.attr == "grad":
            none = isinstance(value, Constant) and value.known and value.value is None
            self.emit("zero" if none else "grad", target, targets=owner.of)
            return
        if target.attr == "requires_grad" and isinstance(value, Constant):
            kind = "freeze" if value.known and not value.value else "unfreeze"
            for model in owner.of or (owner,):
                self.emit(kind, target, model, extra={"known": value.known})
            return
        inside = getattr(self.function, "name", "") == "__init__" and isinstance(target.value, ast.Name)
        if owner.kind == "model" and not inside and not isinstance(value, Constant):
            self.emit("replace", target, owner, name=target.attr, value=value)
        if isinstance(value, Thing) and owner.kind == "model" and value.kind == "model" and value.parent is None:
            value.parent = owner
        before = owner.attributes.get(target.attr)
        owner.attributes[target.attr] = joined(value, before) if self.branches and value is not before else value


def _names_no_tensor(target: ast.expr) -> bool:
    name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
    return kind_of_name(name) in ("optimizer", "scheduler", "scaler")
