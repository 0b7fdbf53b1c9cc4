"""Training or evaluation, where a constant decides: `for phase in ["train", "val"]`, `run_epoch(loader, train=False)`.

One function or one loop body often does both, and a name says which. Where that name has a known value, conditions on
it are decided, and the body is read once for each value as if it were written out.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from stepwell.lint.analysis.values import Constant, Function, Many, Thing, Value

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter

_NAME = re.compile(
    r"^_?(is_|do_|for_|run_)?(train|training|trains|test|testing|eval|evaluate|evaluation|evaluating|val|valid|validate|"
    r"validation|phase|mode|split|stage|backward|backprop|update|infer|inference)(_mode|_phase|_flag|_only|_step)?$|"
    r"^(opt|optim|optimi[sz]er)$",
    re.I,
)
_TRAINING = re.compile(r"^(train|trn|tr|fit)(ing)?", re.I)
_EVALUATING = re.compile(r"^(val|test|tst|dev|eval)", re.I)
_OF_TRAINING = re.compile(r"train|back|update|optim|^_?opt$", re.I)
_OF_EVALUATION = re.compile(r"val|test|eval|infer", re.I)
MOST = 4  # values of a loop that is written out


def mark_parameters(run: Interpreter, function: Function, given: dict[str | int, Value], hidden: bool) -> None:
    """The parameters by which a call says whether it trains decide conditions, unless the function changes them."""
    body = function.node
    if isinstance(body, ast.Lambda):
        return
    names = run.scope.names
    arguments = body.args
    flags: list[tuple[str, object]] = []
    for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        value = names.get(one.arg)
        if not (isinstance(value, Constant) and _is_flag(value) and _NAME.match(one.arg)):
            continue
        if (hidden and one.arg not in given) or (not given and not hidden) or _is_changed(body, one.arg):
            continue
        names[one.arg] = Constant(value.value, decides=True)
        flags.append((one.arg, value.value))
    run.flags = (*run.flags, *flags)


def _is_flag(value: Constant) -> bool:
    return value.known and (value.value is None or isinstance(value.value, (bool, str)))


def _is_changed(body: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    return any(
        isinstance(one, ast.Name) and one.id == name and isinstance(one.ctx, (ast.Store, ast.Del))
        for one in ast.walk(body)
    )


def phases(over: Value) -> list[Value] | None:
    """The items of a loop over phases: texts of which one names training and one evaluation, or pairs that begin with
    such a text."""
    if not isinstance(over, Many) or not over.whole or not 2 <= len(over.items) <= MOST:
        return None
    words = [one for one in map(_word, over.items) if one is not None]
    if len(words) != len(over.items):
        return None
    if not (any(map(_TRAINING.match, words)) and any(map(_EVALUATING.match, words))):
        return None
    return over.items


def deciding(item: Value) -> Value:
    """An item of such a loop, whose text decides."""
    if isinstance(item, Constant):
        return Constant(item.value, decides=True)
    if isinstance(item, Many):
        return Many([deciding(item.items[0]), *item.items[1:]], whole=item.whole)
    return item


def phase_of(item: Value) -> str:
    return _word(item) or ""


def is_evaluation(flags: tuple[tuple[str, object], ...]) -> bool:
    """Whether what decides here says that nothing is trained."""
    for name, value in flags:
        if isinstance(value, str):
            if _EVALUATING.match(value):
                return True
        elif not value if _OF_TRAINING.search(name) else value is True and _OF_EVALUATION.search(name):
            return True
    return False


def _word(item: Value) -> str | None:
    if isinstance(item, Many) and item.items:
        item = item.items[0]
    return item.value if isinstance(item, Constant) and item.known and isinstance(item.value, str) else None


def decided(run: Interpreter, test: ast.expr) -> bool | None:
    """What a condition is, where it is a constant or asks for a value that decides; None where it is not known."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = decided(run, test.operand)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        parts = [decided(run, one) for one in test.values]
        stops = isinstance(test.op, ast.Or)  # a true part decides `or`, a false one `and`
        if stops in parts:
            return stops
        return None if None in parts else not stops
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compared(run, test.left, test.ops[0], test.comparators[0])
    value = _value(run, test)
    return bool(value.value) if value is not None else None


def _compared(run: Interpreter, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> bool | None:
    one, other = _value(run, left), _value(run, right)
    if one is None:
        if isinstance(operator, (ast.Is, ast.IsNot)) and other is not None and other.value is None:
            given = _named(run, left)
            if isinstance(given, Thing) and given.sure:
                return isinstance(operator, ast.IsNot)
        return None
    if isinstance(operator, (ast.In, ast.NotIn)) and isinstance(right, (ast.List, ast.Tuple, ast.Set)):
        if not all(isinstance(item, ast.Constant) for item in right.elts):
            return None
        inside = one.value in [item.value for item in right.elts if isinstance(item, ast.Constant)]
        return inside == isinstance(operator, ast.In)
    if other is None:
        return None
    if isinstance(operator, (ast.Eq, ast.Is)):
        return bool(one.value == other.value)
    if isinstance(operator, (ast.NotEq, ast.IsNot)):
        return bool(one.value != other.value)
    return None


def _value(run: Interpreter, node: ast.expr) -> Constant | None:
    """A value that decides, or a constant that is written there."""
    if isinstance(node, ast.Constant):
        return Constant(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "lower":
        inner = _value(run, node.func.value)
        return Constant(inner.value.lower()) if inner is not None and isinstance(inner.value, str) else None
    found = _named(run, node)
    return found if isinstance(found, Constant) and found.decides else None


def _named(run: Interpreter, node: ast.expr) -> Value:
    if not isinstance(node, ast.Name):
        return None
    holder = run.scope.holder(node.id)
    return holder.names[node.id] if holder is not None else None
