"""Clipping, watched: the norm of every gradient, and the share of updates that were clipped.

A recurrent network adds two marked numbers of a sequence (Hochreiter and Schmidhuber 1997), trained by SGD at a rate
that is safe and at a rate that is not. Every update of a Step says its norm before clipping and whether it was clipped,
so a limit can be judged while the run trains.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn
from torch.nn import functional

import stepwell as sw

LENGTH, BATCH, RATES = 10, 32, (0.06, 0.12)


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


def train(updates: int, lr: float, seed: int, **clipping: object) -> dict[str, np.ndarray]:
    """The norm, the loss, and whether it was clipped, of every update; nan from an update that was skipped."""
    torch.manual_seed(seed)
    model, generator = Adder(), torch.Generator().manual_seed(100 + seed)
    step = sw.Step(sw.SGD(model.named_parameters(), lr=lr, momentum=0.9), **clipping)
    log = np.full((3, updates), np.nan)
    for number in range(updates):
        x, y = sums(generator)
        done = step(functional.mse_loss(model(x), y))
        if done.skipped:  # the gradient is not finite: the Step changed nothing, and the run is lost
            break
        log[:, number] = done.grad_norm or 0.0, done.loss or 0.0, done.clipped
    return dict(zip(("norm", "loss", "clipped"), log, strict=True))


def main() -> None:
    chosen = options(__doc__)
    updates, seeds = (60, 1) if chosen.quick else (800, 3)
    ways: dict[str, Callable[[], dict[str, object]]] = {
        "no clipping": dict,
        "clip_norm=1": lambda: {"clip_norm": 1.0},
        # The limit is the 10th percentile of the norms so far. Each run needs its own: an AutoClip remembers norms.
        "AutoClip(10)": lambda: {"clip": sw.AutoClip(10)},
    }
    figure, axes = panels(1, 4, (15, 4.0))
    norms, shares, *losses = axes
    numbers: dict[str, object] = {}
    window = max(10, updates // 15)
    kernel = np.ones(window) / window
    for color, (name, clipping) in zip(COLORS, ways.items(), strict=False):
        for axis, lr in zip(losses, RATES, strict=True):
            logs = [train(updates, lr, seed, **clipping()) for seed in range(seeds)]
            log = logs[0]
            for one in logs:
                axis.plot(np.convolve(one["loss"], kernel, "valid"), color=color, linewidth=1)
            if lr == RATES[0]:
                norms.plot(log["norm"], ".", markersize=3, alpha=0.6, color=color)
                shares.plot(np.convolve(log["clipped"], kernel, "valid"), color=color, label=name)
            made = ~np.isnan(log["norm"])
            lost = [int((~np.isnan(one["norm"])).sum()) for one in logs]
            numbers |= {
                f"{name}, lr {lr}, updates until a run was lost": [number for number in lost if number < updates],
                f"{name}, lr {lr}, share clipped": round(float(log["clipped"][made].mean()), 3),
                f"{name}, lr {lr}, median norm": round(float(np.median(log["norm"][made])), 3),
                f"{name}, lr {lr}, largest norm": float(f"{log['norm'][made].max():.3g}"),
                f"{name}, lr {lr}, loss at the end": [float(f"{one['loss'][-window:].mean():.2g}") for one in logs],
            }
    norms.axhline(1.0, color=COLORS[1], linestyle="--", linewidth=1)
    norms.set(title=f"norm before clipping, lr {RATES[0]}", xlabel="updates", yscale="log")
    shares.set(title=f"share clipped, of {window} updates, lr {RATES[0]}", xlabel="updates", ylim=(-0.03, 1.03))
    shares.legend(fontsize=8)
    for axis, lr in zip(losses, RATES, strict=True):
        axis.axhline(1 / 6, color="0.5", linestyle="--", linewidth=1)
        axis.set(title=f"loss, lr {lr} (dashed: always answer 1)", xlabel="updates", yscale="log", ylim=(0.01, 2))
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
