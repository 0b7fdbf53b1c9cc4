"""Reads an update rule once, symbolically, and returns what it computes as a list of small steps.

A rule is called with symbols in place of tensors and numbers. What it does to them is written down as expressions;
equal expressions are one. Each is either

- a *scalar*: it depends on hyperparameters and the step count only (`1 - beta1**t`). Scalars are computed in float64,
  once per tensor, and rounded when they meet an element, exactly as torch treats Python numbers;
- an *element*: it depends on the gradient, the parameter or a slot. Elements are computed in the working precision.

So a kernel printed from a trace does per element only what must be done per element, and the order of the
operations, hence the rounding, is that of the eager backend. Python's own control flow in a rule runs while it is
traced: an `if` on a flag or on an absent slot leaves one branch; an `if` on a symbol is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stepwell.errors import UsageError

Kind = Literal["scalar", "element"]

COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
LOGIC = frozenset({"and_", "or_", "not_"})


class Symbol:
    """One value of a traced rule: an operation on other symbols, an input, or a constant."""

    __slots__ = ("args", "graph", "index", "kind", "op", "value")
    __hash__ = object.__hash__

    def __init__(self, graph: Graph, index: int, op: str, args: tuple[Symbol, ...], value: Any, kind: Kind) -> None:
        self.graph, self.index, self.op, self.args, self.value, self.kind = graph, index, op, args, value, kind

    @property
    def is_double(self) -> bool:
        """Whether it is computed in float64, as numbers are."""
        return self.kind == "scalar" or self.graph.double

    def apply_op(self, op: str, args: tuple[Any, ...]) -> Symbol:
        return self.graph.add(op, *args)

    @property
    def is_condition(self) -> bool:
        return self.op in COMPARISONS or self.op in LOGIC

    def __add__(self, other: Any) -> Symbol:
        return self.graph.add("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self.graph.add("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self.graph.add("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self.graph.add("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self.graph.add("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self.graph.add("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self.graph.add("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.graph.add("div", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return self.graph.add("pow", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return self.graph.add("pow", other, self)

    def __neg__(self) -> Symbol:
        return self.graph.add("neg", self)

    def __lt__(self, other: Any) -> Symbol:
        return self.graph.add("lt", self, other)

    def __le__(self, other: Any) -> Symbol:
        return self.graph.add("le", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return self.graph.add("gt", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return self.graph.add("ge", self, other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]  # a comparison is an expression here
        return self.graph.add("eq", self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return self.graph.add("ne", self, other)

    def __and__(self, other: Any) -> Symbol:
        return self.graph.add("and_", self, other)

    def __or__(self, other: Any) -> Symbol:
        return self.graph.add("or_", self, other)

    def __invert__(self) -> Symbol:
        return self.graph.add("not_", self)

    def __bool__(self) -> bool:
        raise UsageError(
            "an update rule branches on a value that is known only while it runs: "
            "use stepwell.ops.where(condition, a, b), or & and | to combine conditions"
        )


class Graph:
    """The symbols of one trace; an expression that occurs twice is one symbol."""

    def __init__(self, double: bool = False) -> None:
        self.double = double  # whether elements are computed in float64
        self.symbols: list[Symbol] = []
        self._known: dict[tuple[Any, ...], Symbol] = {}

    def input(self, name: str, kind: Kind) -> Symbol:
        return self._intern("input", (), name, kind)

    def add(self, op: str, *operands: Any) -> Symbol:
        args = tuple(self._symbol(operand) for operand in operands)
        kind: Kind = "element" if any(arg.kind == "element" for arg in args) else "scalar"
        if op == "log" and kind == "element":
            raise UsageError("an update rule takes the logarithm of an element; log is only for numbers")
        if op == "pow" and kind == "element":
            raise UsageError("an update rule raises an element to a power: write g * g, or use stepwell.ops.sqrt")
        return self._intern(op, args, None, kind)

    def _symbol(self, value: Any) -> Symbol:
        if isinstance(value, Symbol):
            return value
        if isinstance(value, (int, float)):
            return self._intern("constant", (), float(value), "scalar")
        raise UsageError(f"an update rule combines its values with a {type(value).__name__}; only numbers are allowed")

    def _intern(self, op: str, args: tuple[Symbol, ...], value: Any, kind: Kind) -> Symbol:
        key = (op, tuple(arg.index for arg in args), repr(value))
        if key not in self._known:
            self._known[key] = Symbol(self, len(self.symbols), op, args, value, kind)
            self.symbols.append(self._known[key])
        return self._known[key]


@dataclass(frozen=True)
class Trace:
    """The computation of a traced function: named outputs over named inputs. `None` stays `None` (an absent slot)."""

    outputs: dict[str, Symbol]

    def needed(self) -> Iterator[Symbol]:
        """The symbols the outputs depend on, each after those it depends on."""
        seen: set[int] = set()
        stack = list(self.outputs.values())
        while stack:
            symbol = stack.pop()
            if symbol.index not in seen:
                seen.add(symbol.index)
                stack.extend(symbol.args)
        graph = next(iter(self.outputs.values())).graph
        return (graph.symbols[index] for index in sorted(seen))

    def inputs(self, kind: Kind) -> list[str]:
        """The names of the inputs of one kind that the outputs depend on."""
        return [s.value for s in self.needed() if s.op == "input" and s.kind == kind]


def trace(
    function: Callable[..., dict[str, Any]],
    elements: dict[str, str | None],
    scalars: dict[str, Any],
    double: bool = False,
) -> Trace:
    """Call `function` with symbols and return what it computes.

    `elements` maps its element arguments to their names in the trace (None: absent, passed on as None). `scalars`
    maps its other arguments to a name, or to the value itself where it is a flag. The function returns a dict of
    outputs. `double`: whether elements are computed in float64.
    """
    graph = Graph(double)
    kwargs: dict[str, Any] = {
        arg: None if name is None else graph.input(name, "element") for arg, name in elements.items()
    }
    for arg, value in scalars.items():
        kwargs[arg] = graph.input(value.name, "scalar") if isinstance(value, Scalar) else value
    outputs = {name: graph._symbol(value) for name, value in function(**kwargs).items() if value is not None}
    return Trace(outputs)


@dataclass(frozen=True)
class Scalar:
    """Marks an argument of a traced function as a number known only when the kernel runs."""

    name: str
