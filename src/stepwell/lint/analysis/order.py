"""What comes before and after an event on the ways through a round, and what calls from elsewhere may do there."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from stepwell.lint.analysis.events import Event, Loop
from stepwell.lint.analysis.known import kind_of_name
from stepwell.lint.analysis.relations import may_touch, updates
from stepwell.lint.analysis.script import Root, Script
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Tensor, Thing

_TRAINING = frozenset(["zero", "backward", "step", "grad", "clip", "unscale", "update"])
_HARMLESS = re.compile(
    r"(^|_|\.)(add|monit|iterate|tracker|record|put|push|store|save|load|print|log|logger|info|debug|lr|schedulers?|checkpoint|state|resume|adjust|append|add_scalars?|scalar|"
    r"write|writer|wandb|tqdm|set_postfix|set_description|meter|metric|metrics|accuracy|len|size|format|isnan|isfinite|item|mean|"
    r"all_reduce|reduce|barrier|seed|warmup|display|plot|report|watch)(_|\d|$|\.|\()",
    re.I,
)
_NO_STEP = re.compile(
    r"(^|[._])(envs?|environment|ema|ema_\w+|profiler|prof|progress\w*|pbar|accuracy|meter\w*|timer\w*|noise_scheduler\w*|loss_fn|criterion)\.\w+$|"
    r"(^|\.)(get|build|create|make|load|save|log|is|has|should|num)_\w+$|step_closure|mark_step|current_step|global_step|"
    r"(^|\.)(wandb|mlflow|logger|writer|logging|time|np|os|random|math)\.",
    re.I,
)
_LOOKS = re.compile(
    r"clamp|clip|norm|is_?(nan|inf|finite)|hist|print|log|mean|max|sum$|size|^shape|assert|device|dtype|len|is_sparse",
    re.I,
)
_BACK = re.compile(
    r"backward|backprop|grad_?step|closure|propagate|optimi[sz]|update_(param|weight|model|net)|"
    r"(^|_)(step|steps|train|training|fit|learn)(_|$)|(train|run|do|opt)step|trainstep",
    re.I,
)


def is_training(event: Event) -> bool:
    """Whether an event matters for the order of training: of calls that are not followed, those that may be part."""
    if event.kind == "unknown":
        name = event.name.lower()
        return (
            bool(_BACK.search(name.rsplit(".", 1)[-1]))
            or "unscale" in name
            or "grad" in name
            or any(one.kind in ("optimizer", "scaler") for one in event.targets)
            or any(one.attached is not False for one in event.extra.get("tensors", ()))
        ) and not _HARMLESS.search(event.name)
    return event.kind in _TRAINING


def around(script: Script, event: Event, has: Callable[[Event], bool]) -> Loop | Root:
    """The innermost loop around an event in which something else happens, or all of its root."""
    for loop in reversed(event.loops):
        if any(has(one) for one in loop.events()):
            return loop
    return script.root_of(event)


def happens(inside: Loop | Root) -> list[Event]:
    """All events in a loop or a root."""
    return list(inside.events()) if isinstance(inside, Loop) else inside.events


def outermost(script: Script, event: Event) -> Loop | Root:
    return event.loops[0] if event.loops else script.root_of(event)


def ways_to(script: Script, event: Event, inside: Loop | Root) -> list[tuple[list[Event], list[Event]]]:
    """For each way through a round that comes to an event: what is before it, nearest first, and what is after it.
    Empty where there are too many ways."""
    found = []
    for way in script.ways(inside, is_training) or ():
        for index, one in enumerate(way):
            if one is event:
                found.append((way[:index][::-1], way[index + 1 :]))
    return found


def may_go_back(script: Script, event: Event) -> bool:
    """Whether a call that is not followed may go backward through a graph."""
    if event.kind != "unknown":
        return False
    last = event.name.rsplit(".", 1)[-1]
    if _NO_STEP.search(event.name) or _is_environment(event):
        return False
    if _BACK.search(last):
        return not re.search(r"(optim|lr|step_?(size|lr|count))|schedul", last, re.I) or bool(
            re.search("backward|train|_step", last)
        )
    if _HARMLESS.search(event.name):
        return False
    statement = script.statement(event.node)
    alone = isinstance(statement, ast.Expr) and statement.value is event.node
    return alone and any(
        one.attached is not False and one.by not in ("model", "data") for one in event.extra.get("tensors", ())
    )


def _is_environment(event: Event) -> bool:
    """Whether a call is of the world of an agent: `super().step(action)` of a wrapper."""
    bases = [base for one in event.targets if one.local is not None for base in one.local.external_bases()]
    return any(re.search(r"Env|Wrapper|gym", base) for base in bases)


def may_step(event: Event, optimizer: Thing | None) -> bool:
    """Whether a call that is not followed may make a step of an optimizer."""
    if event.kind != "unknown":
        return False
    last = event.name.rsplit(".", 1)[-1]
    if _NO_STEP.search(event.name) or _is_environment(event):
        return False
    if _BACK.search(last) and not re.search(r"schedul|(^|_)lr(_|$)", last):
        return True
    return optimizer is not None and may_touch(event, optimizer) and not _HARMLESS.search(event.name)


def may_concern(optimizer: Thing | None, models: tuple[Thing, ...]) -> bool:
    """Whether an optimizer may update any of these models."""
    return not models or any(updates(optimizer, model) is not False for model in models)


def models_of(event: Event) -> tuple[Thing, ...]:
    """The models that the loss of a backward pass comes from."""
    return tuple(one for one in getattr(event.value, "models", ()) if one.kind == "model")


def history(value: object) -> list[Tensor]:
    return list(value.history()) if isinstance(value, Tensor) else []


def uses_gradients(script: Script, scaling: bool = True) -> bool:
    """Whether the script works on `.grad` itself: reading a norm, clamping and setting None do not count, and without
    `scaling`, a factor on the gradients does not either."""
    key = "grad" if scaling else "grad but for factors"
    if key not in script.hidden:
        script.hidden[key] = any(
            node.attr == "grad" and _uses(script, node) and (scaling or not _is_scaled(script, node))
            for node in script.each(ast.Attribute)
        )
    return script.hidden[key]


def _is_scaled(script: Script, node: ast.Attribute) -> bool:
    """Whether this is `p.grad.div_(n)` or `p.grad /= n`."""
    one = script.parents.get(id(node))
    while isinstance(one, ast.Attribute):
        if one.attr in ("mul_", "div_"):
            return True
        one = script.parents.get(id(one))
    return isinstance(one, ast.AugAssign) and isinstance(one.op, (ast.Mult, ast.Div))


def _uses(script: Script, node: ast.Attribute) -> bool:
    if isinstance(node.value, ast.Name) and node.value.id in ("autograd", "torch", "jax"):
        return False
    one: ast.AST = node
    parent = script.parents.get(id(one))
    while isinstance(
        parent, (ast.Attribute, ast.Call)
    ):  # p.grad.detach().data.norm(2), torch.isinf(p.grad), hist(p.grad.cpu())
        if isinstance(parent, ast.Attribute) and parent.attr in ("zero_", "detach_"):
            return False
        if _LOOKS.search(parent.attr if isinstance(parent, ast.Attribute) else written(parent.func)):
            return False
        if isinstance(parent, ast.Attribute) and parent.attr not in (
            "data",
            "detach",
            "float",
            "cpu",
            "flatten",
            "view",
            "abs",
        ):
            return True
        if isinstance(parent, ast.Call) and parent.func is not one and not isinstance(one, ast.Call):
            return True
        one, parent = parent, script.parents.get(id(parent))
    if isinstance(parent, (ast.Compare, ast.If, ast.BoolOp, ast.FormattedValue)):
        return False
    return not (
        isinstance(parent, ast.Assign) and isinstance(parent.value, ast.Constant) and parent.value.value is None
    )


def is_hidden(script: Script, name: str) -> bool:
    """Whether a method ("step" or "backward") is used in a way that the events do not show: given away without a call,
    as in `profile(loss.backward)`, or called on an object that the analysis has lost."""
    if name not in script.hidden:
        called: dict[int, ast.Call] = {id(node.func): node for node in script.each(ast.Call)}
        shown = {
            id(event.node)
            for event in script.events
            if event.kind in ("step", "backward", "schedule", "unknown", "other")
        }
        named = {id(node.value) for node in script.each(ast.Expr)}  # which does nothing
        script.hidden[name] = any(
            node.attr == name
            and id(node) not in named
            and isinstance(node.ctx, ast.Load)
            and (
                id(node) not in called
                or (
                    id(called[id(node)]) not in shown
                    and (name == "backward" or kind_of_name(written(node.value)) == "optimizer")
                )
            )
            for node in script.each(ast.Attribute)
        )
    return script.hidden[name]


def is_open(script: Script, event: Event) -> bool:
    """Whether an event stands outside of loops in a function that nothing here calls, as a method of a class whose
    bases are elsewhere: what is missing in it may be in there."""
    root = script.root_of(event)
    if event.loops or not root.uncalled:
        return False
    local = root.owner.local if root.owner is not None else None
    foreign = local is not None and any(not one.startswith(("torch.nn.", "object")) for one in local.external_bases())
    return foreign or "grad" in getattr(root.function, "name", "") or "backward" in getattr(root.function, "name", "")


def is_off(thing: Thing | None) -> bool:
    """Whether a scaler is switched off by a constant."""
    enabled = thing.argument(4, "enabled") if thing is not None else None
    return isinstance(enabled, ast.Constant) and not enabled.value
