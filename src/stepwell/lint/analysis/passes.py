"""Forward passes, of the shape that `forward` returns, and backward passes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepwell.lint.analysis.given import Given
from stepwell.lint.analysis.tensors import detached
from stepwell.lint.analysis.values import Constant, Function, Many, Tensor, Thing, Value

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


def forward(run: Interpreter, node: ast.Call, model: Thing, given: Given, name: str = "") -> Value:
    """The output of a model: of the shape that its `forward` in this file returns."""
    attached: bool | None = {True: False, False: True, None: None}[run.no_grad]
    parts = given.tensors()
    result = _shape(run, model, name, attached, parts, node)
    run.emit("forward", node, model, value=result, call=node, name=name)
    return result


def _shape(
    run: Interpreter, model: Thing, name: str, attached: bool | None, parts: tuple[Tensor, ...], node: ast.AST
) -> Value:
    through = [one for part in parts if part.attached is not False for one in part.models]
    models = tuple(dict.fromkeys((model, *through)))  # D(G(z)) is of both

    def tensor(by: str) -> Tensor:
        return Tensor(attached, by or "model", parts, models, node)

    last = model.attributes.get("<last>")
    if isinstance(last, Thing) and not name:
        by = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}.get(
            last.cls.rsplit(".", 1)[-1], "model"
        )
        return tensor(by)
    if model.local is None or name:
        by = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}.get(
            model.cls.rsplit(".", 1)[-1], "model"
        )
        return tensor(by)
    method = model.local.method("forward")
    if method is None or id(method) in run.running or len(run.running) > 5:
        return tensor("model")
    key = id(model)
    if key not in run.shapes:
        run.shapes[key] = None
        with run.hushed():
            data: dict[str | int, Value] = {i: Tensor(False, "data") for i in range(len(method.args.args))}
            no_grad, run.no_grad = run.no_grad, False
            run.shapes[key] = run.call(Function(method, model.local.scope, model), node, data, True)
            run.no_grad = no_grad
    return _like(run.shapes[key], tensor)


def _like(shape: Value, tensor: Callable[[str], Tensor], depth: int = 3) -> Value:
    """The same tuple or tensor, computed again."""
    if isinstance(shape, Many) and depth and shape.items:
        return Many([_like(item, tensor, depth - 1) for item in shape.items], shape.keys, shape.whole)
    if isinstance(shape, Tensor) and shape.attached is not False:
        by = shape.by if shape.by in ("softmax", "log_softmax", "sigmoid", "loss") else "model"
        made = tensor(by)
        made.criterion, made.inner = shape.criterion, shape
        return made
    if isinstance(shape, Tensor) and shape.by in ("detach", "index", "data"):
        return detached(shape.node or ast.Pass())
    return tensor("model")


def _scaler_of(loss: Tensor, seen: set[int]) -> Thing | None:
    """The scaler of a loss; None where only one of two branches has scaled it."""
    if loss.by == "scaled":
        return loss.models[-1] if loss.models and loss.models[-1].kind == "scaler" else None
    if id(loss) in seen or len(seen) > 200:
        return None
    seen.add(id(loss))
    found = [_scaler_of(part, seen) for part in loss.parts]
    if loss.by == "" and len(found) == 2 and None in found:  # joined
        return None
    return next((one for one in found if one is not None), None)


def backward(run: Interpreter, node: ast.Call, owner: Value, given: Given, by: Thing | None = None) -> Value:
    """`loss.backward()`: whatever it is called on has a graph."""
    loss = owner if isinstance(owner, Tensor) else None
    if loss is None:
        loss = Tensor(True, "", (), (), node)
        base = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(base, ast.Name) and by is None and not isinstance(owner, Thing):
            run.scope.bind(base.id, loss)
    run.emit("backward", node, value=loss, by=by or _scaler_of(loss, set()),
             call=node, extra={"known": isinstance(owner, Tensor), "number":
             isinstance(owner, Constant) and owner.of is not None,
             "number_node": owner.of.node if isinstance(owner, Constant) and owner.of is not None else None,
             "given": given.get(0, "gradient")})  # fmt: skip
    return None
