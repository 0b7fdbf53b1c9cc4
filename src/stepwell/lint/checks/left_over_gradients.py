"""A step that also uses the gradients which the loss of another network has left."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.adversarial import is_by_design
from stepwell.lint.analysis.crossed import left_over

CHECK = Check(
    code="SW118",
    name="left-over-gradients",
    severity="error",
    certainty="certain",
    looks_for="the loss of one network is back-propagated through another network, whose own optimizer then steps "
    "without a reset of its gradients in between",
    why="a generator's loss also fills the gradients of the discriminator, with the opposite sign of the "
    "discriminator's own: its next step uses the sum of both",
    instead="call zero_grad() of each optimizer right before the backward pass of the loss that the optimizer is for",
    silent_when="the gradients of the other network are switched off, both networks are of one optimizer, or a call "
    "that is not followed may reset them",
    example_bad="optD.zero_grad()\noptG.zero_grad()\nfake = G(z)\nbce(D(fake), ones).backward()\noptG.step()\n"
    "(bce(D(real), ones) + bce(D(fake.detach()), zeros)).backward()\noptD.step()",
    example_good="optG.zero_grad()\nfake = G(z)\nbce(D(fake), ones).backward()\noptG.step()\noptD.zero_grad()\n"
    "(bce(D(real), ones) + bce(D(fake.detach()), zeros)).backward()\noptD.step()",
    reference="https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for one in left_over(script):
        if not is_by_design(script, one.other):
            yield script.finding(
                CHECK,
                one.step.node,
                f"this step also uses the gradients that the loss of line {one.other.line} left in {one.model.name}",
                [(one.other.node, f"this goes through {one.model.name}"), (one.update.node, "and is of this step")],
            )


_HEAD = """
import torch
from torch import nn
G, D = nn.Linear(2, 2), nn.Linear(2, 1)
optG = torch.optim.Adam(G.parameters(), lr=1e-4)
optD = torch.optim.Adam(D.parameters(), lr=1e-4)
bce = nn.BCEWithLogitsLoss()
"""
_ROUND = """
for real in loader:
    optD.zero_grad()
    optG.zero_grad()
    fake = G(torch.randn(8, 2))
    loss_g = bce(D(fake), ones)
    loss_g.backward()
    optG.step()
    loss_d = bce(D(real), ones) + bce(D(fake.detach()), zeros)
    loss_d.backward()
    optD.step()
"""
_ACTOR = """
import torch
class Agent:
    def __init__(self, actor, critic):
        self.actor, self.critic = actor, critic
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=1e-3)
    def learn(self, loader):
        for state, action, target in loader:
            self.critic_optimizer.zero_grad()
            self.actor_optimizer.zero_grad()
            actor_loss = -self.critic(torch.cat([state, self.actor(state)], 1)).mean()
            actor_loss.backward()
            self.actor_optimizer.step()
            critic_loss = (self.critic(torch.cat([state, action], 1)) - target).pow(2).mean()
            critic_loss.backward()
            self.critic_optimizer.step()
"""
_BOTH = "    for one in (optD, optG):\n        one.zero_grad()\n"
BAD = (
    _HEAD + _ROUND.replace("    optD.step()", "    optD.step()  # expect"),
    _ACTOR.replace("self.critic_optimizer.step()", "self.critic_optimizer.step()  # expect"),
    _HEAD
    + """
for real in loader:
    fake = G(torch.randn(8, 2))
    loss_g = bce(D(fake), ones)
    loss_g.backward()
    optG.step()
    loss_real = bce(D(real), ones)
    loss_real.backward()
    loss_fake = bce(D(fake.detach()), zeros)
    loss_fake.backward()
    optD.step()  # expect
    optD.zero_grad()
    optG.zero_grad()
""",
    """
import torch
def train(generator, discriminator, loader):
    g_opt = torch.optim.RMSprop(generator.parameters(), lr=5e-5)
    d_opt = torch.optim.RMSprop(discriminator.parameters(), lr=5e-5)
    for real in loader:
        g_opt.zero_grad()
        fake = generator(torch.randn(8, 4))
        g_loss = -discriminator(fake).mean()
        g_loss.backward()
        g_opt.step()
        g_opt.zero_grad()
        fake = generator(torch.randn(8, 4)).detach()
        d_loss = discriminator(fake).mean() - discriminator(real).mean()
        d_loss.backward()
        d_opt.step()  # expect
        d_opt.zero_grad()
""",
    _HEAD
    + _ROUND.replace("    optD.zero_grad()\n    optG.zero_grad()\n", _BOTH)
    .replace("    optD.step()", "    optD.step()  # expect"),
)  # fmt: skip
GOOD = (
    """
import torch
def train(encoder, generator, loader):
    opt_e = torch.optim.Adam(encoder.parameters(), lr=1e-4)
    opt_g = torch.optim.Adam(generator.parameters(), lr=1e-4)
    for x in loader:
        opt_e.zero_grad()
        opt_g.zero_grad()
        fake = generator(encoder(x))
        (fake - x).abs().mean().backward()
        opt_e.step()
        latent = generator(encoder(x)).mean()
        latent.backward()
        opt_g.step()
""",
    _HEAD + _ROUND.replace("    loss_d =", "    optD.zero_grad()\n    loss_d ="),
    _ACTOR.replace(
        "            critic_loss =", "            self.critic_optimizer.zero_grad()\n            critic_loss ="
    ),
    _HEAD
    + """
for real in loader:
    fake = G(torch.randn(8, 2))
    optD.zero_grad()
    (bce(D(real), ones) + bce(D(fake.detach()), zeros)).backward()
    optD.step()
    optG.zero_grad()
    bce(D(fake), ones).backward()
    optG.step()
""",
    """
import torch
def train(encoder, decoder, critic, loader):
    enc = torch.optim.Adam(encoder.parameters(), lr=1e-4)
    dec = torch.optim.Adam(decoder.parameters(), lr=1e-4)
    for x in loader:
        enc.zero_grad()
        dec.zero_grad()
        z = encoder(x)
        (decoder(z) - x).pow(2).mean().backward()
        dec.step()
        critic(encoder(x)).mean().backward()
        enc.step()
""",
    _HEAD
    + _ROUND.replace(
        "    loss_g =", "    for p in D.parameters():\n        p.requires_grad = False\n    loss_g ="
    ).replace("    loss_d =", "    for p in D.parameters():\n        p.requires_grad = True\n    loss_d ="),
    _HEAD + _ROUND.replace("    loss_d =", "    reset(D, optD)\n    loss_d ="),
)  # fmt: skip
