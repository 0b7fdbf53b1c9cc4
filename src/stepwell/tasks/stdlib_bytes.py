"""Bytes of real source text: a byte-level transformer reads Python's standard library on this machine.

Real text without a download. The files are the library's top-level modules in the order of their names; every
tenth file is held out as a whole. Another Python version has a slightly different text: the report gives the version.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.errors import UsageError
from stepwell.tasks.byte_windows import BATCH, CONTEXT, loss_over, next_byte_loss, random_windows
from stepwell.tasks.task import Metric, Task

WIDTH, HEADS, LAYERS = 64, 4, 2
HOLD_OUT_EVERY = 10
MOST_PER_FILE = 100_000  # bytes: no single file rules the text


@lru_cache(maxsize=1)
def text() -> tuple[Tensor, Tensor]:
    """The training text [n] and the held-out text [m], uint8.

    Raises UsageError if the standard library has no source files (some packaged Pythons remove them).
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(folder.glob("*.py")) if path.stat().st_size > 1000]
    if len(files) < 50:
        raise UsageError(
            f"the task 'bytes' reads the source files of Python's standard library; {folder} has {len(files)} of "
            "them; use a Python with its source files"
        )
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, path in enumerate(files):
        parts[number % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1].append(path.read_bytes()[:MOST_PER_FILE])
    train, held_out = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, held_out


class Block(nn.Module):
    """Pre-norm attention and a GELU feed-forward part, both added to the residual stream [n, t, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.attend(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(n, t, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class ByteTransformer(nn.Module):
    """bytes [n, t] (int64) -> logits of the next byte [n, t, 256]; the head shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.embed.weight, std=0.1)  # 0.02 cost 0.3 nats after 800 steps of AdamW at 1e-2
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.attend, block.mix, block.up, block.down):
                nn.init.normal_(layer.weight, std=0.02)
            for layer in (block.mix, block.down):  # what adds to the stream starts smaller, as in GPT-2
                nn.init.normal_(layer.weight, std=0.02 / (2 * LAYERS) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.blocks(self.embed(x) + self.place[: x.shape[1]])
        return functional.linear(self.norm(stream), self.embed.weight)


def model(seed: int) -> nn.Module:
    """The transformer with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ByteTransformer()


def batches(seed: int) -> Iterator[Tensor]:
    """Endless batches of windows [16, 65], int64, at random positions of the training text."""
    return random_windows(text()[0], seed)


def held_out_loss(model: nn.Module) -> float:
    """Nats per byte over 192 windows spread evenly over the held-out text."""
    return loss_over(model, text()[1])


task = Task(
    name="bytes",
    summary="the next byte of Python's standard library, a small transformer",
    family="transformer",
    model=model,
    batches=batches,
    loss=next_byte_loss,
    metric=Metric("held-out loss, nats per byte", "min", held_out_loss),
    steps=1000,
    target=1.9,
    batch_size=BATCH,
    about={
        "data": f"source text of the standard library of Python {platform.python_version()}, "
        f"every {HOLD_OUT_EVERY}th file held out",
        "context": f"{CONTEXT} bytes",
    },
)
