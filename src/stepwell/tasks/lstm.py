"""The bytes of Python's standard library again, read by an LSTM: gates that saturate, and gradients through 64 steps of
time that vanish or explode. No layer normalizes, and nothing clips the gradient.

Reference: S. Hochreiter, J. Schmidhuber, Long short-term memory, 1997; R. Jozefowicz et al., An empirical exploration
of recurrent network architectures, 2015 (the forget gate starts with a bias of 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stepwell.tasks import stdlib_bytes
from stepwell.tasks.byte_windows import BATCH, next_byte_loss
from stepwell.tasks.task import Metric, Task

EMBEDDING, WIDTH = 32, 96


class ByteLSTM(nn.Module):
    """bytes [n, t] (int64) -> logits of the next byte [n, t, 256]; the state starts at zero in every window."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 256)
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[WIDTH : 2 * WIDTH] = 1.0  # input, FORGET, cell, output

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def model(seed: int) -> nn.Module:
    """The LSTM with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ByteLSTM()


task = Task(
    name="lstm",
    summary="the next byte of Python's standard library, an LSTM",
    family="cnn",  # its ranges of learning rates fit small networks
    model=model,
    batches=stdlib_bytes.batches,
    loss=next_byte_loss,
    metric=Metric("held-out loss, nats per byte", "min", stdlib_bytes.held_out_loss),
    steps=1000,
    target=1.8,
    batch_size=BATCH,
    about=stdlib_bytes.task.about,
)
