"""Clipping, watched: the norm of every gradient, and the share of updates that were clipped.

A recurrent network adds two marked numbers of a sequence (Hochreiter and Schmidhuber 1997), trained by SGD. Its
gradient has a heavy tail: most norms are small, and a few are many times larger. Every update of a Step says its norm
before clipping and whether it was clipped, so a limit can be judged while the run goes.
"""

from __future__ import annotations

import numpy as np
import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn
from torch.nn import functional

import stepwell as sw

LENGTH, BATCH, LR = 30, 32, 0.05


def sums(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences [batch, length, 2] of random numbers and two marks, and the sum of the marked numbers [batch]."""
    numbers = torch.rand(BATCH, LENGTH, generator=generator)
    marks = torch.zeros(BATCH, LENGTH)
    first = torch.randint(LENGTH // 2, (BATCH, 1), generator=generator)
    second = torch.randint(LENGTH // 2, LENGTH, (BATCH, 1), generator=generator)
    marks.scatter_(1, torch.cat([first, second], 1), 1.0)
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1)


class Adder(nn.Module):
    """A plain recurrent network whose last state gives the sum. Its recurrent matrix starts as a rotation, so that
    gradients reach the first number."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.RNN(2, 32, batch_first=True)
        nn.init.orthogonal_(self.recurrent.weight_hh_l0)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1]).squeeze(1)


def train(updates: int, **clipping: object) -> dict[str, np.ndarray]:
    """The norm, the loss, and whether each update was clipped."""
    torch.manual_seed(0)
    model, generator = Adder(), torch.Generator().manual_seed(1)
    step = sw.Step(sw.SGD(model.named_parameters(), lr=LR, momentum=0.9), **clipping)
    log: list[tuple[float, float, bool]] = []
    for _ in range(updates):
        x, y = sums(generator)
        done = step(functional.mse_loss(model(x), y))
        log.append((done.grad_norm or 0.0, done.loss or 0.0, done.clipped))
    norms, losses, clipped = (np.array(column) for column in zip(*log, strict=True))
    return {"norm": norms, "loss": losses, "clipped": clipped}


def main() -> None:
    chosen = options(__doc__)
    updates = 120 if chosen.quick else 1500
    ways = {
        "no clipping": {},
        "clip_norm=1": {"clip_norm": 1.0},
        "AutoClip(10): the 10th percentile": {"clip": sw.AutoClip(10)},
        "AutoClip(90): the 90th percentile": {"clip": sw.AutoClip(90)},
    }
    figure, (norms, shares, losses) = panels(1, 3, (13, 4.2))
    numbers: dict[str, float] = {}
    window = max(10, updates // 15)
    for color, (name, clipping) in zip(COLORS, ways.items(), strict=False):
        log = train(updates, **clipping)
        kernel = np.ones(window) / window
        norms.plot(log["norm"], ".", markersize=2, alpha=0.5, color=color)
        shares.plot(np.convolve(log["clipped"], kernel, "valid"), color=color, label=name)
        losses.plot(np.convolve(log["loss"], kernel, "valid"), color=color)
        numbers |= {
            f"{name}, share clipped": round(float(log["clipped"].mean()), 3),
            f"{name}, median norm": round(float(np.median(log["norm"])), 3),
            f"{name}, largest norm": round(float(log["norm"].max()), 2),
            f"{name}, loss at the end": round(float(log["loss"][-window:].mean()), 4),
        }
    norms.axhline(1.0, color=COLORS[1], linestyle="--", linewidth=1)
    norms.set(title="norm before clipping, every update", xlabel="updates", yscale="log")
    shares.set(title=f"share clipped, of {window} updates", xlabel="updates", ylim=(-0.03, 1.03))
    shares.legend(fontsize=8)
    losses.axhline(1 / 6, color="0.5", linestyle="--", linewidth=1)
    losses.set(title=f"loss, mean of {window} (dashed: always answer 1)", xlabel="updates", yscale="log")
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
