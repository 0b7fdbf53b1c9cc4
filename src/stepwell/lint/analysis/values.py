"""What an expression of a script stands for, as far as the analysis knows.

None is what nothing is known of. Identity matters: two names for the same `Thing` are the same optimizer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(eq=False)
class Thing:
    """An object that the script makes or is given: an optimizer, a model, a loader.

    Attributes:
        kind: "optimizer", "scheduler", "model", "scaler", "loader", "sampler", "criterion", "parameters", "accelerator"
            (Accelerate, Fabric, Ignite and other frameworks that own the loop), "engine" (DeepSpeed), "autocast",
            "no_grad", "closure_step" (a Step of stepwell), "checkpoint", "average", or "instance" of a class of the
            file.
        name: the text by which the script calls it.
        cls: the full name of its class, "torch.optim.AdamW"; "" if unknown.
        made: the call that makes it, or None for what the script is given.
        sure: whether the kind is known from a class, and not guessed from a name.
        of: what it belongs to: the models of an optimizer or of parameters, the optimizer of a scheduler.
        whole: whether all of what it belongs to is known.
        parent: the model that it is an attribute of.
    """

    kind: str
    name: str = ""
    cls: str = ""
    made: ast.Call | None = None
    sure: bool = True
    of: tuple[Thing, ...] = ()
    whole: bool = True
    parent: Thing | None = None
    local: Class | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    either: tuple[Thing, ...] = ()  # where branches gave a name one object or another
    arguments: dict[str, Any] = field(default_factory=dict)  # of the call: position or keyword -> expression

    def identities(self) -> set[int]:
        """The ids of the objects that this may be."""
        return {id(self)}.union(*(one.identities() for one in self.either))

    def is_same(self, other: Value) -> bool:
        """Whether both may be one object."""
        return isinstance(other, Thing) and bool(self.identities() & other.identities())

    def is_inside(self, other: Thing) -> bool:
        """Whether this is the model `other`, or a part of it."""
        one: Thing | None = self
        while one is not None:
            if one.is_same(other):
                return True
            one = one.parent
        return False

    def argument(self, position: int, keyword: str) -> ast.expr | None:
        """An argument of the call that made this, or None."""
        if self.made is None:
            return None
        return argument(self.made, position, keyword)


@dataclass(eq=False)
class Super(Thing):
    """`super()`: the object `me`, seen as one of the next class of its lineage, which is `local`."""

    me: Thing = field(kw_only=True)


@dataclass(eq=False)
class Tensor:
    """A tensor.

    Attributes:
        attached: whether it has a graph: True, False, or None if unknown.
        by: what computed it last: "model", "loss", "softmax", "log_softmax", "sigmoid", "sum", "/" ...
        parts: what it was computed from.
        models: the models whose output it is computed from, by a graph.
        node: the expression.
    """

    attached: bool | None = None
    by: str = ""
    parts: tuple[Tensor, ...] = ()
    models: tuple[Thing, ...] = ()
    node: ast.AST | None = None
    criterion: Thing | None = None
    inner: Tensor | None = None  # of a model of the file: what its forward returns
    cut_from: Tensor | None = None  # of a detached one: what it was before

    def history(self) -> Iterator[Tensor]:
        """This tensor and all that it was computed from, as far as the graph reaches."""
        todo: list[Tensor] = [self]
        seen: set[int] = set()
        while todo:
            one = todo.pop()
            if id(one) not in seen:
                seen.add(id(one))
                yield one
                todo += one.parts


@dataclass(eq=False)
class Constant:
    """A Python value: known, or some number or text."""

    value: Any = None
    known: bool = True
    of: Tensor | None = None  # the item() or the like that the number was read by
    decides: bool = False  # conditions on it are decided: it says whether this is training


@dataclass(eq=False)
class Many:
    """A list, tuple, set or dict."""

    items: list[Value] = field(default_factory=list)
    keys: list[Any] | None = None  # of a dict, where all are constants
    whole: bool = True
    name: str = ""
    member: Value = None  # what any item is, where the items are not known
    source: Value = None  # the loader that is enumerated
    ragged: bool = False  # whether a branch decides about its items


@dataclass(eq=False)
class Function:
    """A function of the file, with the scope it was defined in."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Any
    owner: Thing | None = None  # self of a method


