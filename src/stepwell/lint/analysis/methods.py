"""Calls of methods: of tensors, optimizers, schedulers, models, scalers and what else matters."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis import known
from stepwell.lint.analysis.given import Given, followed_not, number, unknown
from stepwell.lint.analysis.models import lightning_method, model_method, super_method
from stepwell.lint.analysis.passes import backward, forward
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.tensors import computed, detached, parameters_of
from stepwell.lint.analysis.values import Constant, Function, Many, Super, Tensor, Thing, Value, argument, things

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


def call(run: Interpreter, node: ast.Call, owner: Value, name: str, given: Given) -> Value:
    """`owner.name(...)`, where the file does not define it."""
    if name == "backward" and not (isinstance(owner, Thing) and owner.kind not in ("tensor", "instance")):
        return backward(run, node, owner, given)
    if isinstance(owner, Tensor):
        return _tensor(run, node, owner, name, given)
    if isinstance(owner, Many):
        return _many(run, node, owner, name, given)
    if isinstance(owner, Thing):
        if isinstance(owner, Super):
            return super_method(run, node, owner, name, given)
        handler = _METHODS.get(owner.kind)
        return handler(run, node, owner, name, given) if handler is not None else unknown(run, node, given, owner)
    if name == "zero_" and isinstance(node.func, ast.Attribute) and "grad" in written(node.func.value):
        run.emit("zero", node)
        return None
    if name in known.TO_NUMBER:
        return number()
    return unknown(run, node, given)


def call_thing(run: Interpreter, node: ast.Call, thing: Thing, given: Given) -> Value:
    """`thing(...)`."""
    if thing.kind == "model":
        return forward(run, node, thing, given)
    if thing.kind == "criterion":
        parts = given.tensors()
        loss = computed("loss", node, parts) if parts else Tensor(None, "loss", (), (), node)
        if loss.attached is False and run.no_grad is not True and None in given.all():
            loss.attached = None  # of an output that nothing is known of
        loss.criterion = thing
        run.emit("loss", node, thing, value=loss, call=node, extra={"given": given.get(0, "input")})
        return loss
    if isinstance(node.func, ast.Attribute) and node.func.attr in (
        "optimizers",
        "lr_schedulers",
    ):  # taken for an attribute
        owner = run.value_quietly(node.func.value)
        if isinstance(owner, Thing) and owner.kind == "model":
            return lightning_method(run, node, owner, node.func.attr, given)
    if thing.kind == "closure_step":
        run.emit("unknown", node, name=thing.name, targets=(thing, *thing.of), call=node)
        return None
    if thing.kind in ("grad", "no_grad", "set_grad") and isinstance(given.get(0), Function):
        return given.get(0)  # torch.enable_grad()(closure)
    if thing.kind == "average":
        return followed_not(node, given) or detached(node)
    if thing.kind == "engine":
        return Tensor(run.no_grad is not True, "model", given.tensors(), (thing,), node)
    method = thing.local.method("__call__") if thing.local is not None else None
    if method is not None and thing.local is not None:
        return run.call(Function(method, thing.local.scope, thing), node, given.values, given.hidden)
    return unknown(run, node, given, thing)


def _tensor(run: Interpreter, node: ast.Call, owner: Tensor, name: str, given: Given) -> Value:
    if name in known.TO_NUMBER:
        return Constant(known=False, of=detached(node, by="item"))
    if name in known.DETACHING:
        return detached(node, owner, name)
    if name == "zero_" and owner.by == "detach" and "grad" in written(node.func):
        run.emit("zero", node)
        return None
    if name == "requires_grad_":
        return Tensor(True, "leaf", (), (), node)
    if name in ("values", "items", "keys") and not node.args:
        return owner
    if name in ("to", "cuda", "cpu", "float", "half", "double", "contiguous", "clone"):
        same = Tensor(owner.attached, owner.by, owner.parts or (owner,), owner.models, node)
        same.criterion = owner.criterion
        return same
    return computed(name, node, (owner, *given.tensors()))


def _many(run: Interpreter, node: ast.Call, owner: Many, name: str, given: Given) -> Value:
    if name in ("append", "add", "insert", "extend"):
        value = given.get(1 if name == "insert" else 0)
        if isinstance(value, Tensor) and value.attached is not False:
            marker = Tensor(value.attached if run.no_grad is not True else False, "list", (value,), value.models, node)
            target = node.func.value if isinstance(node.func, ast.Attribute) else node
            born: tuple[object, ...] = ()
            if isinstance(target, ast.Name):
                holder = run.scope.holder(target.id)
                born = holder.born.get(target.id, ()) if holder is not None else ()
            run.emit("accumulate", node, name=written(target), value=value, result=marker,
                     extra={"born": born, "target": target, "list": owner})  # fmt: skip
            owner.items.append(marker)
        elif name == "extend" and isinstance(value, Many):
            owner.items += value.items
            owner.whole = owner.whole and value.whole
        else:
            owner.items.append(value)
        owner.ragged = owner.ragged or bool(run.branches)
        if run.loops and name != "extend" and not isinstance(value, Thing):
            owner.whole = False
        return None
    if name == "values":
        return Many(list(owner.items), whole=owner.whole, member=owner.member)
    if name == "items" and owner.keys is not None:
        return Many(
            [Many([Constant(key), item]) for key, item in zip(owner.keys, owner.items, strict=True)], whole=owner.whole
        )
    key = given.get(0)
    if name == "get" and isinstance(key, Constant) and owner.keys is not None:
        return owner.items[owner.keys.index(key.value)] if key.value in owner.keys else owner.member
    if name == "update" and owner.keys is not None:
        owner.whole = False
        return None
    inside = list(things(owner))
    if inside and name in ("step", "zero_grad", "train", "eval", "parameters", "update", "to", "cuda"):
        results = [call(run, node, one, name, given) for one in inside]
        return parameters_of(results, node) if name == "parameters" else owner
    return unknown(run, node, given, owner)


def _optimizer(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name == "step":
        closure = given.get(0, "closure")
        if isinstance(closure, Function):
            run.call(closure, node, {})
        run.emit(
            "step",
            node,
            owner,
            call=node,
            closure=bool(node.args or node.keywords),
            extra={"given": given.get(0, "closure")},
        )
    elif name == "zero_grad":
        run.emit("zero", node, owner, call=node)
    elif name == "load_state_dict":
        run.emit("load_state", node, owner, call=node)
    elif name in (
        "state_dict",
        "add_param_group",
        "train",
        "eval",
        "register_step_post_hook",
        "register_step_pre_hook",
    ):
        run.emit("other", node, owner, name=name, call=node)
    elif name in ("first_step", "second_step", "backward"):
        if name == "backward":
            return backward(run, node, next(iter(given.tensors()), None), given, by=owner)
        run.emit("step", node, owner, call=node, name=name)
    else:
        return unknown(run, node, given, owner)
    return None


def _scheduler(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name in ("step", "step_update", "step_batch"):
        run.emit("schedule", node, owner, call=node, name=name, extra={"given": given.get(0, "epoch")})
    elif name == "load_state_dict":
        run.emit("load_state", node, owner, call=node)
    elif name in ("get_lr", "get_last_lr", "state_dict"):
        run.emit("other", node, owner, name=name, call=node)
    else:
        return unknown(run, node, given, owner)
    return None


def _scaler(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    target = next((one for one in given.things() if one.kind == "optimizer"), None)
    if name == "scale":
        parts = given.tensors()
        result = computed("scaled", node, parts) if parts else Tensor(True, "scaled", (), (), node)
        result.models = (*result.models, owner)
        return result
    if name in ("step", "unscale_"):
        if name == "step" and target is None:
            run.emit("unknown", node, name=written(node.func), targets=(owner, *given.things()), call=node)
            return None
        run.emit("step" if name == "step" else "unscale", node, target, by=owner, call=node, closure=len(node.args) > 1)
    elif name == "update":
        run.emit("update", node, owner, call=node)
    elif name == "load_state_dict":
        run.emit("load_state", node, owner, call=node)
    elif name in ("state_dict", "get_scale", "is_enabled"):
        run.emit("other", node, owner, name=name, call=node)
    else:
        return unknown(run, node, given, owner)
    return None


def _framework(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name == "backward":
        return backward(run, node, next(iter(given.tensors()), None), given, by=owner)
    if name in (
        "prepare",
        "setup",
        "setup_module",
        "setup_optimizers",
        "setup_dataloaders",
        "prepare_model",
        "unwrap_model",
    ):
        values = list(given.values.values())
        return values[0] if len(values) == 1 else Many(values)
    if name in ("clip_grad_norm_", "clip_grad_value_", "clip_gradients"):
        owned = parameters_of([given.get(0, "parameters")], node)
        run.emit("clip", node, targets=owned.of, name="value" if "value" in name else "norm", by=owner, call=node,
                 extra={"function": name, "whole": owned.whole})  # fmt: skip
        return number()
    if name == "autocast":
        return Thing("autocast", "", "", node)
    if name in ("no_sync", "accumulate", "join_uneven_inputs"):
        return None
    if name in ("gather", "gather_for_metrics", "reduce", "pad_across_processes", "all_gather"):
        return next(iter(given.tensors()), None)
    run.emit("other", node, owner, name=name, call=node)
    return None


def _engine(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name == "backward":
        return backward(run, node, next(iter(given.tensors()), None), given, by=owner)
    if name in ("train", "eval"):
        run.emit(name, node, owner, call=node, extra={"known": True})
        return owner
    run.emit("unknown", node, name=written(node.func), targets=(owner, *given.things()), call=node)
    return None


def _sampler(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    run.emit("set_epoch" if name == "set_epoch" else "other", node, owner, name=name, call=node)
    return None


def _average(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    run.emit("average" if name.startswith("update") else "other", node, owner, name=name, call=node)
    return owner if name in known.SAME_METHODS else None


def _instance(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if owner.local is not None:
        method = owner.local.method(name)
        if method is not None:
            return run.call(Function(method, owner.local.scope, owner), node, given.values, given.hidden)
    if name == "backward":
        return backward(run, node, next(iter(given.tensors()), None), given, by=owner)
    return unknown(run, node, given, owner)


def _loader(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name in ("__iter__", "__next__", "next", "next_batch", "get_batch", "sample"):
        return Tensor(False, "data", node=node) if name != "__iter__" else owner
    if name == "set_epoch":
        run.emit("set_epoch", node, owner, call=node)
    return None


def _parameters(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    if name in ("train", "eval"):
        for one in owner.of:
            run.emit(name, node, one, call=node, extra={"known": False})
        return owner
    if name == "zero_" and "grad" in written(node.func):
        run.emit("zero", node, targets=owner.of)
        return None
    if name == "zero_grad":
        for one in owner.of:
            run.emit("zero", node, one, call=node)
        return None
    if name == "requires_grad_":
        mode = argument(node, 0, "requires_grad")
        for one in owner.of:
            run.emit(
                "freeze" if isinstance(mode, ast.Constant) and mode.value is False else "unfreeze", node, one, call=node
            )
    return owner if name in ("parameters", "named_parameters", "children", "modules", "named_modules") else None


def _checkpoint(run: Interpreter, node: ast.Call, owner: Thing, name: str, given: Given) -> Value:
    return owner if name in ("get", "pop", "items", "values") else None


_METHODS = {
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "model": model_method,
    "scaler": _scaler,
    "accelerator": _framework,
    "closure_step": _framework,
    "engine": _engine,
    "sampler": _sampler,
    "average": _average,
    "instance": _instance,
    "loader": _loader,
    "parameters": _parameters,
    "checkpoint": _checkpoint,
}
