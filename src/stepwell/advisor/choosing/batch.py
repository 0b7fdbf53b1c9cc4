"""The batch size, and how it is reached: devices and accumulation."""

from __future__ import annotations

import math

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground


def choose(ground: Ground, micro_batch: int | None = None) -> dict[str, Choice]:
    """batch_size (of one update) and accumulate (micro-batches per update)."""
    one = ground.situation
    if one.batch_size is not None:
        batch = Choice(one.batch_size, f"given, in {one.batch_unit or 'samples'}", (), "high")
    else:
        votes = ground.votes(
            lambda row: row.batch_size if row.batch_is_global and row.batch_unit == "samples" else None,
            lambda line: line.per,
        )
        if votes and votes[0].share > 0.2:
            batch = Choice(float(votes[0].value), "not given: assumed as published near this", votes[0].sources, "low")  # type: ignore[arg-type]
        else:
            batch = Choice(None, "not given, and near configurations disagree", (), "low")
    size = one.batch_in_samples
    if micro_batch is None or size is None:
        said = "the whole batch in one pass; a small batch needs no accumulation (2507.07101)"
        return {"batch_size": batch, "accumulate": Choice(1, said, (), "medium", "memory: give micro_batch")}
    passes = max(1, math.ceil(size / (micro_batch * one.devices)))
    said = f"{size:g} samples as {passes} micro-batches of at most {micro_batch} on {one.devices} device(s)"
    return {"batch_size": batch, "accumulate": Choice(passes, said, (), "high", "memory or devices")}
