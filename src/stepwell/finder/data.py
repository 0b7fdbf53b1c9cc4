"""Batches for the sweeps, from a separate iterator, so that the user's iteration over the loader is not advanced."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import torch

from stepwell.arguments import refusal
from stepwell.errors import UsageError
from stepwell.streams import endless

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]

MANY = 10**12  # batches; a list that claims more is broken
_PASS = 1_000_003  # a prime: (order, pass) pairs give different seeds


def check(batches: Any, accumulate: int) -> None:
    """Raise UsageError for batches that the finder would use up, or that are too short."""
    if isinstance(batches, Iterator):
        raise UsageError(
            f"find_lr: batches is a {type(batches).__name__}, which the finder would use up; pass the loader itself, "
            "or a function seed -> batches"
        )
    no_batches = isinstance(batches, (str, bytes, bytearray, memoryview, Mapping, Set, type, torch.nn.Module))
    if no_batches or (not callable(batches) and not isinstance(batches, Iterable)):
        raise UsageError(
            f"find_lr: batches is a {type(batches).__name__}; pass a loader, or a function seed -> batches"
        )
    try:
        length = len(batches)
    except TypeError:
        return
    except Exception as error:  # a loader whose length cannot be told: the message is its own
        raise refusal("find_lr", "batches", batches, f"a loader or a list ({type(error).__name__} of len())") from error
    if length > MANY:
        raise UsageError(f"find_lr: batches claims to have {length} batches; give a loader or a list with fewer")
    if length < accumulate:
        raise UsageError(
            f"find_lr: the loader has {length} batches, fewer than one accumulation of {accumulate}; give it more data"
        )


def generators_of(batches: Any) -> dict[str, torch.Generator]:
    """The generators of a DataLoader and its samplers."""
    holders = [batches, *(getattr(batches, name, None) for name in ("sampler", "batch_sampler"))]
    holders.append(getattr(holders[-1], "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return {str(i): g for i, g in enumerate(found) if isinstance(g, torch.Generator)}


_INSIDE = ("sampler", "batch_sampler", "dataset", "transform")  # of a DataLoader, its samplers and data sets


def sources_of(batches: Any) -> list[Any]:
    """The loader, its samplers, its data set and transform, as far as they can have state."""
    found: dict[int, Any] = {}
    waiting = [batches]
    while waiting:
        source = waiting.pop()
        if id(source) in found or not hasattr(source, "__dict__") or isinstance(source, (type, torch.nn.Module)):
            continue
        found[id(source)] = source
        waiting += [vars(source).get(name) for name in _INSIDE]
    return list(found.values())


def stream(batches: Any, order: int) -> Iterator[Any]:
    """Endless batches: pass after pass, reshuffled by `order` if the source shuffles or is a list.

    Raises UsageError if a pass holds no batch.
    """
    return endless(
        lambda seed: _one_pass(batches, seed),
        order,
        _PASS,
        "find_lr: the loader gives no batch; pass a loader with data",
    )


def _one_pass(batches: Any, seed: int) -> Iterable[Any]:
    if isinstance(batches, Sequence):
        return random.Random(seed).sample(batches, len(batches))
    if not isinstance(batches, Iterable):
        given = batches(seed)
        if not isinstance(given, Iterable):
            raise UsageError(
                f"find_lr: batches(seed) returned a {type(given).__name__}; it must return a loader or a list"
            )
        return given
    for generator in generators_of(batches).values():
        generator.manual_seed(seed)
    if not hasattr(batches, "dataset"):  # no DataLoader, whose iter() starts workers
        try:
            return iter(batches)
        except TypeError as error:
            raise refusal("find_lr", "batches", batches, "a loader, a list, or a function seed -> batches") from error
    if getattr(batches, "persistent_workers", False):  # its iter() would start the user's own iterator over
        return batches._get_iterator()  # type: ignore[attr-defined]
    return batches
