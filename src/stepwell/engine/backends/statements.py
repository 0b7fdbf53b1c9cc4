"""A traced rule as lines of Python, for the backends that print kernels.

Numbers come first, once per tensor, in float64; then the elements, in the working precision. A number that an element
meets is rounded to that precision once, before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepwell.engine.frame import frame, sums
from stepwell.engine.kind import LaunchKind
from stepwell.engine.trace import Scalar, Symbol, Trace, trace
from stepwell.errors import UsageError

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and_": "&", "or_": "|",
}  # fmt: skip


@dataclass
class Statements:
    """The lines of one kernel between loads and stores."""

    numbers: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    loaded: dict[str, str] = field(default_factory=dict)  # array -> the variable its element is loaded into
    stored: dict[str, str] = field(default_factory=dict)  # array -> the variable that is stored to it


def traced(kind: LaunchKind) -> Trace:
    """The frame around the rule of `kind` as symbols: outputs `p` and the slots, by name."""

    def update(**values: Any) -> dict[str, Any]:
        slots = [values.pop(f"slot_{i}") for i in range(len(kind.slots))]
        sign, factor = values.pop("gradient_sign"), values.pop("gradient_factor")
        p, new_slots = frame(
            kind.rule,
            values.pop("g"),
            values.pop("p"),
            values.pop("t"),
            slots,
            decay=kind.decay,
            cautious=kind.cautious,
            gradient_factor=sign * factor,
            shared=kind.shared,
            **values,
        )
        named = {name: new for name, new in zip(kind.slots, new_slots, strict=True) if name is not None}
        return {"p": p, **named}

    return _trace(kind, update, (*kind.sums, *kind.sizes))


def traced_sums(kind: LaunchKind) -> Trace:
    """The contribution of one element to the sums of its tensor."""

    def measured(**values: Any) -> dict[str, Any]:
        slots = [values.pop(f"slot_{i}") for i in range(len(kind.slots))]
        sign, factor = values.pop("gradient_sign"), values.pop("gradient_factor")
        g, p, t = values.pop("g"), values.pop("p"), values.pop("t")
        return sums(
            kind.rule,
            kind.measure,
            g,
            p,
            t,
            slots,
            decay=kind.decay,
            gradient_factor=sign * factor,
            shared=kind.shared,
            **values,
        )

    return _trace(kind, measured, ())


def _trace(kind: LaunchKind, function: Callable[..., dict[str, Any]], extra: tuple[str, ...]) -> Trace:
    elements: dict[str, str | None] = {"g": "g", "p": "p"}
    scalars: dict[str, Any] = dict(kind.flags)
    for i, name in enumerate(kind.slots):
        if name in kind.number_slots:
            scalars[f"slot_{i}"] = Scalar(name)
        else:
            elements[f"slot_{i}"] = name
    names = ("t", "lr", "weight_decay", "gradient_sign", "gradient_factor", *kind.number_arguments, *extra)
    return trace(function, elements, {**{n: Scalar(n) for n in names}, **scalars}, double=kind.weights == "fp64")


def statements(
    program: Trace,
    number_input: Callable[[str], str],
    rounded: Callable[[str], str],
    constant: Callable[[float], str] = repr,
    functions: Mapping[str, str] | None = None,
    element_functions: Mapping[str, str] | None = None,
    number_outputs: Collection[str] = (),
) -> Statements:
    """The lines of `program`.

    Args:
        number_input: the expression that reads a number (`lr`, `t`, ...).
        rounded: the expression that rounds a number to the working precision.
        constant: the expression of a constant.
        functions: operations on numbers that are written as a call of this name.
        element_functions: the same for operations on elements.
        number_outputs: the outputs that are one number per tensor.
    """
    result = Statements()
    done: set[int] = set()

    def operand(symbol: Symbol, in_element: bool) -> str:
        if symbol.kind == "element":
            return f"e{symbol.index}"
        if not in_element or symbol.is_condition:
            return f"n{symbol.index}"
        if symbol.index not in done:
            done.add(symbol.index)
            result.numbers.append(f"r{symbol.index} = {rounded(f'n{symbol.index}')}")
        return f"r{symbol.index}"

    for symbol in program.needed():
        in_element = symbol.kind == "element"
        if symbol.op == "input" and in_element:
            result.loaded[symbol.value] = f"e{symbol.index}"
            continue
        if symbol.op == "input":
            text = number_input(symbol.value)
        elif symbol.op == "constant":
            text = constant(symbol.value)
        else:
            calls = (element_functions if in_element else functions) or {}
            text = _expression(symbol.op, [operand(arg, in_element) for arg in symbol.args], calls)
        target = result.elements if in_element else result.numbers
        target.append(f"{'e' if in_element else 'n'}{symbol.index} = {text}")
    result.stored = {name: operand(value, name not in number_outputs) for name, value in program.outputs.items()}
    for name in number_outputs:
        if program.outputs[name].kind == "element":
            raise UsageError(f"the slot {name!r} is one number per tensor; its rule made it depend on an element")
    return result


def _expression(op: str, args: list[str], calls: Mapping[str, str]) -> str:
    if op in calls:
        return f"{calls[op]}({', '.join(args)})"
    if op in _INFIX:
        return f" {_INFIX[op]} ".join(args)
    if op == "neg":
        return f"-{args[0]}"
    return f"{op}({', '.join(args)})"
