"""A run that is saved inside a pass goes on there: every remaining sample once, in the same order, bit for bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from stepwell.errors import UsageError
from stepwell.optimizers import AdamW
from stepwell.step import Step
from tests.step.small import flat

SAMPLES, BATCH, EPOCHS = 40, 8, 3
LENGTH = SAMPLES // BATCH
X = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(0))


class Noisy(Dataset[Any]):
    """Samples with noise from all three global generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        noise = 0.1 * torch.randn(5) + random.random() + np.random.rand()  # noqa: NPY002
        return X[place] + noise.float(), place


class Stream(IterableDataset[Any]):
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[Any]:
        for place in torch.randperm(SAMPLES, generator=self.generator).tolist():
            yield X[place] + torch.randn(5, generator=self.generator), place


class Own:
    """An iterable that shuffles by itself, with the global generator."""

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(SAMPLES)
        for at in range(0, SAMPLES, BATCH):
            yield X[order[at : at + BATCH]], order[at : at + BATCH]


class Stateful:
    """As torchdata's StatefulDataLoader: it knows itself where it is."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.at = 0
        self.loaded: dict[str, Any] | None = None

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[Any]:
        if self.loaded is None:
            self.order, self.at = torch.randperm(SAMPLES).tolist(), 0
        else:
            self.order, self.at, self.loaded = self.loaded["order"], self.loaded["at"], None
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        while self.at < LENGTH:
            here = torch.tensor(self.order[self.at * BATCH : (self.at + 1) * BATCH])
            self.at += 1
            yield X[here], here

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def pairs(g: torch.Generator) -> Any:
    return list(zip(X.split(BATCH), torch.arange(SAMPLES).split(BATCH), strict=True))


def eager_batches(g: torch.Generator) -> Any:
    class Batches:
        def __iter__(self) -> Iterator[list[int]]:
            return iter([part.tolist() for part in torch.randperm(SAMPLES).split(BATCH)])

        def __len__(self) -> int:
            return LENGTH

    return DataLoader(Noisy(), batch_sampler=Batches())  # type: ignore[arg-type]


def draws(g: torch.Generator, generator: torch.Generator | None) -> Any:
    return RandomSampler(Noisy(), replacement=True, num_samples=SAMPLES, generator=generator)  # type: ignore[arg-type]


LOADERS: dict[str, Any] = {
    "shuffled": lambda g: DataLoader(Noisy(), BATCH, shuffle=True),
    "a generator of its own": lambda g: DataLoader(Noisy(), BATCH, shuffle=True, generator=g),
    "drawn again and again": lambda g: DataLoader(Noisy(), BATCH, sampler=draws(g, g)),
    "drawn again and again, global": lambda g: DataLoader(Noisy(), BATCH, sampler=draws(g, None)),
    "weights": lambda g: DataLoader(Noisy(), BATCH, sampler=WeightedRandomSampler([1.0] * SAMPLES, SAMPLES)),
    "subset": lambda g: DataLoader(Noisy(), BATCH, sampler=SubsetRandomSampler(range(SAMPLES), generator=g)),
    "a sampler that begins at once": eager_batches,
    "in order": lambda g: DataLoader(TensorDataset(X, torch.arange(SAMPLES)), BATCH),
    "batches as samples": lambda g: DataLoader(pairs(g), batch_size=None, shuffle=True, generator=g),
    "a stream": lambda g: DataLoader(Stream(g), BATCH),
    "a list": pairs,
    "shuffling by itself": lambda g: Own(),
    "a state of its own": lambda g: Stateful(),
}


class Run:
    def __init__(self, make: Any, seed: int = 0, accumulate: int = 1) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        self.network = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.3), nn.Linear(7, 1))
        g = torch.Generator().manual_seed(3)
        self.loader = make(g)
        optimizer = AdamW(self.network.named_parameters(), lr=1e-2, backend="eager")
        self.step = Step(optimizer, accumulate=accumulate, ema=0.9, model=self.network, generators={"data": g})
        self.seen: list[list[int]] = []

    def train(self, batch: Any) -> None:
        self.step(self.network(batch[0]).square().mean())
        self.seen.append(batch[1].tolist())

    def go(self, path: Path | None = None, at: int = -1, before: bool = False) -> None:
        """All epochs that remain; saved after (or before) the batch `at` of all, and left there."""
        count = 0
        for _ in range(self.step.passes, EPOCHS):
            for batch in self.step.batches(self.loader):
                if before and count == at:
                    self.step.save(path)  # type: ignore[arg-type]
                    return
                self.train(batch)
                if not before and count == at:
                    self.step.save(path)  # type: ignore[arg-type]
                    return
                count += 1


def check(make: Any, at: int, path: Path, before: bool = False, accumulate: int = 1) -> None:
    whole = Run(make, accumulate=accumulate)
    whole.go()
    first = Run(make, accumulate=accumulate)
    first.go(path, at, before)
    second = Run(make, seed=9, accumulate=accumulate)
    second.step.load(path)
    second.go()
    assert first.seen + second.seen == whole.seen
    assert torch.equal(flat(second.network), flat(whole.network))
    with second.step.averaged(), whole.step.averaged():
        assert torch.equal(flat(second.network), flat(whole.network))
    assert second.step.passes == EPOCHS


@pytest.mark.parametrize("at", [0, 2, LENGTH + 1, LENGTH + 3])
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_a_run_saved_inside_a_pass_goes_on_bit_for_bit(make: Any, at: int, tmp_path: Path) -> None:
    check(make, at, tmp_path / "run.pt")


@pytest.mark.parametrize("at", [0, 2, LENGTH - 1, LENGTH])
@pytest.mark.parametrize("make", [LOADERS["shuffled"], LOADERS["a stream"], LOADERS["a state of its own"]])
def test_a_batch_that_was_not_stepped_on_yet_comes_again(make: Any, at: int, tmp_path: Path) -> None:
    check(make, at, tmp_path / "run.pt", before=True)


def test_accumulated_batches(tmp_path: Path) -> None:
    check(LOADERS["shuffled"], 1, tmp_path / "run.pt", accumulate=2)


def test_saved_twice_in_one_pass(tmp_path: Path) -> None:
    whole = Run(LOADERS["shuffled"])
    whole.go()
    seen: list[list[int]] = []
    for number in range(EPOCHS * LENGTH):
        run = Run(LOADERS["shuffled"], seed=number)
        if number == 0:
            run = Run(LOADERS["shuffled"])
        else:
            run.step.load(tmp_path / "run.pt")
        with_note = number and number % LENGTH == 0
        if with_note:
            with pytest.warns(UserWarning, match="saved at the last batch of a pass"):
                run.go(tmp_path / "run.pt", 0)
        else:
            run.go(tmp_path / "run.pt", 0)
        seen += run.seen
    assert seen == whole.seen
    assert torch.equal(flat(run.network), flat(whole.network))


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("at", [LENGTH + 1])
def test_workers_keep_the_order(at: int, persistent: bool, tmp_path: Path) -> None:
    def make(g: torch.Generator) -> Any:
        data = TensorDataset(X, torch.arange(SAMPLES))
        return DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=persistent)

    check(make, at, tmp_path / "run.pt")


# What users do with the place themselves


@pytest.mark.parametrize("way", ["continue", "islice", "nothing"])
@pytest.mark.parametrize("at", [2, LENGTH + 1, 2 * LENGTH - 1])
def test_a_loop_that_skips_by_itself_sees_each_sample_once(way: str, at: int, tmp_path: Path) -> None:
    whole = Run(LOADERS["shuffled"])
    whole.go()
    first = Run(LOADERS["shuffled"])
    first.go(tmp_path / "run.pt", at)
    second = Run(LOADERS["shuffled"], seed=9)
    second.step.load(tmp_path / "run.pt")
    epoch, skip = divmod(at + 1, LENGTH)
    if skip == 0:  # the pass was over; this says so
        with pytest.warns(UserWarning, match=r"so this is a new pass; count passes with step\.passes, which is 2"):
            batches = second.step.batches(second.loader)
    else:
        batches = second.step.batches(second.loader)
    if way == "islice":
        batches = itertools.islice(batches, skip, None)
    for number, batch in enumerate(batches):
        if way == "continue" and number < skip:
            continue
        second.train(batch)
    for _ in range(epoch + 1, EPOCHS):
        for batch in second.step.batches(second.loader):
            second.train(batch)
    assert first.seen + second.seen == whole.seen
    assert torch.equal(flat(second.network), flat(whole.network))


def test_a_loader_that_was_cut_by_hand_is_not_cut_twice(tmp_path: Path) -> None:
    class Cut:
        def __init__(self, sampler: Any, skip: int) -> None:
            self.sampler, self.skip = sampler, skip

        def __iter__(self) -> Iterator[Any]:
            return itertools.islice(iter(self.sampler), self.skip, None)

        def __len__(self) -> int:
            return len(self.sampler) - self.skip

    whole = Run(LOADERS["shuffled"])
    whole.go()
    first = Run(LOADERS["shuffled"])
    first.go(tmp_path / "run.pt", LENGTH + 2)
    second = Run(LOADERS["shuffled"], seed=9)
    second.step.load(tmp_path / "run.pt")
    cut = DataLoader(Noisy(), batch_sampler=Cut(second.loader.batch_sampler, 3))  # type: ignore[arg-type]
    for loader in (cut, second.loader):
        for batch in second.step.batches(loader):
            second.train(batch)
    assert first.seen + second.seen == whole.seen


def test_a_break_ends_a_pass_and_an_exception_does_not(tmp_path: Path) -> None:
    first = Run(LOADERS["shuffled"])
    for batch in first.step.batches(first.loader):
        first.train(batch)
        break
    first.step.save(tmp_path / "run.pt")
    for batch in first.step.batches(first.loader):
        first.train(batch)
    second = Run(LOADERS["shuffled"], seed=9)
    second.step.load(tmp_path / "run.pt")
    for batch in second.step.batches(second.loader):
        second.train(batch)
    assert first.seen[1:] == second.seen
    assert len(second.seen) == LENGTH

    whole = Run(LOADERS["shuffled"])
    whole.go()
    third = Run(LOADERS["shuffled"])
    try:
        for number, batch in enumerate(third.step.batches(third.loader)):
            if number == 2:
                raise KeyboardInterrupt
            third.train(batch)
    except KeyboardInterrupt:
        third.step.save(tmp_path / "stopped.pt")
    fourth = Run(LOADERS["shuffled"], seed=9)
    fourth.step.load(tmp_path / "stopped.pt")
    fourth.go()
    assert third.seen + fourth.seen == whole.seen
    assert torch.equal(flat(fourth.network), flat(whole.network))


def test_two_steps_take_turns_on_one_batch(tmp_path: Path) -> None:
    """The critic's step counts, too: a batch on which only it has stepped does not come again."""

    def run(saved_at: int | None, path: Path) -> list[int]:
        one = Run(LOADERS["in order"], seed=1 if saved_at is None else 0)
        critic = nn.Linear(5, 1)
        critics = Step(AdamW(critic.named_parameters(), lr=0.01, backend="eager"), model=critic)
        if saved_at is None:
            one.step.load(path)
        seen = []
        for number, batch in enumerate(one.step.batches(one.loader)):
            critics(critic(batch[0]).square().mean())
            seen.append(int(batch[1][0]))
            if number == saved_at:
                one.step.save(path)
                break
        return seen

    head = run(1, tmp_path / "run.pt")
    assert head + run(None, tmp_path / "run.pt") == list(range(0, SAMPLES, BATCH))


