"""A generator and a discriminator over a ring of eight Gaussians: a game of two networks, not a descent.

One module holds both networks and one loss trains both, as simultaneous gradient steps. Each of the two terms reaches
one network only: the discriminator's term sees fake samples without their graph, and the generator's term sees the
discriminator with its parameters detached. So one backward pass gives each network the gradient of one loss only, and
any optimizer over all parameters plays both sides.

Loss of the discriminator: softplus(-D(real)) + softplus(D(fake)) + R1 / 2 times the squared gradient of D at real
points. Loss of the generator: softplus(-D(fake)). The sum says little about progress; read the metric.

Metric: 4096 samples of a fixed noise. A sample is good within 3 standard deviations of the nearest center; a mode is
found if at least 1 % of the samples are good and belong to it. The score is (modes found / 8) times (share of good
samples): 1 is perfect, and a generator that collapsed to one mode gets at most 1/8. Momentum that helps in a descent
may circle here.

References: I. Goodfellow et al., Generative adversarial nets, 2014; L. Metz et al., Unrolled generative adversarial
networks, 2017, section 3.2 (the ring); L. Mescheder et al., Which training methods for GANs do actually converge?,
2018 (the penalty R1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from stepwell.tasks.task import Metric, Task

BATCH = 128
MODES, RADIUS, DEVIATION = 8, 2.0, 0.2
NOISE, WIDTH = 4, 64
PENALTY = 0.1
SAMPLES = 4096
GOOD = 3.0  # standard deviations
FOUND = 0.01  # share of all samples that a mode needs


def centers() -> Tensor:
    """The centers of the modes, [8, 2]."""
    angle = 2 * math.pi * torch.arange(MODES) / MODES
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)


def modes_and_good(points: Tensor) -> tuple[int, float]:
    """The number of modes that the points [n, 2] found, and the share of good points. A point that is not finite is not
    good."""
    distance, mode = torch.cdist(points, centers().to(points)).min(dim=1)
    good = distance <= GOOD * DEVIATION
    counts = torch.bincount(mode[good], minlength=MODES)
    return int((counts >= FOUND * len(points)).sum()), good.float().mean().item()


class Game(nn.Module):
    """The two networks: `generator`, noise [n, 4] -> points [n, 2]; `discriminator`, points [n, 2] -> logits [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = network(NOISE, 2, nn.ReLU())
        self.discriminator = network(2, 1, nn.LeakyReLU(0.2))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def network(inside: int, outside: int, between: nn.Module) -> nn.Module:
    """Three linear layers of width 64."""
    return nn.Sequential(nn.Linear(inside, WIDTH), between, nn.Linear(WIDTH, WIDTH), between, nn.Linear(WIDTH, outside))


def model(seed: int) -> nn.Module:
    """Both networks with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Game()


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of real points [128, 2] and noise [128, 4]."""
    generator, middle = torch.Generator().manual_seed(seed), centers()
    while True:
        mode = torch.randint(MODES, (BATCH,), generator=generator)
        real = middle[mode] + DEVIATION * torch.randn(BATCH, 2, generator=generator)
        yield real, torch.randn(BATCH, NOISE, generator=generator)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The losses of both networks, each with the other network held constant."""
    assert isinstance(model, Game)
    real, noise = batch
    judge = model.discriminator
    fake = model.generator(noise)
    real = real.detach().requires_grad_()
    on_real = judge(real)
    (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    against = softplus(-on_real).mean() + softplus(judge(fake.detach())).mean()
    constant = {name: p.detach() for name, p in judge.named_parameters()}
    toward = softplus(-functional_call(judge, constant, (fake,))).mean()
    return against + PENALTY / 2 * slope.square().sum(dim=1).mean() + toward


def score(model: nn.Module) -> float:
    """(modes found / 8) times (share of good samples)."""
    noise = torch.randn(SAMPLES, NOISE, generator=torch.Generator().manual_seed(0))
    modes, good = modes_and_good(model(noise.to(next(model.parameters()).device)))
    return modes / MODES * good


task = Task(
    name="gan",
    summary="a generator and a discriminator over a ring of eight Gaussians",
    family="cnn",  # its ranges of learning rates fit small networks
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("share of modes found times share of good samples", "max", score),
    steps=2000,
    target=0.65,
    batch_size=BATCH,
    about={"data": f"{MODES} Gaussians of deviation {DEVIATION:g} on a circle of radius {RADIUS:g}, exactly known"},
)
