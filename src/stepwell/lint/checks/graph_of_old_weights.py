"""A backward pass through weights that a step has changed since the forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.crossed import stale

CHECK = Check(
    code="SW119",
    name="graph-of-old-weights",
    severity="error",
    certainty="certain",
    looks_for="the output of a network is used in a loss, the network's optimizer steps, and then a second loss of the "
    "same output is back-propagated",
    why="the step changes the weights in place, and the graph of the output needs them as they were: torch raises "
    '"one of the variables needed for gradient computation has been modified by an inplace operation"',
    instead="compute the output again after the step, or call both backward passes before the first step",
    silent_when="the forward pass runs under autocast or DataParallel, whose graphs keep copies of the weights",
    example_bad="p = D(fake)\nbce(p, zeros).backward(retain_graph=True)\noptD.step()\nbce(p, ones).backward()\n"
    "optG.step()",
    example_good="bce(D(fake.detach()), zeros).backward()\noptD.step()\nbce(D(fake), ones).backward()\noptG.step()",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-correctness-checks",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    if "DataParallel(" in script.source.replace("DistributedDataParallel(", ""):
        return
    for one in stale(script):
        yield script.finding(
            CHECK,
            one.backward.node,
            f"this goes through the output of {one.model.name} of line {one.forward.line}, whose weights the step of "
            f"line {one.step.line} has changed",
            [(one.forward.node, "the output"), (one.step.node, "the step that changes the weights")],
        )


_HEAD = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
    def forward(self, x):
        return self.two(self.one(x).relu())
G, D = Net(), Net()
optG = torch.optim.Adam(G.parameters(), lr=1e-4)
optD = torch.optim.Adam(D.parameters(), lr=1e-4)
bce = nn.BCEWithLogitsLoss()
"""
_GAN = """
for real in loader:
    fake = G(torch.randn(8, 2))
    score = D(fake)
    loss_d = bce(D(real), ones) + bce(score, zeros)
    optD.zero_grad()
    loss_d.backward(retain_graph=True)
    optD.step()
    loss_g = bce(score, ones)
    optG.zero_grad()
    loss_g.backward()  # expect
    optG.step()
"""
BAD = (
    _HEAD + _GAN,
    """
import torch
class Agent:
    def __init__(self, actor, q1):
        self.actor, self.q1 = actor, q1
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.q1_optimizer = torch.optim.Adam(self.q1.parameters(), lr=1e-3)
    def learn(self, loader):
        for state, target in loader:
            action = self.actor(state)
            q = self.q1(torch.cat([state, action], 1))
            critic_loss = (q - target).pow(2).mean()
            self.q1_optimizer.zero_grad()
            critic_loss.backward(retain_graph=True)
            self.q1_optimizer.step()
            actor_loss = -q.mean()
            self.actor_optimizer.zero_grad()
            actor_loss.backward()  # expect
            self.actor_optimizer.step()
""",
    _HEAD
    + """
for x, y in loader:
    h = G(x)
    out = D(h)
    optG.zero_grad()
    (h - x).pow(2).mean().backward(retain_graph=True)
    optG.step()
    optD.zero_grad()
    (out - y).pow(2).mean().backward()  # expect
    optD.step()
""",
    _HEAD + _GAN.replace("    optD.step()\n", "").replace("    loss_g = bce", "    optD.step()\n    loss_g = 2 * bce"),
    _HEAD.replace("G, D = Net(), Net()", "device = 'cuda'\nG = Net().to(device)\nD = Net().to(device)") + _GAN,
)
GOOD = (
    _HEAD + _GAN.replace("bce(score, ones)", "bce(D(fake), ones)").replace("  # expect", ""),
    _HEAD
    + _GAN.replace("    optD.step()\n", "")
    .replace("  # expect", "")
    .replace("optG.step()", "optG.step()\n    optD.step()"),
    _HEAD + _GAN.replace("bce(score, ones)", "bce(D(fake), score.detach())").replace("  # expect", ""),
    _HEAD
    + _GAN.replace("    score = D(fake)", "    with torch.autocast('cuda'):\n        score = D(fake)").replace(
        "  # expect", ""
    ),
    _HEAD
    + """
for x, y in loader:
    h = G(x)
    optG.zero_grad()
    (h - x).pow(2).mean().backward()
    optG.step()
    out = D(h.detach())
    optD.zero_grad()
    (out - y).pow(2).mean().backward()
    optD.step()
""",
)
