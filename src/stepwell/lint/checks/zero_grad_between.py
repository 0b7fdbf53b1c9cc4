"""Gradients that are thrown away between the backward pass and the step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Loop, Root, Script
from stepwell.lint.analysis.accumulation import wasted
from stepwell.lint.analysis.order import is_training
from stepwell.lint.analysis.relations import may_reset, may_touch, updates
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW103",
    name="zero-grad-between",
    severity="error",
    certainty="certain",
    looks_for="gradients are reset after backward() and before the step that should use them, or for every batch where "
    "the step comes for every n-th",
    why="the step sees no gradient: with gradients at None it does nothing at all, and momentum and decay alone move "
    "the weights otherwise",
    instead="call zero_grad() before backward(), or after step()",
    silent_when="another backward pass follows before the step, or the gradients are of another optimizer",
    example_bad="loss.backward()\noptimizer.zero_grad()\noptimizer.step()",
    example_good="optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    reference="https://docs.pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    seen: set[int] = set()
    inside = [loop for _, loop in script.loops if _has_all(loop.events())]
    roots = [root for root in script.roots if _has_all(root.events)]
    places: list[Loop | Root] = [*inside, *roots]
    for one in places:
        for way in script.ways(one, is_training) or ():
            turned = _next_round(way) if isinstance(one, Loop) else ()
            for zero, backward, step in (*_between(way), *turned):
                if id(zero.node) not in seen and step.target is not None:
                    seen.add(id(zero.node))
                    yield script.finding(
                        CHECK,
                        zero.node,
                        f"this resets the gradients that the backward pass of line {backward.line} has computed, "
                        f"before {step.target.name}.step() in line {step.line}",
                        [(backward.node, "gradients are computed"), (step.node, "the step finds none")],
                        fix=_fix(script, zero, backward),
                    )

    yield from _of_accumulation(script, seen)
    yield from _inside_accumulate(script, seen)


def _of_accumulation(script: Script, seen: set[int]) -> Iterator[Finding]:
    """A reset for every batch, where the step comes for every n-th."""
    for places in wasted(script):
        one = places[0]
        if id(one.zero.node) not in seen:
            seen.add(id(one.zero.node))
            every = written(one.every)
            yield script.finding(
                CHECK,
                one.zero.node,
                f"this resets the gradients in every round, and the step of line {one.step.line} comes only once in "
                f"{every} rounds: it sees the gradient of one batch",
                [(one.backward.node, "gradients are computed in every round"), (one.step.node, f"one step in {every}")],
                instead="call zero_grad() right after the step, in the same branch",
            )


def _inside_accumulate(script: Script, seen: set[int]) -> Iterator[Finding]:
    """A reset before the backward pass under `accelerator.accumulate()`: on the micro-batch that steps it really
    resets, and takes the gradients of those before."""
    if "accumulate(" not in script.source or re.search(r"gradient_accumulation_steps\s*=\s*1\b", script.source):
        return
    for block in script.each(ast.With):
        if not any(isinstance(item.context_expr, ast.Call) and written(item.context_expr.func).endswith(".accumulate")
                   for item in block.items):  # fmt: skip
            continue
        calls = [one.value for one in block.body if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)]
        names = [written(call.func).rsplit(".", 1)[-1] for call in calls]
        if names.count("zero_grad") != 1 or names.count("backward") != 1:
            continue
        zero, backward = calls[names.index("zero_grad")], calls[names.index("backward")]
        if names.index("zero_grad") < names.index("backward") and id(zero) not in seen:
            seen.add(id(zero))
            yield script.finding(
                CHECK,
                zero,
                "under accumulate() this reset takes effect on the micro-batch that steps only, and there it comes "
                "before the backward pass: the step sees the gradient of one micro-batch",
                [(backward, "the gradients of the micro-batches before are gone here")],
                instead="call zero_grad() after the step, as the last line of the block",
            )


def _has_all(events: Iterable[Event]) -> bool:
    kinds = {event.kind for event in events}
    return {"zero", "backward", "step"} <= kinds


def _fix(script: Script, zero: Event, backward: Event) -> Fix | None:
    """The reset goes before the backward pass, where it follows it directly."""
    first, second = script.statement(backward.node), script.statement(zero.node)
    block = script.block_of(first) if first is not None else None
    if block is None or second is None or not any(one is first and two is second for one, two in pairwise(block)):
        return None
    made = (edits.insert_before(script, backward.node, edits.text(script, second)), edits.remove(script, second))
    together = [one for one in made if one is not None]
    return (
        Fix("reset the gradients before the backward pass", tuple(together), safe=True) if len(together) == 2 else None
    )


def _between(way: list[Event]) -> Iterator[tuple[Event, Event, Event]]:
    """(zero, backward, step) for steps of a way before which gradients were reset and not computed again."""
    for index, step in enumerate(way):
        if step.kind != "step" or step.target is None or step.closure or step.name or step.target.kind != "optimizer":
            continue
        zero: Event | None = None
        for event in reversed(way[:index]):
            if event.kind in ("step", "grad") and event.is_on(step.target):
                break
            if may_touch(event, step.target) or (event.kind == "unknown" and _may_go_back(event)):
                break
            if event.kind == "backward":
                if zero is not None and _is_for(event, step):
                    yield zero, event, step
                break
            if may_reset(event, step.target) and _is_of(event, step):
                zero = event


def _next_round(way: list[Event]) -> Iterator[tuple[Event, Event, Event]]:
    """(zero, backward, step) for a step at the head of a round, whose gradients the round before has reset."""
    step = next((one for one in way if one.kind in ("step", "backward", "zero", "grad")), None)
    if step is None or step.kind != "step" or step.target is None or step.closure or step.name:
        return
    rest = way[way.index(step) + 1 :]
    if step.target.kind != "optimizer" or any(may_touch(one, step.target) for one in way):
        return
    relevant = [one for one in rest if one.kind in ("step", "backward", "zero", "grad")]
    if [one.kind for one in relevant] == ["backward", "zero"] and _is_for(relevant[0], step):
        zero = relevant[1]
        if may_reset(zero, step.target) and _is_of(zero, step):
            yield zero, relevant[0], step


def _is_of(zero: Event, step: Event) -> bool:
    """Whether a reset is of all that the step uses: `p.grad = None` for some parameters keeps the others."""
    if zero.target is None:
        return any(updates(step.target, one) for one in zero.targets) or not step.loops
    if zero.target.kind == "optimizer" and step.target is not None and not zero.target.is_same(step.target):
        return any(one.is_same(other) for one in zero.target.of for other in step.target.of)
    return zero.target.kind != "model" or bool(updates(step.target, zero.target))


def _is_for(backward: Event, step: Event) -> bool:
    """Whether the backward pass may compute gradients for this step: not that of the other network of a GAN."""
    models = getattr(backward.value, "models", ())
    known = [updates(step.target, model) for model in models if model.kind == "model"]
    return not known or any(one is not False for one in known)


def _may_go_back(event: Event) -> bool:
    return bool(event.extra.get("tensors")) or "backward" in event.name


BAD: tuple[str, ...] = (
    """
