"""A step of an optimizer whose model the loss does not reach."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.missed import missed, missed_terms

CHECK = Check(
    code="SW117",
    name="step-that-the-loss-misses",
    severity="error",
    certainty="certain",
    looks_for="the loss before an optimizer's step goes through other networks only: the output of the network that "
    "the optimizer updates was detached on the way, or the step is of the wrong optimizer",
    why="the network gets no gradient from this loss: the step does nothing, or uses what other losses have left",
    instead="pass the output without detach() into the loss of the network that makes it, and step its own optimizer",
    silent_when="any backward pass since the last reset reaches the network, or a call that is not followed may",
    example_bad="fake = G(z)\noptG.zero_grad()\nloss = bce(D(fake.detach()), ones)\nloss.backward()\noptG.step()",
    example_good="fake = G(z)\noptG.zero_grad()\nloss = bce(D(fake), ones)\nloss.backward()\noptG.step()",
    reference="https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    told: set[int] = set()
    for one in missed(script):
        told.add(id(one.backward.node))
        cut = one.cut.node if one.cut is not None else None
        yield script.finding(
            CHECK,
            one.step.node,
            f"this step updates {one.model.name}, and the loss of line {one.backward.line} does not reach "
            f"{one.model.name}" + (": its output was detached" if one.cut is not None else ""),
            [(one.backward.node, "the loss")] + ([(cut, "the graph is cut here")] if cut is not None else []),
        )
    for one in missed_terms(script):
        if id(one.backward.node) not in told:
            yield script.finding(
                CHECK,
                (one.cut.node if one.cut is not None else None) or one.backward.node,
                f"a term of the loss of line {one.backward.line} goes through this detached output, and so does not "
                f"reach {one.model.name}, which the next step updates",
                [(one.backward.node, "the loss"), (one.step.node, "the step")],
            )


_HEAD = """
import torch
from torch import nn
G, D = nn.Linear(2, 2), nn.Linear(2, 1)
optG = torch.optim.Adam(G.parameters(), lr=1e-4)
optD = torch.optim.Adam(D.parameters(), lr=1e-4)
bce = nn.BCEWithLogitsLoss()
"""
_REAL = """
for real in loader:
    fake = G(torch.randn(8, 2))
    optD.zero_grad()
    loss_d = bce(D(real), ones) + bce(D(fake.detach()), zeros)
    loss_d.backward()
    optD.step()
    optG.zero_grad()
    loss_g = bce(D(fake), ones)
    loss_g.backward()
    optG.step()
"""
BAD: tuple[str, ...] = (
    _HEAD
    + _REAL.replace("bce(D(fake), ones)", "bce(D(fake.detach()), ones)").replace(
        "optG.step()", "optG.step()  # expect"
    ),
    _HEAD + _REAL.replace("    optD.step()", "    optG.step()  # expect"),
    """
import torch
class Pix2Pix:
    def __init__(self, G, D):
        self.G, self.D = G, D
        self.optimizerG = torch.optim.Adam(self.G.parameters(), lr=2e-4)
        self.bce, self.l1 = torch.nn.BCEWithLogitsLoss(), torch.nn.L1Loss()
    def train(self, loader):
        for data, label in loader:
            output = self.G(data)
            self.optimizerG.zero_grad()
            fake = torch.cat((output, data), dim=1)
            pred_fake = self.D(fake.detach())  # expect
            loss_gan = self.bce(pred_fake, torch.ones_like(pred_fake))
            loss_l1 = self.l1(output, label)
            loss = loss_gan + (100 * loss_l1)
            loss.backward()
            self.optimizerG.step()
""",
    """
import torch
class Trainer:
    def __init__(self, netG, netD):
        self.netG, self.netD = netG, netD
        self.g_optimizer = torch.optim.Adam(self.netG.parameters(), lr=2e-4)
        self.d_optimizer = torch.optim.Adam(self.netD.parameters(), lr=2e-4)
        self.criterion = torch.nn.BCELoss()
    def train(self, loader):
        for x in loader:
            fake = self.netG(torch.randn(8, 4)).detach()
            self.d_optimizer.zero_grad()
            d_loss = self.criterion(self.netD(x), 1) + self.criterion(self.netD(fake), 0)
            d_loss.backward()
            self.d_optimizer.step()
            self.g_optimizer.zero_grad()
            g_loss = self.criterion(self.netD(fake), 1)
            g_loss.backward()
            self.g_optimizer.step()  # expect
