"""Loops that evaluate: over a loader, with forward passes and without any training."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.lint.analysis.events import Event, Loop
from stepwell.lint.analysis.phases import is_evaluation
from stepwell.lint.analysis.script import Root, Script
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Class, Many, Tensor, Thing, Value

NAMED = re.compile(
    r"(^|_)(eval|evaluate|evaluation|evaluator|valid|validate|validation|val|test|dev|accuracy)(_|\d|$)", re.I
)
_LOADER = re.compile(
    r"(^|[^a-z])(val|valid|validation|test|dev|eval)[a-z]*_?(data)?_?(loader|dl|iter|batches|data|set)|"
    r"(^|[(.])(val|valid|validation|test|dev)(set)?([),]|$)|(loader|dl|data|set|iter)_(val|valid|validation|test|dev)\b",
    re.I,
)
_GRADIENTS = re.compile(
    r"attack|adversar|perturb|fgsm|\bpgd|salien|requires_grad|autograd|\.grad\b|jacobian|hessian|_hook\(|backward|volatile|"
    r"\btta\b|tent\b|fisher|create_graph|enable_grad|captum|influence|env\.step|envs\.step|\.fit\(|hvp|optimi[sz]e|adapt"
)


_PLAIN = re.compile(
    r"\.(Log)?(Softmax|Sigmoid)\w*$|\.\w*(ReLU|ELU|Tanh|Loss|Pool\w*|Flatten|Upsample\w*|Pad\w*|Identity|Similarity)$"
)
_HELD_OUT = re.compile(r"(^|[._])(test|val|valid|dev)(_?(x|data|images?|inputs?|set|tensor|features?|samples?))?$|"
                       r"(^|[._])(x|data|images?|inputs?|features?)_?(test|val|valid|dev)(_\w+)?$", re.I)  # fmt: skip
_ATTACKS = re.compile(r"attack|adversar|perturb|fgsm|\bpgd|salien|\btta\b|create_graph|_hook\(", re.I)


@dataclass
class Evaluation:
    """A forward pass in a loop that evaluates.

    Attributes:
        loop: the loop over batches.
        mode: the eval() or train() that the model is in, None where neither was seen or a branch decides.
        named: whether the function or the loader has the name of an evaluation.
        aside: whether it is one forward pass of held-out data in a loop that trains.
    """

    root: Root
    forward: Event
    loop: Loop
    model: Thing
    mode: Event | None
    named: bool
    aside: bool = False


def evaluations(script: Script) -> Iterator[list[Evaluation]]:
    """The forward passes of evaluations, by their place in the source."""
    used = _used(script)
    found: dict[tuple[object, ...], list[Evaluation] | None] = {}
    for root in script.roots:
        modes: list[Event] = []
        for event in root.events:
            if event.kind in ("eval", "train"):
                modes.append(event)
            loop = _loop(event, modes) if event.kind == "forward" else None
            if loop is not None:
                key = id(event.node), id(loop.node), event.flags
                one = _evaluation(script, root, event, loop, modes, used)
                before = found.setdefault(key, [])
                if one is None:
                    found[key] = None  # some caller trains with it
                elif before is not None:
                    before.append(one)
    yield from (places for places in found.values() if places)


def _loop(event: Event, modes: list[Event]) -> Loop | None:
    """The loop over batches around a forward pass, or that over epochs around a function that evaluates all data at
    once: it has the name of an evaluation, or begins with eval()."""
    loop = next((one for one in reversed(event.loops) if one.role == "batch" and not one.implicit), None)
    named = bool(NAMED.search(getattr(event.function, "name", "")))
    begins = bool(modes) and modes[-1].kind == "eval" and modes[-1].function is event.function is not None
    if loop is None and (named or begins):
        for one in reversed(event.loops):
            alone = not one.role or (named and isinstance(one.node, ast.While))
            if one.function is event.function and alone and not one.implicit:
                return one
            if named and one.role in ("epoch", "step") and one.function is not event.function:
                return one
    return loop


def _evaluation(
    script: Script, root: Root, event: Event, loop: Loop, modes: list[Event], used: set[int]
) -> Evaluation | None:
    model = event.target
    if model is None or model.kind != "model" or event.name not in ("", "forward") or _has_no_weights(model):
        return None
    if any(id(one) in used for one in _tensors(event.value)):
        return None
    inside = loop if loop.role == "batch" else None
    own = inside is not None or loop.function is event.function
    around = loop.events() if own else (one for one in root.events if one.function is event.function)
    trains = ("backward", "step", "grad", "load_state", "average", *(() if is_evaluation(event.flags) else ("zero",)))
    if any(one.kind in trains for one in around):
        if inside is None or not _is_held_out(event) or any(one.kind in ("eval", "grad") for one in around):
            return None
        return Evaluation(root, event, loop, model, _mode(event, model, modes), True, aside=True)
    where = loop.node if inside is not None or event.function is None else event.function
    gradients = _ATTACKS if is_evaluation(event.flags) else _GRADIENTS  # the other phase of the same loop trains
    if gradients.search(text_of(script, where)) or _forward_needs_gradients(script, model):
        return None
    name = getattr(event.function, "name", "")
    if name.startswith("test_") and re.search(r"\bimport (unittest|pytest)\b|\bfrom unittest\b", script.source):
        return None  # a test of the code, and no evaluation of a model
    named = bool(
        NAMED.search(name)
        or is_evaluation(event.flags)
        or _LOADER.search(written(getattr(loop.node, "iter", ast.Constant(""))))
    )
    return Evaluation(root, event, loop, model, _mode(event, model, modes), named)


def _is_held_out(event: Event) -> bool:
    """Whether a forward pass in a training loop is of held-out data, to look at the score: `net(x_test)`."""
    given = event.call.args if event.call is not None else []
    names = [one for one in given if isinstance(one, (ast.Name, ast.Attribute))]
    return bool(names) and len(names) == len(given) and bool(_HELD_OUT.search(written(names[0])))


def _has_no_weights(model: Thing) -> bool:
    """Whether this is `nn.Softmax(dim=1)` or the like."""
    return model.cls.startswith("torch.nn.") and bool(_PLAIN.search(model.cls))


def _mode(event: Event, model: Thing, modes: list[Event]) -> Event | None:
    for mode in reversed(modes):
        if mode.target is None or not (mode.target.is_same(model) or model.is_inside(mode.target)):
            continue
        if not mode.extra.get("known", True) or mode.branches != event.branches[: len(mode.branches)]:
            return None
        return mode
    return None


def _used(script: Script) -> set[int]:
    """The ids of what a backward pass goes through, or may go through where nobody sees it."""
    found: set[int] = set()
    for event in script.of_kind("backward", "grad"):
        if isinstance(event.value, Tensor):
            found.update(id(part) for part in event.value.history())
    for event in script.of_kind("unknown"):
        if re.search(r"backward|attack|^adv|_adv|train|grad|optimi[sz]e", event.name.lower().rsplit(".", 1)[-1]):
            found.update(id(part) for one in event.extra.get("tensors", ()) for part in one.history())
    return found


def _tensors(value: Value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Many):
        for one in (*value.items, value.member):
            yield from _tensors(one)


def _forward_needs_gradients(script: Script, model: Thing) -> bool:
    """Whether the forward of a model of the file takes derivatives itself, or guards itself."""
    if model.local is None:
        return False
    for one in model.local.lineage():
        if isinstance(one, Class) and re.search(
            r"autograd|requires_grad_|no_grad|inference_mode|\.grad\(", text_of(script, one.node)
        ):
            return True
    return False


def text_of(script: Script, node: ast.AST) -> str:
    """The lines of a node."""
    return "".join(script.lines[getattr(node, "lineno", 1) - 1 : getattr(node, "end_lineno", 0) or 0])