for x, y in zip(X, Y):
    loss = model(x, y)
    optimizer.step()
    loss.backward()
    optimizer.zero_grad()  # expect
""",
    "for x, y in loader:\n    loss = loss_fn(model(x), y)\n    loss.backward()\n    optimizer.zero_grad()  # expect\n"
    "    optimizer.step()",
    """
def train(model, optimizer, loader):
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        model.zero_grad()  # expect
        optimizer.step()
import torch
net = torch.nn.Linear(1, 1)
train(net, torch.optim.SGD(net.parameters(), lr=0.1), loader)
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    optimizer.zero_grad()  # expect
    scaler.step(optimizer)
    scaler.update()
""",
    """
class T:
    def update(self, loss):
        loss.backward()
        self.optimizer.zero_grad()  # expect
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
""",
    """
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()  # expect
    loss = loss_fn(model(x), y) / args.accumulation_steps
    loss.backward()
    if (i + 1) % args.accumulation_steps == 0:
        optimizer.step()
""",
    """
for step, batch in enumerate(loader):
    optimizer.zero_grad(set_to_none=True)  # expect
    with autocast():
        loss = model(batch).mean()
    if scaler:
        scaler.scale(loss / grad_accum_steps).backward()
    else:
        (loss / grad_accum_steps).backward()
    if global_step % grad_accum_steps == 0:
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
    global_step += 1
""",
    """
for i, batch in enumerate(loader):
    loss = model(batch).loss
    accelerator.backward(loss)
    if True:
        optimizer.zero_grad()  # expect
    optimizer.step()
""",
)
_ACCUMULATE = """
from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for batch in loader:
    with accelerator.accumulate(model):
        loss = model(**batch).loss
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
"""
BAD = (*BAD, _ACCUMULATE.replace("optimizer.zero_grad()", "optimizer.zero_grad()  # expect"))
GOOD = (
    _ACCUMULATE.replace("        optimizer.zero_grad()\n", "") + "        optimizer.zero_grad()\n",
    _ACCUMULATE.replace("steps=4", "steps=1"),
    "for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    loss.backward()\n    "
    "optimizer.step()",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    """
import torch
G, D = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
optimizerG, optimizerD = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
for x in loader:
    d_loss = D(G(x).detach()).mean()
    d_loss.backward()
    optimizerG.zero_grad()
    optimizerD.step()
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
""",
    """
for i, (x, y) in enumerate(loader):
    loss_fn(model(x), y).backward()
    if i % 2 == 1:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    need_update = (i + 1) % accum_steps == 0
    loss_fn(model(x), y).backward()
    if need_update:
        optimizer.step()
    if not need_update:
        continue
    optimizer.zero_grad()
""",
    """
import torch
class SAM(torch.optim.Optimizer):
    def first_step(self):
        self.zero_grad()
    def second_step(self):
        self.base_optimizer.step()
    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss
    loss = closure()
    optimizer.step(closure)
""",
    """
for x, y in loader:
    policy.optimizer.zero_grad()
    value_loss = loss_fn(policy(x), y)
    value_loss.backward()
    for param in shared_parameters:
        param.grad = None
    policy.optimizer.step()
""",
)