""",
    """
import torch
def train(encoder, classifier, loader):
    opt_e = torch.optim.SGD(encoder.parameters(), lr=0.1)
    opt_h = torch.optim.SGD(classifier.parameters(), lr=0.1)
    for x, y in loader:
        opt_e.zero_grad()
        opt_h.zero_grad()
        h = encoder(x).detach()
        loss = torch.nn.functional.cross_entropy(classifier(h), y)
        loss.backward()
        opt_e.step()  # expect
        opt_h.step()
""",
    """
import torch
from torch import nn
actor, critic = nn.Linear(4, 2), nn.Linear(6, 1)
actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
for state in states:
    action = actor(state)
    actor_loss = -critic(torch.cat([state, action.detach()], 1)).mean()
    actor_optimizer.zero_grad()
    actor_loss.backward()
    actor_optimizer.step()  # expect
""",
)
BAD = (
    *BAD,
    """
import torch
d_A = Discriminator()
d_B = Discriminator()
opt_A = torch.optim.Adam(d_A.parameters(), lr=2e-4)
opt_B = torch.optim.Adam(d_B.parameters(), lr=2e-4)
for real_A, real_B in loader:
    score = d_B(real_B)
    loss_A = (d_A(real_A) - 1).pow(2).mean()
    opt_A.zero_grad()
    loss_A.backward()
    opt_A.step()
    loss_B = (d_A(real_B) - 1).pow(2).mean()
    opt_B.zero_grad()
    loss_B.backward()
    opt_B.step()  # expect
""",
)
GOOD = (
    """
import torch
body = Body()
head = Head(body)
opt_body = torch.optim.Adam(body.parameters(), lr=2e-4)
opt_head = torch.optim.Adam(head.parameters(), lr=2e-4)
for x, y in loader:
    features = body(x)
    opt_body.zero_grad()
    opt_head.zero_grad()
    loss = (head(x) - y).pow(2).mean()
    loss.backward()
    opt_head.step()
    opt_body.step()
""",
    """
import torch
G, D = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
optimizer = torch.optim.Adam([*G.parameters(), *D.parameters()], lr=2e-4)
for data, label in loader:
    output = G(data)
    loss = D(output.detach()).mean() + (output - label).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    _HEAD + _REAL,
    _HEAD
    + _REAL.replace("    optG.zero_grad()\n", "").replace(
        "    optD.zero_grad()", "    optD.zero_grad()\n    optG.zero_grad()"
    ),
    """
import torch
def train(encoder, classifier, loader):
    opt_e = torch.optim.SGD(encoder.parameters(), lr=0.1)
    opt_h = torch.optim.SGD(classifier.parameters(), lr=0.1)
    for x, y in loader:
        opt_e.zero_grad()
        opt_h.zero_grad()
        h = encoder(x)
        torch.nn.functional.cross_entropy(classifier(h.detach()), y).backward()
        torch.nn.functional.mse_loss(decoder(h), x).backward()
        opt_e.step()
        opt_h.step()
""",
    _HEAD
    + """
for real in loader:
    optG.zero_grad()
    fake = G(torch.randn(8, 2))
    update(G, optG, fake)
    bce(D(fake.detach()), zeros).backward()
    optG.step()
""",
    """
import torch
from torch import nn
net, target = nn.Linear(4, 2), nn.Linear(4, 2)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for s, r, s2 in batches:
    goal = r + 0.9 * target(s2).max(1).values.detach()
    loss = (net(s).max(1).values - goal).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
import torch
from torch import nn
net = nn.Linear(4, 4)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for x in loader:
    z = net(x)
    loss = (z - net(x + 1).detach()).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
)
