"""Calls that all ranks of a run must make together: they meet first, so that a missing rank is an error and no hang."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from stepwell.errors import UsageError

PATIENCE = 120.0  # seconds until every rank must have made the call
T = TypeVar("T")

_meetings: dict[Any, int] = {}  # by call and ranks: how many there were; the same in every rank


def meet(
    who: str, what: str, said: str = "", ranks: Sequence[int] | None = None, patience: float | None = None
) -> list[str]:
    """Wait until every rank, or those of `ranks`, has made the call `what`, at most `patience` seconds (`PATIENCE`).
    Returns what each said of it.

    Raises UsageError that names the ranks that did not come.
    """
    store: Any = torch.distributed.distributed_c10d._get_default_store()
    mine = torch.distributed.get_rank()
    ranks = range(torch.distributed.get_world_size()) if ranks is None else ranks
    call = what, tuple(ranks)
    _meetings[call] = number = _meetings.get(call, 0) + 1
    place = f"stepwell/{what}/{min(ranks)} of {len(ranks)}"
    names = [f"{place}/{number}/{rank}" for rank in ranks]
    store.set(f"{place}/{number}/{mine}", said)
    patience = PATIENCE if patience is None else patience
    try:
        store.wait(names, datetime.timedelta(seconds=patience))
    except RuntimeError:  # torch's word for a wait that was too long
        absent = [str(rank) for rank, name in zip(ranks, names, strict=True) if not store.check([name])]
        _meetings[call] = number - 1
        store.delete_key(f"{place}/{number}/{mine}")  # or the next call would find what was said in this one
        raise UsageError(
            f"{who}: every rank must call {what} in this run; after {patience:.0f} seconds rank {', '.join(absent)} "
            f"had not. Call {what} in all ranks, not only `if rank == 0`"
        ) from None
    if number > 1:  # nobody reads what was said the time before: all who would are here
        store.delete_key(f"{place}/{number - 1}/{mine}")
    return [bytes(store.get(name)).decode() for name in names]


def agree(act: Callable[[], T]) -> T:
    """Call `act` in every rank. If it raises in one of them, all ranks raise: the error of the first such rank, as
    OSError if it is one, else as UsageError."""
    results: list[T] = []
    error = None
    try:
        results.append(act())
    except Exception as raised:  # whatever it is, the other ranks must not wait for this one
        error = raised
    said = None if error is None else (str(error), isinstance(error, OSError) and not isinstance(error, UsageError))
    answers: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(answers, said)
    if error is not None:
        raise error
    for rank, answer in enumerate(answers):
        if answer is not None:
            message, of_the_system = answer
            raise (OSError if of_the_system else UsageError)(f"{message} (in rank {rank})")
    return results[0]
