"""A GAN with two optimizers: a generator learns a ring of eight Gaussians.

Each network has its own optimizer and its own Step. A Step clears the gradients that the backward pass of the other
network left in its parameters, so neither loop line calls zero_grad, and each network is updated by its own loss alone.
"""

from __future__ import annotations

import math

import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn
from torch.nn import functional

import stepwell as sw

MODES, WIDTH, NOISE, BATCH = 8, 0.05, 8, 128


def centers() -> Tensor:
    """The means [8, 2] of the Gaussians, on a circle of radius 1."""
    angle = 2 * math.pi * torch.arange(MODES) / MODES
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def real(count: int) -> Tensor:
    """Samples [count, 2] of the ring."""
    return centers()[torch.randint(MODES, (count,))] + WIDTH * torch.randn(count, 2)


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
    )


def judged(points: Tensor) -> tuple[int, float]:
    """How many of the Gaussians have at least 2 % of the points within 4 standard deviations, and the share of points
    that are that close to any Gaussian."""
    distance, nearest = torch.cdist(points, centers()).min(dim=1)
    close = distance < 4 * WIDTH
    counts = torch.bincount(nearest[close], minlength=MODES)
    return int((counts >= 0.02 * len(points)).sum()), float(close.float().mean())


def main() -> None:
    chosen = options(__doc__)
    updates = 150 if chosen.quick else 3000
    torch.manual_seed(0)
    generator, critic = network(NOISE, 2), network(2, 1)
    # betas of DCGAN (Radford et al. 1511.06434): momentum 0.5, because the loss of each network moves with the other.
    step_g = sw.Step(sw.Adam(generator.named_parameters(), lr=1e-3, betas=(0.5, 0.999)), model=generator)
    step_d = sw.Step(sw.Adam(critic.named_parameters(), lr=1e-3, betas=(0.5, 0.999)), model=critic)

    fixed = torch.randn(1000, NOISE)
    shots = {round(updates * share) - 1 for share in (0.05, 0.25, 1.0)}
    figure, axes = panels(1, 4, (14, 3.7))
    log: list[tuple[int, float, float, int, float]] = []
    target = real(1000)
    for number in range(updates):
        x, fake = real(BATCH), generator(torch.randn(BATCH, NOISE))
        # The critic: real points up, generated points down. `detach` keeps the generator out of this graph.
        done_d = step_d(functional.softplus(-critic(x)).mean() + functional.softplus(critic(fake.detach())).mean())
        # The generator: its points up (the loss that does not saturate). The critic gets gradients, and no update.
        done_g = step_g(functional.softplus(-critic(fake)).mean())
        if number % 25 == 0 or number == updates - 1:
            with torch.no_grad():
                log.append((number, done_d.loss or 0.0, done_g.loss or 0.0, *judged(generator(fixed))))
        if number in shots:
            axis = axes[len([shot for shot in shots if shot < number])]
            with torch.no_grad():
                points = generator(fixed)
            axis.scatter(*target.T, s=3, color="0.8")
            axis.scatter(*points.T, s=3, color=COLORS[0])
            axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", title=f"after {number + 1} updates")
    at, loss_d, loss_g, modes, share = zip(*log, strict=True)
    axes[3].plot(at, loss_d, color=COLORS[1], label="loss of the critic")
    axes[3].plot(at, loss_g, color=COLORS[2], label="loss of the generator")
    axes[3].plot(at, [m / MODES for m in modes], color=COLORS[0], label="share of Gaussians found")
    axes[3].axhline(math.log(4), color="0.5", linestyle="--", linewidth=1, label="critic that cannot tell, log 4")
    axes[3].set(title="losses, and Gaussians found", xlabel="updates of each", ylim=(0, 2.4))
    axes[3].legend(fontsize=7)
    numbers = {
        "updates of the generator": step_g.number,
        "updates of the critic": step_d.number,
        "Gaussians found, of 8": modes[-1],
        "share of points close to a Gaussian": round(share[-1], 3),
        "loss of the critic": round(loss_d[-1], 3),
        "loss of the generator": round(loss_g[-1], 3),
    }
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
