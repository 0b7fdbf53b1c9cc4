"""Methods of models, those of Lightning and of `super()` included."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis import known
from stepwell.lint.analysis.given import Given, followed_not, unknown
from stepwell.lint.analysis.known import is_model_method
from stepwell.lint.analysis.passes import backward, forward
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Constant, Function, Many, Super, Thing, Value, argument, things

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


def model_method(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if owner.local is not None:
        method = owner.local.method(name)
        if method is not None:
            return run.call(Function(method, owner.local.scope, owner), node, given.values, given.hidden)
    if name in ("train", "eval"):
        value = given.get(0, "mode")
        is_known = isinstance(value, Constant) and value.known
        off = name == "train" and isinstance(value, Constant) and is_known and not value.value
        known_mode = is_known or argument(node, 0, "mode") is None
        run.emit("eval" if off else name, node, owner, call=node, extra={"known": known_mode})
        return owner
    if name in ("parameters", "named_parameters", "children", "modules", "named_modules", "named_children", "buffers"):
        return Thing("parameters", owner.name, of=(owner,))
    if name == "zero_grad":
        run.emit("zero", node, owner, call=node)
        return None
    if name == "requires_grad_":
        mode = argument(node, 0, "requires_grad")
        off = isinstance(mode, ast.Constant) and mode.value is False
        run.emit(
            "freeze" if off else "unfreeze",
            node,
            owner,
            call=node,
            extra={"known": mode is None or isinstance(mode, ast.Constant)},
        )
        return owner
    if name in known.SAME_METHODS:
        return owner
    if name == "load_state_dict":
        run.emit("load_state", node, owner, call=node)
        return None
    if name == "backward":  # of a DeepSpeed engine
        return backward(run, node, next(iter(given.tensors()), None), given, by=owner)
    if name == "step":
        run.emit("step", node, owner, call=node, name="engine")
        return None
    if name in (
        "manual_backward",
        "optimizers",
        "lr_schedulers",
        "clip_gradients",
        "toggle_optimizer",
        "untoggle_optimizer",
        "log",
        "log_dict",
        "print",
    ):
        return lightning_method(run, node, owner, name, given)
    if is_model_method(name) or name in ("state_dict", "named_buffers", "get_parameter"):
        if name == "forward":
            return forward(run, node, owner, given)
        run.emit("other", node, owner, name=name, call=node)
        return None
    if owner.local is None and (name.startswith(known.MAKES) or (name in known.OF_DICTS and not owner.sure)):
        return unknown(run, node, given, owner)  # MODEL.get_model() of a module that was imported by its name
    return forward(run, node, owner, given, name=name)


def lightning_method(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name == "manual_backward":
        return backward(run, node, next(iter(given.tensors()), None), given, by=None)
    if name in ("optimizers", "lr_schedulers"):
        key = f"<{name}>"
        if key not in owner.attributes:
            kind = "optimizer" if name == "optimizers" else "scheduler"
            configured = [one for one in things(_configured(run, owner), 4) if one.kind == kind]
            found: Value = Many(list(configured)) if len(configured) > 1 else configured[0] if configured else None
            if found is None:
                found = Thing(kind, written(node), sure=False, whole=False)
            owner.attributes[key] = found
        return owner.attributes[key]
    if name == "clip_gradients":
        run.emit("clip", node, targets=(owner,), name="norm", call=node, extra={"function": name, "whole": True})
    return None


def _configured(run: Interpreter, owner: Thing) -> Value:
    method = owner.local.method("configure_optimizers") if owner.local is not None else None
    if method is None or owner.local is None:
        return None
    with run.hushed():
        return run.call(Function(method, owner.local.scope, owner), method, {})


def super_method(run: Interpreter, node: ast.Call, owner: Super, name: str, given: Given) -> Value:
    me = owner.me
    if owner.local is not None:
        method = owner.local.method(name)
        if method is not None:
            return run.call(Function(method, owner.local.scope, me), node, given.values, given.hidden)
    if name == "__init__" or not isinstance(node.func, ast.Attribute):
        return None
    if me.kind == "model" and name in ("train", "eval"):
        mode = argument(node, 0, "mode")
        run.emit(name, node, me, call=node, extra={"known": mode is None or isinstance(mode, ast.Constant)})
        return me
    run.emit("unknown", node, name=f"super().{name}", targets=(me, *given.things()), call=node)
    return followed_not(node, given)