# Refusals


def stream(generator: torch.Generator | None = None) -> Iterator[Any]:
    while True:
        yield torch.randn(4, 5, generator=generator), torch.zeros(1)


def test_a_stream_from_a_saved_generator_loses_no_batch(tmp_path: Path) -> None:
    def run(path: Path | None, stop: int, load: Path | None = None) -> Run:
        one = Run(lambda g: stream(g), seed=9 if load else 0)
        if load:
            one.step.load(load)
        for batch in one.step.batches(one.loader):
            one.train(batch)
            if one.step.number == stop:
                if path is not None:
                    one.step.save(path)
                return one
        raise AssertionError

    whole = run(None, 9)
    run(tmp_path / "run.pt", 4)
    assert torch.equal(flat(run(None, 9, tmp_path / "run.pt").network), flat(whole.network))


FAULTS: dict[str, tuple[Any, str]] = {
    "an iterator": (lambda g: iter(pairs(g)), "over an iterator, which cannot be restarted"),
    "a wrapped loader": (
        lambda g: (batch for batch in DataLoader(TensorDataset(X, torch.arange(SAMPLES)), BATCH, shuffle=True)),
        "over an iterator",
    ),
    "a stream from the global generator": (lambda g: stream(), "drawn from torch's global generator"),
    "a loader inside another": (lambda g: Inside(g), "drawn from .* global generator"),
}


