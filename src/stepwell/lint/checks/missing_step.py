"""Gradients that are computed, and that no step ever uses."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Loop, Root, Script, Thing
from stepwell.lint.analysis.order import (
    happens,
    is_hidden,
    is_open,
    may_concern,
    may_step,
    models_of,
    outermost,
    uses_gradients,
    ways_to,
)
from stepwell.lint.analysis.relations import updates
from stepwell.lint.analysis.schedules import of_torch

CHECK = Check(
    code="SW104",
    name="missing-step",
    severity="error",
    certainty="certain",
    looks_for="a loop resets the gradients of an optimizer and calls backward(), and nothing calls step(); or a "
    "LightningModule has configure_optimizers() under another name",
    why="the gradients are computed and thrown away: the weights never change, and the loss stays where it began",
    instead="call optimizer.step() after the backward pass",
    silent_when="a function of another file is given the optimizer, the script works on .grad itself, or a framework "
    "makes the step",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    loss.backward()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    loss.backward()\n"
    "    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#taking-an-optimization-step",
)
FIX = ""
_MISSPELLED = frozenset(
    ["configureoptimizer", "configuresoptimizer", "configuresoptimizers", "configureoptimisers", "configureoptimiser",
     "configoptimizers", "configoptimizer", "configureoptim", "configureoptims", "configurateoptimizers"]
)  # fmt: skip


def find(script: Script) -> Iterator[Finding]:
    yield from _misspelled(script)
    if uses_gradients(script, scaling=False) or is_hidden(script, "step"):
        return
    told: set[int] = set()
    for optimizer, backwards in _unused(script):
        back = backwards[0]
        if id(back.node) not in told:
            told.add(id(back.node))
            loop = back.loops[-1] if back.loops else None
            where = f"in the loop of line {getattr(loop.node, 'lineno', 0)}" if loop is not None else "here"
            yield script.finding(
                CHECK,
                back.node,
                f"gradients for {optimizer.name} are computed {where}, and nothing calls {optimizer.name}.step()",
                [(one.node, "the gradients are reset here") for one in _resets(script, optimizer)[:1]],
            )


def _misspelled(script: Script) -> Iterator[Finding]:
    """A LightningModule whose configure_optimizers() has another name: its trainer makes no step at all."""
    for one in script.classes:
        bases = one.external_bases()
        if "training_step" not in one.methods or not any(base.endswith("LightningModule") for base in bases):
            continue
        if len(bases) > 1 or one.method("configure_optimizers") is not None:
            continue
        for name, method in one.methods.items():
            if name.lower().replace("_", "") in _MISSPELLED:
                yield script.finding(
                    CHECK,
                    method,
                    f"Lightning asks for configure_optimizers(), and {one.node.name} has {name}(): it trains nothing",
                    [(one.methods["training_step"], "this computes gradients that no optimizer uses")],
                    instead="call the method configure_optimizers",
                )


def _unused(script: Script) -> Iterator[tuple[Thing, list[Event]]]:
    """(optimizer, backward passes for it) for optimizers that make no step in the loops where they should."""
    for optimizer in _optimizers(script):
        found: list[Event] = []
        for back in script.of_kind("backward"):
            if back.by is not None and back.by.kind not in ("scaler", "accelerator"):
                continue
            if (back.loops and all(loop.once for loop in back.loops)) or is_open(script, back):
                continue
            if not _is_for(script, back, optimizer):
                continue
            if _steps(script, outermost(script, back), optimizer, back):
                found = []
                break
            found.append(back)
        if found:
            yield optimizer, found
        else:
            yield from (
                (optimizer, [places[0]])
                for places in script.places("backward")
                if all(_is_for(script, back, optimizer) and _is_wasted(script, back, optimizer) for back in places)
            )


def _optimizers(script: Script) -> list[Thing]:
    """Those that are reset somewhere, and those that are made."""
    found = [
        event.target
        for event in script.of_kind("zero", "make")
        if event.target is not None and event.target.kind == "optimizer"
    ]
    stepped = {event.target.name for event in script.of_kind("step") if event.target is not None}
    again = {  # made again in the middle of the training, and stepped under this name
        event.target.name
        for event in script.of_kind("make")
        if event.target is not None and event.target.name in stepped and event.loops
    }
    return list(dict.fromkeys(one for one in found if "LBFGS" not in one.cls and one.name not in again))


def _resets(script: Script, optimizer: Thing) -> list[Event]:
    return [
        event
        for event in script.of_kind("zero")
        if event.target is not None
        and (
            event.target.is_same(optimizer)
            or (event.target.kind == "model" and updates(optimizer, event.target) is True)
        )
    ]


def _is_for(script: Script, back: Event, optimizer: Thing) -> bool:
    """Whether a backward pass is for this optimizer: it is reset in the same round, or updates the model."""
    models = models_of(back)
    if not may_concern(optimizer, models):
        return False
    for zero in _resets(script, optimizer):
        same = zero.loops[-1] in back.loops if zero.loops and back.loops else not zero.loops and not back.loops
        if same and _nearest(script, zero, back):
            return bool(back.loops) or (zero.function is back.function and _forward(script, zero, back))
    known = [updates(optimizer, model) for model in models]
    return (
        bool(back.loops)
        and optimizer.sure
        and optimizer.whole
        and any(known)
        and not any(
            event.kind in ("zero", "step")
            and event.target is not None
            and event.target.kind == "optimizer"
            and (event.kind == "step" or not event.target.is_same(optimizer))
            for event in happens(outermost(script, back))
        )
    )


def _forward(script: Script, zero: Event, back: Event) -> bool:
    return any(
        event.kind in ("forward", "loss") and event.function is back.function and event.order < back.order
        for event in script.events
    )


def _nearest(script: Script, zero: Event, back: Event) -> bool:
    """Whether no other optimizer was reset between, so that the backward pass is not the one of another network."""
    between = [
        event
        for event in script.of_kind("zero")
        if zero.order < event.order < back.order and event.target is not None and event.target.kind == "optimizer"
    ]
    others = [
        event
        for event in script.of_kind("step")
        if zero.order < event.order < back.order
        and not any(one is other and index != mine for one, index in event.branches for other, mine in back.branches)
    ]
    return not others if zero.order < back.order and not between else not between and zero.order > back.order


def _steps(script: Script, inside: Loop | Root, optimizer: Thing, back: Event) -> bool:
    """Whether anything may make the step."""
    reset = {id(one.target) for one in script.of_kind("zero") if one.target is not None}
    for event in happens(inside):
        if event.kind == "step" and _may_be(event.target, optimizer, reset):
            return True
        if may_step(event, optimizer):
            return True
        wrapped = event.kind == "schedule" and event.target is not None and not of_torch(event.target)
        if wrapped and event.target is not None and any(one.is_same(optimizer) for one in event.target.of):
            return True  # a scheduler from elsewhere that steps the optimizer which it was given
    for event in script.of_kind("step"):  # in a method that somebody else calls
        other = outermost(script, event)
        if _may_be(event.target, optimizer, reset) and not any(one.kind == "backward" for one in happens(other)):
            return True
    if isinstance(inside, Root) and inside.uncalled:
        return any(_may_be(event.target, optimizer, reset) for event in script.of_kind("step"))
    return False


def _is_wasted(script: Script, back: Event, optimizer: Thing) -> bool:
    """Whether the gradients of one branch are reset in each round, and no step is made on any way through."""
    if (back.by is not None and back.by.kind not in ("scaler", "accelerator")) or not back.branches:
        return False
    zeros = [
        zero
        for zero in _resets(script, optimizer)
        if zero.loops
        and zero.loops[-1] in back.loops
        and set(zero.branches) <= set(back.branches)
        and not zero.loops[-1].once
    ]
    if not zeros or is_hidden(script, "step"):
        return False
    ways = ways_to(script, back, zeros[0].loops[-1])
    return bool(ways) and not any(
        event.kind == "step" or may_step(event, optimizer) for before, after in ways for event in (*before, *after)
    )


def _may_be(one: Thing | None, optimizer: Thing, reset: set[int]) -> bool:
    if one is not None and one.kind != "optimizer" and "ema" in one.name.lower():
        return False
    if one is None or one.kind != "optimizer" or one.is_same(optimizer):
        return True
    if one.made is not None and one.made is optimizer.made:  # self.optimizer, as two methods see it
        return True
    both = id(one) in reset and id(optimizer) in reset  # two that are used side by side are two
    return not both and not (one.sure and optimizer.sure)


BAD = (
    """
