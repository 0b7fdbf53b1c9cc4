"""SAM whose second step uses the gradients of the first."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.relations import may_touch

CHECK = Check(
    code="SW115",
    name="sam-without-second-pass",
    severity="error",
    certainty="certain",
    looks_for="first_step() of SAM without second_step(), no backward pass between the two, or step() without a "
    "closure",
    why="SAM needs the gradient at the perturbed weights: without it the weights stay perturbed, or the step is one of "
    "plain descent at twice the price",
    instead="loss.backward(), first_step(zero_grad=True), a second forward and backward pass, "
    "second_step(zero_grad=True)",
    silent_when="a function of another file may do the second pass",
    example_bad="optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)\nfor x, y in loader:\n"
    "    loss_fn(model(x), y).backward()\n    optimizer.first_step(zero_grad=True)\n"
    "    optimizer.second_step(zero_grad=True)",
    example_good="optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)\nfor x, y in loader:\n"
    "    loss_fn(model(x), y).backward()\n    optimizer.first_step(zero_grad=True)\n    loss_fn(model(x), "
    "y).backward()\n"
    "    optimizer.second_step(zero_grad=True)",
    reference="https://arxiv.org/abs/2010.01412",
)
FIX = ""
_SAM = re.compile(r"SAM\b|sam(?=[\W_])")  # begins with letters, so that `re` skips quickly to them
_BEFORE = re.compile(r"(^|[\W_]|(^|\W)A)$")
_ASKS = re.compile(r"sam|__class__|isinstance|type\(|first_step", re.I)  # whether this optimizer is SAM


def find(script: Script) -> Iterator[Finding]:
    steps = script.of_kind("step")
    names = {event.name for event in steps}
    if not steps or not _has_sam(script.source):  # others have steps of this name, too
        return
    if "first_step" in names and "second_step" not in names and ".second_step" not in script.source:
        event = next(one for one in steps if one.name == "first_step")
        name = event.target.name if event.target is not None else "the optimizer"
        yield script.finding(CHECK, event.node, f"{name}.first_step() is called, and second_step() nowhere")
    if {"first_step", "second_step"} <= names:
        yield from _without_backward(script)
    for places in script.places("step"):
        event = places[0]
        if all(_is_bare(one) for one in places) and event.target is not None and event.loops:
            yield script.finding(CHECK, event.node, f"{event.target.name}.step() of SAM is called without a closure")


def _has_sam(source: str) -> bool:
    """Whether SAM, ASAM or sam stands in a source, as a word or as a part of a name such as `sam_optimizer`."""
    return any(_BEFORE.search(source, max(match.start() - 2, 0), match.start()) for match in _SAM.finditer(source))


def _is_bare(event: Event) -> bool:
    optimizer = event.target
    if (
        optimizer is None
        or event.name
        or event.closure
        or event.by is not None
        or not optimizer.sure
        or optimizer.either
        or any(branch.test is not None and _ASKS.search(branch.test) for branch, _ in event.branches)
    ):
        return False
    return optimizer.cls.rsplit(".", 1)[-1] in ("SAM", "ASAM") and (
        optimizer.local is None or optimizer.local.method("first_step") is not None
    ) and not optimizer.cls.startswith("torch")  # fmt: skip


def _without_backward(script: Script) -> Iterator[Finding]:
    good: set[int] = set()
    bad: dict[int, tuple[Event, Event]] = {}
    for ways in (*(script.ways(loop) for _, loop in script.loops), *(script.ways(root) for root in script.roots)):
        for way in ways or ():
            first: Event | None = None
            again = False
            for event in way:
                if event.kind == "step" and event.name == "first_step":
                    first, again = event, False
                elif event.kind == "step" and event.name == "second_step":
                    if first is None or again:
                        good.add(id(event.node))
                    else:
                        bad.setdefault(id(event.node), (event, first))
                    first = None
                elif event.kind in ("backward", "grad") or may_touch(event, first.target if first else None) or (
                    event.kind == "unknown" and _may_go_back(event)
                ):  # fmt: skip
                    again = True
    for key, (second, first) in bad.items():
        if key not in good and second.target is not None:
            yield script.finding(
                CHECK, second.node, f"no backward pass comes between {second.target.name}.first_step() of line "
                f"{first.line} "
                "and second_step()", [(first.node, "the weights are perturbed here")],
            )  # fmt: skip


def _may_go_back(event: Event) -> bool:
    name = event.name.lower().rsplit(".", 1)[-1]
    if "loss" in name or "criterion" in name:
        return "backward" in name
    return bool(event.extra.get("tensors")) or "backward" in name


_HEAD = (
    "\nimport torch\nfrom sam import SAM\nbase = torch.optim.SGD\noptimizer = SAM(model.parameters(), base, lr=0.1)\n"
)
BAD = (
    "import torch\nfrom sam import SAM\n"
    + CHECK.example_bad.replace("second_step(zero_grad=True)", "second_step(zero_grad=True)  # expect"),
    _HEAD
    + "for x, y in loader:\n    loss_fn(model(x), y).backward()\n    optimizer.first_step(zero_grad=True)  # expect\n",
    _HEAD + "for x, y in loader:\n    optimizer.zero_grad()\n    loss_fn(model(x), y).backward()\n    "
    "optimizer.step()  # expect\n",
    _HEAD
    + """
class Trainer:
    def step(self, x, y):
        loss = self.criterion(self.model(x), y)
        loss.backward()
        self.optimizer.first_step(zero_grad=True)
        self.criterion(self.model(x), y)
        self.optimizer.second_step(zero_grad=True)  # expect
""",
    _HEAD
    + """
def train(model, loader, optimizer):
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.first_step(zero_grad=True)
        loss = loss_fn(model(x), y)
        optimizer.second_step(zero_grad=True)  # expect
train(model, loader, optimizer)
""",
)
GOOD = (
    """
from sam import SAM
optimizer = SAM(model.parameters(), base_optimizer=torch.optim.SGD, lr=0.1)
for x, y in loader:
    loss = loss_fn(model(x), y)
    if optimizer.__class__.__name__ == "SAM":
        loss.backward()
        optimizer.first_step(zero_grad=True)
        loss_fn(model(x), y).backward()
        optimizer.second_step(zero_grad=True)
    else:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
    "import torch\nfrom sam import SAM\n" + CHECK.example_good,
    _HEAD + "for x, y in loader:\n    def closure():\n        loss = loss_fn(model(x), y)\n        loss.backward()\n  "
    "      return loss\n"
    "    loss_fn(model(x), y).backward()\n    optimizer.step(closure)\n    optimizer.zero_grad()\n",
    _HEAD
    + "def pass_(x, y):\n    loss_fn(model(x), y).backward()\nfor x, y in loader:\n    pass_(x, y)\n"
    + "    optimizer.first_step(zero_grad=True)\n    pass_(x, y)\n    optimizer.second_step(zero_grad=True)\n",
    _HEAD + "from lib import again\nfor x, y in loader:\n    loss_fn(model(x), y).backward()\n    "
    "optimizer.first_step(zero_grad=True)\n"
    "    again(model, model(x), y)\n    optimizer.second_step(zero_grad=True)\n",
    "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\nfor x in loader:\n    loss.backward()\n    "
    "optimizer.step()\n    optimizer.zero_grad()\n",
)
