"""Gradients that are thrown away between the backward pass and the step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Loop, Root, Script
from stepwell.lint.analysis.relations import may_reset, may_touch, updates

CHECK = Check(
    code="SW103",
    name="zero-grad-between",
    severity="error",
    certainty="certain",
    looks_for="gradients are reset after backward() and before the step that should use them",
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
    inside = [loop for _, loop in script.loops if any(event.kind == "zero" for event in loop.events())]
    roots = [root for root in script.roots if any(event.kind == "zero" for event in root.events)]
    places: list[Loop | Root] = [*inside, *roots]
    for one in places:
        for way in script.ways(one, _matters) or ():
            for zero, backward, step in _between(way):
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


def _matters(event: Event) -> bool:
    return event.kind in ("zero", "backward", "step", "grad", "unknown")


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
            if may_reset(event, step.target) and (
                event.target is None or event.target.kind != "model" or updates(step.target, event.target)
            ):
                zero = event


def _is_for(backward: Event, step: Event) -> bool:
    """Whether the backward pass may compute gradients for this step: not that of the other network of a GAN."""
    models = getattr(backward.value, "models", ())
    known = [updates(step.target, model) for model in models if model.kind == "model"]
    return not known or any(one is not False for one in known)


def _may_go_back(event: Event) -> bool:
    return bool(event.extra.get("tensors")) or "backward" in event.name


BAD = (
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
for i, batch in enumerate(loader):
    loss = model(batch).loss
    accelerator.backward(loss)
    if True:
        optimizer.zero_grad()  # expect
    optimizer.step()
""",
)
GOOD = (
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
)
