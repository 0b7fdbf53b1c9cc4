"""Adam against AdamW: the norm of the weights over time, at the same weight_decay.

Adam adds weight_decay * p to the gradient and then divides by the running size of the gradient. AdamW shrinks the
weights by lr * weight_decay * p. So the same number means two things, and which weights are smaller depends on the
size of the gradients. A network learns digits until its gradients are tiny, at three values of weight_decay.
"""

from __future__ import annotations

import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn

import stepwell as sw
from stepwell.tasks import digits

LR = 1e-3


def network() -> nn.Module:
    """A network without norm layers, so that the size of the weights matters to the loss."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def norm(weights: list[Tensor]) -> float:
    """The Euclidean norm of all weights together."""
    return float(torch.stack([w.detach().square().sum() for w in weights]).sum().sqrt())


def train(make: type[sw.Optimizer], weight_decay: float, updates: int) -> dict[str, list[float]]:
    """The norm of the weights after every 10 updates, and the accuracy at the end."""
    model = network()
    weights = [p for p in model.parameters() if p.ndim == 2]
    # Biases do not decay: the groups are the same for both optimizers.
    step = sw.Step(make(sw.groups.by_role(model, lr=LR, weight_decay=weight_decay)))
    stream = digits.task.stream(0)
    log: dict[str, list[float]] = {"number": [], "norm": [], "loss": []}
    for number in range(updates):
        done = step(digits.loss(model, next(stream)))
        if number % 10 == 0:
            log["number"].append(number)
            log["norm"].append(norm(weights))
            log["loss"].append(done.loss or 0.0)
    log["accuracy"] = [digits.task.measure(model)]
    return log


def main() -> None:
    chosen = options(__doc__)
    updates, decays = (150, [0.01, 1.0]) if chosen.quick else (1500, [1e-3, 1e-2, 1.0])
    figure, (norms, losses) = panels(1, 2, (11, 4.4))
    start = [p for p in network().parameters() if p.ndim == 2]
    numbers: dict[str, float] = {"norm at the start": round(norm(start), 3)}
    for color, decay in zip(COLORS, decays, strict=False):
        for make, style in ((sw.Adam, "--"), (sw.AdamW, "-")):
            log = train(make, decay, updates)
            name = f"{make.__name__}, weight_decay {decay:g}"
            norms.plot(log["number"], log["norm"], color=color, linestyle=style, label=name)
            losses.plot(log["number"], log["loss"], color=color, linestyle=style)
            numbers[f"{name}, norm"] = round(log["norm"][-1], 3)
            numbers[f"{name}, accuracy"] = round(log["accuracy"][0], 4)
    norms.set(title="norm of the weights (dashed: Adam, solid: AdamW)", xlabel="updates", ylim=(0, None))
    norms.legend(fontsize=8)
    losses.set(title="training loss", xlabel="updates", yscale="log")
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
