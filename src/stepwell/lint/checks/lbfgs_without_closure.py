"""LBFGS that is stepped without a closure."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, Thing

CHECK = Check(
    code="SW114",
    name="lbfgs-without-closure",
    severity="error",
    certainty="certain",
    looks_for="step() of LBFGS is called without a closure",
    why="LBFGS evaluates the loss several times per step: without a closure the call raises a TypeError",
    instead="put zero_grad, loss and backward into a function that returns the loss, and call optimizer.step(function)",
    silent_when="the optimizer may be another one",
    example_bad="import torch\noptimizer = torch.optim.LBFGS(model.parameters())\nfor i in range(100):\n"
    "    optimizer.zero_grad()\n    loss_fn(model(x), y).backward()\n    optimizer.step()",
    example_good="import torch\noptimizer = torch.optim.LBFGS(model.parameters())\ndef closure():\n"
    "    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    loss.backward()\n    return loss\n"
    "for i in range(100):\n    optimizer.step(closure)",
    reference="https://docs.pytorch.org/docs/stable/optim.html#optimizer-step-closure",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("step"):
        if all(_is_bare(event) for event in places):
            event = places[0]
            assert event.target is not None
            proof = [(event.target.made, "it is an LBFGS")] if event.target.made is not None else []
            yield script.finding(
                CHECK, event.node, f"{event.target.name}.step() of LBFGS is called without a closure", proof
            )


def _is_bare(event: Event) -> bool:
    if event.target is None or event.call is None or event.name or not _is_lbfgs(event.target):
        return False
    if event.by is not None and event.by.kind != "scaler":
        return False
    given = len(event.call.args) + len(event.call.keywords)
    return given <= (1 if event.by is not None else 0) and not any(
        "LBFGS" in (branch.test or "") or "lbfgs" in (branch.test or "") for branch, _ in event.branches
    ) and not any(isinstance(one, ast.Starred) for one in event.call.args)  # fmt: skip


def _is_lbfgs(one: Thing) -> bool:
    known = (
        one.cls in ("torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS", "stepwell.LBFGS") and one.sure and one.local is None
    )
    return known and all(_is_lbfgs(other) for other in one.either)


_HEAD = "\nimport torch\nimport pytorch_lightning as pl\nfrom torch import optim\n"
BAD = (
    CHECK.example_bad.replace("optimizer.step()", "optimizer.step()  # expect"),
    _HEAD
    + """
def train(model, optimizer, loader):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()  # expect
train(model, optim.LBFGS(model.parameters(), lr=1), loader)
""",
    _HEAD
    + """
class Solver:
    def __init__(self, net):
        self.net = net
        self.optimizer = optim.LBFGS(net.parameters(), max_iter=20)
    def solve(self):
        for i in range(10):
            self.optimizer.zero_grad()
            self.residual().backward()
            self.optimizer.step()  # expect
""",
    _HEAD + "image = torch.rand(3, requires_grad=True)\nopt = optim.LBFGS([image])\nfor i in range(10):\n    "
    "opt.zero_grad()\n" + "    loss(image).backward()\n    opt.step()  # expect\n",
    _HEAD
    + """
class Model(pl.LightningModule):
    def configure_optimizers(self):
        return optim.LBFGS(self.parameters())
    def training_step(self, batch, index):
        opt = self.optimizers()
        opt.zero_grad()
        self.manual_backward(self.loss(batch))
        opt.step()  # expect
""",
)
GOOD = (
    CHECK.example_good,
    _HEAD
    + "optimizer = optim.LBFGS(model.parameters()) if args.lbfgs else optim.Adam(model.parameters())\n"
    + "for x in loader:\n    optimizer.zero_grad()\n    loss(x).backward()\n    optimizer.step()\n",
    _HEAD + "optimizer = optim.LBFGS(model.parameters())\noptimizer.step(lambda: loss(model))\n",
    _HEAD + "optimizer = optim.LBFGS(model.parameters())\noptimizer.step(closure=closure)\n",
    "from mine import LBFGS\noptimizer = LBFGS(model.parameters())\nloss.backward()\noptimizer.step()\n",
    _HEAD + "adam = optim.Adam(model.parameters())\nfine = optim.LBFGS(model.parameters())\nloss.backward()\n"
    "adam.step()\nfine.step(closure)\n",
)
