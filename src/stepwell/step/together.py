"""Calls that all ranks of a run must make together: they meet first, so that a missing rank is an error and no hang."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from stepwell.errors import UsageError

PATIENCE = 120.0  # seconds until every rank must have made the call
T = TypeVar("T")

_meetings: dict[str, int] = {}  # by call: how many there were; the same in every rank


def meet(what: str, said: str) -> list[str]:
    """Wait until every rank has made the call. Returns what each said of it, by rank.

    Raises UsageError that names the ranks that did not come.
    """
    store: Any = torch.distributed.distributed_c10d._get_default_store()
    mine, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    _meetings[what] = number = _meetings.get(what, 0) + 1
    names = [f"stepwell/{what}/{number}/{rank}" for rank in range(size)]
    store.set(names[mine], said)
    try:
        store.wait(names, datetime.timedelta(seconds=PATIENCE))
    except RuntimeError:  # torch's word for a wait that was too long
        absent = [str(rank) for rank, name in enumerate(names) if not store.check([name])]
        _meetings[what] = number - 1
        raise UsageError(
            f"Step: the model is sharded, so every rank must call {what}; after {PATIENCE:.0f} seconds rank "
            f"{', '.join(absent)} had not. Call step.{what} in all ranks, not only `if rank == 0`"
        ) from None
    return [bytes(store.get(name)).decode() for name in names]


def agree(act: Callable[[], T]) -> T:
    """Call `act` in every rank. If it raises in one of them, all ranks raise: the error of the first such rank."""
    results: list[T] = []
    error = None
    try:
        results.append(act())
    except Exception as raised:  # whatever it is, the other ranks must not wait for this one
        error = raised
    said = _first_error(error)
    if error is not None:
        raise error
    if said is not None:
        raise UsageError(said)
    return results[0]


def _first_error(error: Exception | None) -> str | None:
    """The message of the first rank with an error, or None; the same in every rank."""
    messages: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(messages, None if error is None else str(error))
    rank = next((rank for rank, message in enumerate(messages) if message is not None), None)
    return None if rank is None else f"{messages[rank]} (in rank {rank})"