import lightning as L
import torch
class Net(L.LightningModule):
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizer(self):  # expect
        return torch.optim.SGD(self.parameters(), lr=0.1)
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    optimizer.zero_grad()
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()  # expect
        scaler.update()
""",
    CHECK.example_bad.replace("loss.backward()", "loss.backward()  # expect"),
    """
import torch
model = torch.nn.Linear(2, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for x, y in train_loader:
        loss = ((model(x) - y) ** 2).mean()
        opt.zero_grad()
        loss.backward()  # expect
    print(epoch, loss.item())
""",
    """
class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.Adam(model.parameters())
    def train_epoch(self):
        for x, y in self.loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(x), y)
            loss.backward()  # expect
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.scheduler.step()
""",
    """
import torch
for real in loader:
    optimizer_D.zero_grad()
    d_loss = loss_fn(D(real), ones) + loss_fn(D(G(z).detach()), zeros)
    d_loss.backward()  # expect
    optimizer_G.zero_grad()
    g_loss = loss_fn(D(G(z)), ones)
    g_loss.backward()
    optimizer_G.step()
""",
    """
import torch
from accelerate import Accelerator
accelerator = Accelerator()
optimizer = torch.optim.AdamW(model.parameters())
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for batch in loader:
    loss = model(**batch).loss
    accelerator.backward(loss)  # expect
    lr_scheduler.step()
    optimizer.zero_grad()
""",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()  # expect
    scaler.update()
""",
)
GOOD = (
    """
for i, (x, y) in enumerate(loader):
    loss = loss_fn(model(x), y)
    if (i + 1) % 4:
        with model.no_sync():
            loss.backward()
    else:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for real in loader:
    opt_d.zero_grad()
    opt_g.zero_grad()
    if train_d:
        loss_fn(D(real), ones).backward()
        opt_d.step()
    else:
        loss_fn(D(G(z)), ones).backward()
        opt_g.step()
""",
    CHECK.example_good,
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss_scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
""",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    for p in model.parameters():
        p.data.sub_(lr * p.grad)
""",
    """
class Trainer:
    def on_batch(self, x, y):
        self.optimizer.zero_grad()
        self.loss_fn(self.model(x), y).backward()
    def on_batch_end(self):
        self.optimizer.step()
""",
    """
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss
    optimizer.step(closure)
""",
    """
import lightning as L
class Model(L.LightningModule):
    def training_step(self, batch, index):
        return self.loss(batch)
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
""",
)
