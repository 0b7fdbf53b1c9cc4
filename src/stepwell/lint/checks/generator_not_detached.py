"""A discriminator's loss that trains the generator, in the wrong direction."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.adversarial import is_by_design, leaks

CHECK = Check(
    code="SW406",
    name="generator-not-detached",
    severity="error",
    certainty="certain",
    looks_for="the output of the generator reaches the discriminator's loss with its graph, and the generator's "
    "optimizer steps before these gradients are cleared",
    why="the generator is updated by the discriminator's loss too, which teaches it to make fakes that are easy "
    "to tell apart",
    instead="detach the fake: discriminator(fake.detach())",
    silent_when="the generator's gradients are reset before its step (SW407), its parameters are frozen meanwhile, "
    "or one optimizer has both networks",
    example_bad="""fake = generator(z)
optimizer_d.zero_grad()
optimizer_g.zero_grad()
loss_d = bce(discriminator(fake), zeros) + bce(discriminator(real), ones)
loss_d.backward(retain_graph=True)
optimizer_d.step()
loss_g = bce(discriminator(fake), ones)
loss_g.backward()
optimizer_g.step()""",
    example_good="""fake = generator(z)
optimizer_d.zero_grad()
loss_d = bce(discriminator(fake.detach()), zeros) + bce(discriminator(real), ones)
loss_d.backward()
optimizer_d.step()
optimizer_g.zero_grad()
loss_g = bce(discriminator(fake), ones)
loss_g.backward()
optimizer_g.step()""",
    reference="https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in leaks(script):
        one = places[0]
        if all(place.again is not None and place.update is None for place in places):
            assert one.again is not None
            yield script.finding(
                CHECK,
                one.backward.node,
                f"the discriminator's loss goes back through {one.generator.name} and frees its graph, which the "
                f"backward pass of line {one.again.line} needs: it will raise a RuntimeError",
                [
                    (one.forward.node, f"{one.generator.name} makes the fake, with its graph"),
                    (one.again.node, "this backward pass goes through the same graph"),
                ],
            )
        elif all(place.update is not None for place in places) and not is_by_design(script, one.backward):
            assert one.update is not None
            yield script.finding(
                CHECK,
                one.backward.node,
                f"the gradients of the discriminator's loss reach {one.generator.name}, and the step of line "
                f"{one.update.line} uses them",
                [
                    (one.forward.node, f"{one.generator.name} makes the fake, with its graph"),
                    (one.step.node, "this step is the discriminator's"),
                    (one.update.node, "this step uses what was left behind"),
                ],
            )


def _gan(body: str, head: str = "") -> str:
    make = """import torch
generator, discriminator = torch.nn.Linear(8, 4), torch.nn.Linear(4, 1)
optimizer_g = torch.optim.Adam(generator.parameters())
optimizer_d = torch.optim.Adam(discriminator.parameters())
bce = torch.nn.BCEWithLogitsLoss()
"""
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{make}{head}for real, z in loader:\n{inner}"


BAD = (
    _gan(CHECK.example_bad.replace("retain_graph=True)", "retain_graph=True)  # expect")),
    _gan(CHECK.example_good.replace(".detach()", "").replace("loss_d.backward()", "loss_d.backward()  # expect")),
    _gan(
        """optimizer_g.zero_grad()
for _ in range(1):
    optimizer_d.zero_grad()
    fake = generator(z)
    loss_d = bce(discriminator(fake), zeros) + bce(discriminator(real), ones)
    loss_d.backward()  # expect
    optimizer_d.step()
loss_g = bce(discriminator(generator(z)), ones)
loss_g.backward()
optimizer_g.step()"""
    ),
    """
import torch
class GAN:
    def __init__(self):
        self.G, self.D = torch.nn.Linear(8, 4), torch.nn.Linear(4, 1)
        self.opt_g = torch.optim.Adam(self.G.parameters())
        self.opt_d = torch.optim.Adam(self.D.parameters())
    def train_d(self, real, fake):
        self.opt_d.zero_grad()
        loss = (1 - self.D(real)).mean() + self.D(fake).mean()
        loss.backward(retain_graph=True)  # expect
        self.opt_d.step()
    def fit(self, loader):
        for real in loader:
            self.opt_g.zero_grad()
            fake = self.G(torch.randn(4, 8))
            self.train_d(real, fake)
            loss = (1 - self.D(fake)).mean()
            loss.backward()
            self.opt_g.step()
""",
    """
import torch
netG, netD = Generator(), Discriminator()
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-4)
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-4)
class Unused(torch.nn.Module):
    pass
""".replace("Generator()", "torch.nn.Linear(8, 4)").replace("Discriminator()", "torch.nn.Linear(4, 1)")
    + """
for epoch in range(5):
    for i, data in enumerate(dataloader):
        netD.zero_grad()
        netG.zero_grad()
        fake = netG(noise)
        errD_real = criterion(netD(data), real_label)
        errD_real.backward()
        errD_fake = criterion(netD(fake), fake_label)
        errD_fake.backward(retain_graph=True)  # expect
        optimizerD.step()
        errG = criterion(netD(fake), real_label)
        errG.backward()
        optimizerG.step()
""",
    _gan(
        """optimizer_d.zero_grad()
loss_d = discriminator(generator(z)).mean() - discriminator(real).mean()
loss_d.backward()  # expect
optimizer_d.step()
if step % 5 == 0:
    loss_g = -discriminator(generator(z)).mean()
    loss_g.backward()
    optimizer_g.step()
    optimizer_g.zero_grad()"""
    ),
)
GOOD = (
    _gan(CHECK.example_good),
    _gan(
        CHECK.example_bad.replace("optimizer_g.zero_grad()\n", "").replace(
            "loss_g = ", "optimizer_g.zero_grad()\nloss_g = "
        )
    ),
    _gan(CHECK.example_bad.replace("generator(z)", "generator(z).data")),
    _gan("for p in generator.parameters():\n    p.requires_grad = False\n" + CHECK.example_bad),
    _gan(
        "with torch.no_grad():\n    fake = generator(z)\n"
        + CHECK.example_bad.replace("fake = generator(z)\n", "").replace(
            "\nloss_g = bce(discriminator(fake)", "\nloss_g = bce(discriminator(generator(z))"
        )
    ),
    """
import torch
encoder, decoder = torch.nn.Linear(8, 4), torch.nn.Linear(4, 1)
encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
decoder_optimizer = torch.optim.SGD(decoder.parameters(), lr=0.01)
for x, y in loader:
    encoder_optimizer.zero_grad()
    decoder_optimizer.zero_grad()
    loss = (decoder(encoder(x)) - y).abs().mean() + decoder(y).mean()
    loss.backward()
    decoder_optimizer.step()
    encoder_optimizer.step()
""",
    _gan(
        CHECK.example_bad.replace("optimizer_g.zero_grad()\n", "").replace(
            "loss_g = ", "generator.zero_grad()\nloss_g = "
        )
    ),
)