@dataclass(eq=False)
class Class:
    """A class of the file."""

    node: ast.ClassDef
    bases: tuple[Class | str, ...]  # of the file, or full names
    methods: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
    assigned: dict[str, list[tuple[ast.expr, ast.FunctionDef | ast.AsyncFunctionDef]]]  # self.name = value
    scope: Any

    def lineage(self) -> Iterator[Class | str]:
        """This class and its bases, nearest first."""
        seen: set[int] = set()
        todo: list[Class | str] = [self]
        while todo:
            one = todo.pop(0)
            if isinstance(one, str):
                yield one
            elif id(one) not in seen:
                seen.add(id(one))
                yield one
                todo += one.bases

    def external_bases(self) -> set[str]:
        return {one for one in self.lineage() if isinstance(one, str)}

    def method(self, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        for one in self.lineage():
            if isinstance(one, Class) and name in one.methods:
                return one.methods[name]
        return None


@dataclass(eq=False)
class External:
    """A name from another module: "torch.optim.Adam"."""

    name: str


@dataclass(eq=False)
class Method:
    """A method or attribute of a value, which is not of the file."""

    owner: Value
    name: str


Value: TypeAlias = Thing | Tensor | Constant | Many | Function | Class | External | Method | None


def argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    """An argument of a call by position or keyword; None where it is not given, or hidden in * or **."""
    for one in call.keywords:
        if one.arg == keyword:
            return one.value
    if 0 <= position < len(call.args) and not any(isinstance(one, ast.Starred) for one in call.args[: position + 1]):
        return call.args[position]
    return None


def things(value: Value, depth: int = 3) -> Iterator[Thing]:
    """The things in a value, those in lists included."""
    if isinstance(value, Thing):
        yield value
    elif isinstance(value, Many) and depth:
        for one in (*value.items, value.member):
            yield from things(one, depth - 1)
    elif isinstance(value, (Function, Method)) and isinstance(value.owner, Thing):
        yield value.owner


def tensors(values: Iterable[Value], depth: int = 3) -> Iterator[Tensor]:
    """The tensors in values, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Many) and depth:
            yield from tensors((*value.items, value.member), depth - 1)


def joined(one: Value, other: Value) -> Value:
    """What a name stands for after branches that gave it two values."""
    if one is other or other is None:
        return one
    if one is None:
        return other
    if isinstance(one, Constant) and isinstance(other, Constant):
        return one if one.known and other.known and one.value == other.value else Constant(known=False)
    if isinstance(one, Thing) and isinstance(other, Thing):
        if one.is_same(other) and one.kind == other.kind:
            return one if len(one.identities()) >= len(other.identities()) else other
        if one.kind == other.kind:
            return Thing(
                one.kind, one.name, one.cls if one.cls == other.cls else "", one.made, one.sure and other.sure,
                tuple(dict.fromkeys((*one.of, *other.of))), one.whole and other.whole, one.parent, one.local,
                {**other.attributes, **one.attributes}, (one, other),
            )  # fmt: skip
        return one
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        attached = True if True in (one.attached, other.attached) else one.attached and other.attached
        return Tensor(attached, one.by if one.by == other.by else "", (one, other),
                      tuple(dict.fromkeys((*one.models, *other.models))), one.node)  # fmt: skip
    if isinstance(one, Many) and isinstance(other, Many) and len(one.items) == len(other.items):
        items = [joined(a, b) for a, b in zip(one.items, other.items, strict=True)]
        return Many(items, one.keys, one.whole and other.whole, one.name, joined(one.member, other.member))
    if isinstance(one, Many) and isinstance(other, Many) and one.keys is None:
        return Many(one.items, None, one.whole, one.name, one.member, one.source, ragged=True)
    return other if isinstance(one, Constant) else one  # `optimizer = None` before a branch that makes one


def item_of(over: Value) -> Value:
    """What a loop over a value gives in one round."""
    if isinstance(over, Many):
        if over.member is not None:
            return over.member
        return over.items[0] if over.items and all(type(one) is type(over.items[0]) for one in over.items) else None
    if isinstance(over, Thing):
        if over.kind == "loader":
            return Tensor(False, "data")
        return over if over.kind in ("parameters", "optimizer", "scheduler", "model") else None
    return over if isinstance(over, Tensor) else None
