"""Windows of bytes at random places of a text, and the held-out loss of a model that predicts the next byte."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT = 64  # bytes that the model sees
BATCH = 16
EVALUATED = 192  # held-out windows


def random_windows(text: Tensor, seed: int) -> Iterator[Tensor]:
    """Endless batches of windows [16, 65], int64, at random positions of a text [n] of more than 64 bytes, uint8."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.arange(CONTEXT + 1)
    while True:
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        yield text[starts + reach].long()


def next_byte_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Cross entropy of the next byte, nats per byte. The model maps bytes [n, t] to logits [n, t, 256]."""
    return functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def loss_over(model: nn.Module, text: Tensor) -> float:
    """Nats per byte over 192 windows spread evenly over a text [n], uint8."""
    starts = torch.linspace(0, len(text) - CONTEXT - 1, EVALUATED).long()
    windows = text[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return next_byte_loss(model, windows.to(next(model.parameters()).device)).item()
