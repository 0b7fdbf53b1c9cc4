"""A discriminator's loss that goes back through the generator for nothing."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.adversarial import is_by_design, leaks
from stepwell.lint.checks import generator_not_detached as gan

CHECK = Check(
    code="SW407",
    name="generator-graph-wasted",
    severity="note",
    certainty="likely",
    looks_for="the output of the generator reaches the discriminator's loss with its graph, and the generator's "
    "gradients are cleared afterwards",
    why="the backward pass goes through the whole generator, and nothing uses the result: time and memory are lost",
    instead="detach the fake: discriminator(fake.detach())",
    silent_when="the fake is detached or made under no_grad, or a gradient penalty is computed",
    example_bad=gan.CHECK.example_good.replace(".detach()", "").replace(
        "loss_d.backward()", "loss_d.backward(retain_graph=True)"
    ),
    example_good=gan.CHECK.example_good,
    reference="https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in leaks(script):
        one = places[0]
        if all(place.update is None and place.again is None for place in places) and not is_by_design(
            script, one.backward
        ):
            assert one.reset is not None
            if any(event.kind == "grad" and event.function is one.backward.function for event in script.events):
                continue  # a penalty on the gradient at the fake needs its graph
            yield script.finding(
                CHECK,
                one.backward.node,
                f"the discriminator's loss goes back through {one.generator.name}, whose gradients are reset in "
                f"line {one.reset.line}",
                [
                    (one.forward.node, f"{one.generator.name} makes the fake, with its graph"),
                    (one.reset.node, "here the gradients are thrown away"),
                ],
            )


_make = gan._gan
BAD = (
    _make(CHECK.example_bad.replace("retain_graph=True)", "retain_graph=True)  # expect")),
    _make(
        CHECK.example_bad.replace("retain_graph=True)", "retain_graph=True)  # expect").replace(
            "optimizer_g.zero_grad", "generator.zero_grad"
        )
    ),
    _make(
        """loss_d = discriminator(generator(z)).mean() - discriminator(real).mean()
optimizer_d.zero_grad()
loss_d.backward()  # expect
optimizer_d.step()
loss_g = -discriminator(generator(z)).mean()
optimizer_g.zero_grad()
loss_g.backward()
optimizer_g.step()"""
    ),
    gan.BAD[3]
    .replace("            self.opt_g.zero_grad()\n", "")
    .replace("            loss = (1", "            self.opt_g.zero_grad()\n            loss = (1"),
    gan.BAD[4]
    .replace("        netG.zero_grad()\n", "")
    .replace("        errG =", "        netG.zero_grad()\n        errG ="),
)
GOOD = (
    _make(CHECK.example_good),
    _make(gan.CHECK.example_bad),
    gan.GOOD[2],
    gan.GOOD[3],
    _make(CHECK.example_bad).replace(
        "discriminator.parameters()", "[*discriminator.parameters(), *generator.parameters()]"
    ),
)