class Inside:
    def __init__(self, g: torch.Generator) -> None:
        self.loader = DataLoader(Noisy(), BATCH, shuffle=True)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


@pytest.mark.parametrize("case", FAULTS)
def test_a_pass_that_could_not_go_on_is_not_saved(case: str, tmp_path: Path) -> None:
    make, message = FAULTS[case]
    run = Run(make)
    with pytest.raises(UsageError, match=f"this pass could not be resumed from a checkpoint: .*{message}") as caught:  # noqa: PT012
        for number, batch in enumerate(run.step.batches(run.loader)):
            run.train(batch)
            if number == 3:
                run.step.save(tmp_path / "run.pt")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    run.step.save(tmp_path / "run.pt")  # between two passes it is


OTHERS: dict[str, tuple[Any, Any, str]] = {
    "longer": (
        LOADERS["shuffled"],
        lambda g: DataLoader(TensorDataset(X.repeat(3, 1)), BATCH, shuffle=True),
        "a pass of 5 batches, and this loader has 15",
    ),
    "another kind": (LOADERS["shuffled"], pairs, "over a DataLoader, and this is an iterable"),
    "not shuffled": (LOADERS["shuffled"], lambda g: DataLoader(Noisy(), BATCH), "draws another order"),
    "other content": (pairs, lambda g: [(x + 1, y) for x, y in pairs(g)], "differs from that of the saved run"),
    "another order": (pairs, lambda g: pairs(g)[::-1], "differs from that of the saved run"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_loader_than_the_saved_one_is_refused(case: str, tmp_path: Path) -> None:
    make, other, message = OTHERS[case]
    first = Run(make)
    first.go(tmp_path / "run.pt", 0)
    second = Run(other, seed=9)
    second.step.load(tmp_path / "run.pt")
    drawn = torch.get_rng_state()
    with pytest.raises(UsageError, match=message) as caught:
        second.step.batches(second.loader)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), drawn)
    anew = second.step.batches(second.loader, resume=False)
    assert len(list(anew)) in (LENGTH, 15)


def test_two_passes_at_once(tmp_path: Path) -> None:
    run = Run(pairs)
    for one, _ in zip(run.step.batches(run.loader), run.step.batches(pairs(torch.Generator())), strict=True):
        run.train(one)
        if len(run.seen) == 2:
            with pytest.raises(UsageError, match="two passes are open at the same time"):
                run.step.save(tmp_path / "run.pt")


@pytest.mark.parametrize("change", ["taken", "held", "began", "kind"])
def test_a_damaged_record_of_a_pass_is_refused(change: str) -> None:
    first = Run(LOADERS["shuffled"])
    for batch in first.step.batches(first.loader):
        first.train(batch)
        state = first.step.state_dict()
        break
    wrong: Any = {"taken": -1, "held": [], "began": {}, "kind": "none"}[change]
    state["passes"]["open"][change] = wrong
    other = Run(LOADERS["shuffled"], seed=1)
    before = flat(other.network)
    with pytest.raises(UsageError, match=r"of the checkpoint are (damaged|incomplete)"):
        other.step.load_state_dict(state)
    assert torch.equal(flat(other.network), before)
    assert other.step.number == 0
