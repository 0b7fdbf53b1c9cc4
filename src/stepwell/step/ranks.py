"""One checkpoint of several processes: rank 0 writes the common state, every other rank writes its generators to a
second file.

No process waits for another: `if rank == 0: step.save(path)` works, and so does a save on all ranks. At a resume, a
rank finds its own generators by the number of the update. If a rank has no saved generators, they are reseeded from
those of rank 0 and the rank, so that no two ranks draw the same dropout, with a warning.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stepwell.engine.sharding import is_spread
from stepwell.errors import UsageError
from stepwell.step.files import Files, begun_by_first
from stepwell.step.generators import differ_by_rank
from stepwell.step.label import read_label

OF_RANK = ("generators", "passes")  # the parts of a state that each rank has for itself
_FORMAT = "stepwell.rank 1"
_PATIENCE = 2.0  # seconds in which rank 0 begins its save, if it saves to the same path at all


def rank() -> int | None:
    """The rank of this process, or None for a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.distributed.get_rank() if torch.distributed.get_world_size() > 1 else None


def name_of_run() -> str | None:
    """A name that all ranks of a job share; None for a single process."""
    if rank() is None:
        return None
    with contextlib.suppress(Exception):  # the store is torch's own matter
        store = torch.distributed.distributed_c10d._get_default_store()
        return str(store.compare_set("stepwell/run", "", uuid.uuid4().hex).decode())
    return "-".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))


def beside(path: Path, number: int) -> Path:
    """The file of a rank's own state."""
    return path.with_name(f"{path.name}.rank{number}")


def is_anothers(path: Path, run: str, mine: int) -> bool:
    """Whether rank 0 saves to `path`; waits a moment for a save that has not started yet."""
    until = time.monotonic() + _PATIENCE
    while True:
        label = read_label(path)
        if label is not None and label["run"] == run:
            return bool(label.get("rank") != mine)
        if begun_by_first(path):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.02)


def check_same_rank(content: Mapping[str, Any], taken: Path) -> None:
    """Raise UsageError if the parts of a sharded model belong to another rank."""
    mine, theirs = rank() or 0, (read_label(taken) or {}).get("rank") or 0
    name = next((name for name, value in content["model"].items() if is_spread(value)), None)
    if name is not None and mine != theirs:
        raise UsageError(
            f"Step: '{name}' in {taken} is rank {theirs}'s part of a sharded model, and this is rank {mine}; let each "
            "rank save to its own path and load from that path"
        )


def keep_own(path: Path, state: Mapping[str, Any], mine: int, keep: int, run: Files) -> None:
    """Write this rank's part of a save, with its parts of earlier saves that may still be loaded."""
    place = beside(path, mine)
    old = _read(place)
    entries = old["entries"] if old is not None and old["run"] == state["run"] else []
    entries = [one for one in entries if one["number"] != state["number"]]
    entries = [{"number": state["number"], **{part: state[part] for part in OF_RANK}}, *entries][: keep + 1]
    content = {"format": _FORMAT, "run": state["run"], "entries": entries}
    run.save(place, lambda file: torch.save(content, file), 1, mine)


def named(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a Step for a distributed checkpoint, with what each rank has for itself under the name of the rank:
    torch.distributed.checkpoint takes entries of one name for the same in all ranks, and keeps those of one rank."""
    mine = rank()
    if mine is None:
        return state
    return {**state, **{part: {f"rank {mine}": state[part]} for part in OF_RANK}}


def unnamed(state: Any) -> Any:
    """The inverse of `named`. Where nothing was saved for this rank, the generators differ from those of others."""
    if not isinstance(state, Mapping) or not isinstance(state.get("generators"), Mapping):
        return state
    saved = {int(key[5:]): key for key in state["generators"] if _is_name(key)}
    if not saved:
        return state
    mine = rank() or 0
    from_ = mine if mine in saved else min(saved)
    own = {**state, **{part: state[part][saved[from_]] for part in OF_RANK if part in state}}
    return own if from_ == mine else reseeded(own, "the state", mine, from_)


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.startswith("rank ") and key[5:].isdecimal()


def with_own(state: Mapping[str, Any], path: Path, taken: Path) -> Mapping[str, Any]:
    """The state, with the generators and the pass of this rank instead of those of the rank that saved it."""
    mine = rank()
    if mine is None or not isinstance(state, Mapping):
        return state
    theirs = (read_label(taken) or {}).get("rank")
    if theirs == mine:
        return state
    found = _read(beside(path, mine))
    for entry in found["entries"] if found is not None and found["run"] == state.get("run") else ():
        if entry["number"] == state.get("number"):
            return {**state, **{part: entry[part] for part in OF_RANK}}
    if theirs is None and mine == 0:  # saved by a single process: rank 0 goes on in its place
        return state
    return reseeded(state, taken, mine, theirs or 0)


def reseeded(state: Mapping[str, Any], taken: Path | str, mine: int, theirs: int = 0) -> Mapping[str, Any]:
    """The state of another rank, with generators that differ from those of all ranks. Warns that they do."""
    warnings.warn(
        f"Step: {taken} has the random state of rank {theirs}, and none of rank {mine} was saved with it: the "
        "global generators are reseeded from that state and the rank, given generators take the saved state; to "
        "resume bit for "
        "bit, call step.save on every rank",
        UserWarning,
        stacklevel=5,
    )
    return {**state, "generators": differ_by_rank(state["generators"], mine), "passes": _unordered(state.get("passes"))}


def _unordered(passes: Any) -> Any:
    """The position of another rank in its pass, without the order of that rank's samples."""
    if not isinstance(passes, Mapping) or not isinstance(passes.get("open"), Mapping):
        return passes
    return {**passes, "open": {**passes["open"], "order": None, "digest": None}}


def _read(path: Path) -> dict[str, Any] | None:
    """The saved state of a rank, or None without a usable state."""
    if not path.is_file():
        return None
    with contextlib.suppress(Exception):  # whatever a torn file makes torch raise
        found = torch.load(path, map_location="cpu", weights_only=True)
        entries = found["entries"]
        if found["format"] == _FORMAT and all({"number", *OF_RANK} <= one.keys() for one in entries):
            return dict(found)
    return None
