"""Gradients that are divided by the scale twice."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.accumulation import accumulations
from stepwell.lint.analysis.order import outermost, ways_to

CHECK = Check(
    code="SW307",
    name="unscale-twice",
    severity="error",
    certainty="certain",
    looks_for="scaler.unscale_(optimizer) is called twice before scaler.update()",
    why="the scaler raises RuntimeError: unscale_() has already been called on this optimizer since the last update()",
    instead="call unscale_() once for each step, after the last backward pass",
    silent_when="the two are for different optimizers or in different branches",
    example_bad="scaler.scale(loss).backward()\nscaler.unscale_(optimizer)\n"
    "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
    "scaler.unscale_(optimizer)\nscaler.step(optimizer)\nscaler.update()",
    example_good="scaler.scale(loss).backward()\nscaler.unscale_(optimizer)\n"
    "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
    "scaler.step(optimizer)\nscaler.update()",
    reference="https://docs.pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.unscale_",
)
FIX = "unsafe"


def find(script: Script) -> Iterator[Finding]:
    told: set[int] = set()
    for second, first in script.for_every_caller("unscale", lambda one: _first(script, one)):
        assert second.target is not None
        told.add(id(second.node))
        edit = edits.remove(script, second.node)
        yield script.finding(
            CHECK,
            second.node,
            f"the gradients of {second.target.name} were unscaled in line {first.line}, and are unscaled again here",
            [(first.node, "unscaled for the first time")],
            fix=Fix("remove the second unscale_()", (edit,)) if edit and second.function is first.function else None,
        )
    for group in accumulations(script):
        one = group[0]
        for event in one.loop.events():
            if (
                event.kind != "unscale"
                or event.target is None
                or not event.target.is_same(one.step.target)
                or id(event.node) in told
            ):
                continue
            if (
                event.branches == one.backward.branches
                and event.loops == one.backward.loops
                and not _updates(one.loop.events(), event)
            ):
                told.add(id(event.node))
                yield script.finding(
                    CHECK,
                    event.node,
                    f"the gradients of {event.target.name} are unscaled for every batch, and a step is made for "
                    "some only",
                    [(one.step.node, "the step, which allows the next unscale_()")],
                )


def _updates(events: Iterator[Event], unscale: Event) -> bool:
    return any(event.kind == "update" and event.branches == unscale.branches for event in events)


def _first(script: Script, second: Event) -> Event | None:
    """The unscale_() before this one, on all ways."""
    found: Event | None = None
    if second.target is None or second.extra.get("given") is False:
        return None
    for before, _ in ways_to(script, second, outermost(script, second)):
        first = None
        for event in before:
            if event.kind in ("step", "update") or (event.kind == "unknown" and "update" in event.name):
                break
            if event.kind == "unscale":
                if event.target is not None and event.target is second.target and event.by is second.by:
                    first = event
                break
        if first is None or first.node is second.node:
            return None
        found = first
    return found


BAD = (
    CHECK.example_bad.replace(
        "scaler.unscale_(optimizer)\nscaler.step", "scaler.unscale_(optimizer)  # expect\nscaler.step"
    ),
    """
def train(model, loader, optimizer, scaler):
    for x, y in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.unscale_(optimizer)  # expect
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
""",
    """
class Trainer:
    def clip(self):
        self.scaler.unscale_(self.optimizer)  # expect
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    def train_step(self, x, y):
        loss = self.criterion(self.model(x), y)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
""",
    """
for i, (x, y) in enumerate(loader):
    scaler.scale(loss_fn(model(x), y) / 4).backward()
    scaler.unscale_(optimizer)  # expect
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if (i + 1) % 4 == 0:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
""",
    """
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    scaler.unscale_(optimizer)
    norm = grad_norm(model)
    if clip:
        scaler.unscale_(optimizer)  # expect
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
""",
)
GOOD = (
    CHECK.example_good,
    """
for real in loader:
    scaler.scale(d_loss).backward()
    scaler.unscale_(opt_d)
    scaler.unscale_(opt_g)
    scaler.step(opt_d)
    scaler.step(opt_g)
    scaler.update()
""",
    """
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    if clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    elif log:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
""",
    """
for i, (x, y) in enumerate(loader):
    scaler.scale(loss_fn(model(x), y) / 4).backward()
    if (i + 1) % 4 == 0:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
""",
    """
scaler.unscale_(optimizer)
scaler.step(optimizer)
scaler.update()
scaler.scale(loss).backward()
scaler.unscale_(optimizer)
scaler.step(optimizer)
scaler.update()
""",
)
