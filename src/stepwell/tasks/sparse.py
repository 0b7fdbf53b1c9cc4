"""Embeddings of the words of Python's standard library, by skip-gram with negative sampling. The gradients are sparse.

Both tables are `nn.Embedding(sparse=True)`: a batch touches a few hundred of the 4096 rows, frequent words in every
batch, rare words seldom. So weights, state and weight decay of a row change only when the word occurs, and an optimizer
that adapts a step per element treats rare and frequent words alike. Optimizers whose rule needs whole tensors (those
with matrices or sums) take the same gradient as a dense one.

Data: the names and words in the same files as the task `bytes`, every tenth file held out as a whole; the 4096 most
frequent words of the training files. A pair is a word and one of the two words on each side. Negative words are drawn
with the 3/4 power of their frequency. The metric is the mean loss over 8192 fixed held-out pairs, in nats per pair:
random vectors of length 0 have (1 + NEGATIVES) log 2 = 4.16.

Reference: T. Mikolov et al., Distributed representations of words and phrases and their compositionality, 2013.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.tasks import stdlib_bytes
from stepwell.tasks.task import Metric, Task

BATCH = 256
WORDS, WIDTH = 4096, 64
REACH = 2  # words on each side
NEGATIVES = 5
EVALUATED = 8192  # held-out pairs
_WORD = re.compile(rb"[A-Za-z]{2,}")


@lru_cache(maxsize=1)
def words() -> tuple[Tensor, Tensor, Tensor]:
    """The training text [n] and the held-out text [m] as numbers of words, int64; the chance of a word as negative."""
    train, held_out = (_WORD.findall(part.numpy().tobytes().lower()) for part in stdlib_bytes.text())
    frequent = Counter(train).most_common(WORDS)
    number = {word: index for index, (word, _) in enumerate(frequent)}
    chance = torch.tensor([float(count) for _, count in frequent]) ** 0.75

    def numbers(text: list[bytes]) -> Tensor:
        return torch.tensor([number[word] for word in text if word in number])

    return numbers(train), numbers(held_out), chance / chance.sum()


Batch = tuple[Tensor, Tensor, Tensor]  # words [n], neighbors [n], negatives [n, 5]


def pairs(text: Tensor, count: int, generator: torch.Generator) -> Batch:
    """`count` random pairs of a text, with negatives."""
    at = torch.randint(REACH, len(text) - REACH, (count,), generator=generator)
    offset = torch.randint(1, REACH + 1, (count,), generator=generator)
    side = 2 * torch.randint(2, (count,), generator=generator) - 1
    negatives = torch.multinomial(words()[2], count * NEGATIVES, replacement=True, generator=generator)
    return text[at], text[at + side * offset], negatives.view(count, NEGATIVES)


class SkipGram(nn.Module):
    """words [n], candidates [n, k] -> logits [n, k], the inner products of two tables of vectors."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.word = nn.Embedding(count, WIDTH, sparse=True)
        self.context = nn.Embedding(count, WIDTH, sparse=True)
        nn.init.normal_(self.word.weight, std=0.1)
        nn.init.zeros_(self.context.weight)

    def forward(self, word: Tensor, candidates: Tensor) -> Tensor:
        return (self.context(candidates) @ self.word(word)[:, :, None]).squeeze(2)


def model(seed: int) -> nn.Module:
    """Both tables with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SkipGram(len(words()[2]))


def batches(seed: int) -> Iterator[Batch]:
    """Endless batches of 256 random pairs."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield pairs(words()[0], BATCH, generator)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """An eighth of the sum over the pairs of -log s(u v) - the sum over the negatives of log s(-u v'), in nats; s is
    the sigmoid.

    A part of the sum and not the mean: a row gets its gradient from few of the pairs, so that the mean over all 256
    would leave a plain gradient step without effect at any usual rate. With the sum itself SGD diverged at 0.1.
    """
    return summed(model, batch) / 8


def summed(model: nn.Module, batch: Batch) -> Tensor:
    """The sum over the pairs, in nats."""
    word, neighbor, negatives = batch
    logits = model(word, torch.cat([neighbor[:, None], negatives], dim=1))
    return functional.softplus(-logits[:, 0]).sum() + functional.softplus(logits[:, 1:]).sum()


@lru_cache(maxsize=1)
def held_out_pairs() -> Batch:
    """The pairs of the metric, the same in every run."""
    return pairs(words()[1], EVALUATED, torch.Generator().manual_seed(0))


def held_out_loss(model: nn.Module) -> float:
    """Nats per held-out pair."""
    device = next(model.parameters()).device
    word, neighbor, negatives = held_out_pairs()
    return summed(model, (word.to(device), neighbor.to(device), negatives.to(device))).item() / EVALUATED


task = Task(
    name="sparse",
    summary="word embeddings of Python's standard library, skip-gram with sparse gradients",
    family="cnn",  # its ranges of learning rates fit small networks
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("held-out loss, nats per pair", "min", held_out_loss),
    steps=1500,
    target=2.5,
    batch_size=BATCH,
    about={**stdlib_bytes.task.about, "words": f"the {WORDS} most frequent, {NEGATIVES} negatives for a pair"},
)
