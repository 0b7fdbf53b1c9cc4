"""The checkpoint of a sharded model: a folder that all ranks write together, and that any number of ranks can load.

    rank0.pt, rank1.pt, ...     the state of the Step, with the generators of the rank, in the form of every checkpoint
                                file; in place of a sharded tensor it has the name of the tensor
    .metadata, __0_0.distcp ... the sharded tensors, by name, as torch.distributed.checkpoint writes them

The folder is written under another name, forced to disk, and renamed when every rank has finished. So the folder at
`path` is always complete. Earlier checkpoints get numbers, as with files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.engine import sharding, together
from stepwell.engine.divided import saved as divided
from stepwell.engine.sharded_codes import empty_codes, fits_whole
from stepwell.engine.update import innermost
from stepwell.errors import UsageError
from stepwell.step import ranks
from stepwell.step.files import Files, alone, before, failed, numbered, sync_folder
from stepwell.step.names import bare

_FORMAT = "stepwell.sharded 1"
_MARK = "stepwell.tensor"  # the key of what stands for a sharded tensor: its name, shape and dtype
_DAY = 86_400.0


def is_sharded(weights: Mapping[str, Any]) -> bool:
    """Whether each rank has a part of a model with these weights."""
    return any(isinstance(value, Tensor) and sharding.is_cut(value) for value in weights.values())


# Saving


def save(files: Files, path: Path, content: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint folder to `path`. Every rank calls this, with the same path."""
    import torch.distributed.checkpoint as dcp

    mine = torch.distributed.get_rank()
    temporary = path.with_name(f".{path.name}.{files.run}.part")
    tensors: dict[str, Tensor] = {}
    rest = _without_tensors(content, "", tensors)

    def begin() -> None:
        if mine == 0:
            _refuse_strangers(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path, files.run)
            temporary.mkdir()

    def write_own() -> None:
        label = {"format": _FORMAT, "run": files.run, "ranks": torch.distributed.get_world_size(), "content": rest}
        with open(temporary / f"rank{mine}.pt", "wb") as file:
            torch.save(label, file)
            file.flush()
            os.fsync(file.fileno())

    def finish() -> None:
        if mine == 0:
            sync_folder(temporary)
            with alone(path.parent):
                _put(temporary, path, files.run, keep)
            sync_folder(path.parent)

    try:
        together.agree(begin)
        together.agree(write_own)
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(temporary, sync_files=True))
        together.agree(finish)
    except OSError as error:
        if isinstance(error, UsageError):
            raise
        raise failed(path, error) from error
    except dcp.api.CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise failed(path, reason if isinstance(reason, OSError) else OSError(str(reason))) from error
    files.fresh = False


def _without_tensors(value: Any, name: str, found: dict[str, Tensor]) -> Any:
    """A copy of a checkpoint in which names stand for tensors that are spread over processes; these go into `found`."""
    if isinstance(value, Tensor):
        if not sharding.is_spread(value):
            return value
        found[name] = value.detach()
        return {_MARK: name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {key: _without_tensors(item, f"{name}/{key}", found) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_tensors(item, f"{name}/{place}", found) for place, item in enumerate(value))
    return value


def _refuse_strangers(path: Path) -> None:
    """Raise UsageError if `path` is something that no sharded save has written."""
    if os.path.lexists(path) and (path.is_symlink() or not is_folder(path)):
        raise UsageError(
            f"Step: {path} was not written by step.save of a sharded model and is not replaced; give another name"
        )


def is_folder(path: Path) -> bool:
    """Whether this is a checkpoint folder, complete or damaged."""
    return path.is_dir() and (path / "rank0.pt").is_file()


def _run_of(path: Path) -> str | None:
    """The run that wrote a folder, or None if that cannot be read."""
    with contextlib.suppress(Exception):  # whatever a torn file makes torch raise
        return str(torch.load(path / "rank0.pt", map_location="meta", weights_only=True)["run"])
    return None


def _remove_leftovers(path: Path, run: str) -> None:
    """Remove folders of saves that were killed: those of this run, and those that nobody has touched for a day."""
    for one in path.parent.glob(f".{path.name}.*.part"):
        with contextlib.suppress(OSError):
            if one.name.startswith(f".{path.name}.{run}.") or time.time() - one.stat().st_mtime > _DAY:
                shutil.rmtree(one)


def _put(temporary: Path, path: Path, run: str, keep: int) -> None:
    """Give the new folder its name, and earlier checkpoints of this run their numbers. Others stay where they are."""
    old: list[Path] = []
    if os.path.lexists(path) and _run_of(path) != run:  # another run's is kept under the first free number
        number = 1
        while os.path.lexists(before(path, number)):
            number += 1
        os.rename(path, before(path, number))
    elif os.path.lexists(path):
        names, mine = numbered(path, keep, lambda one: is_folder(one) and _run_of(one) == run)
        chain = [path, *mine]  # newest first
        for place, one in enumerate(chain[keep - 1 :]):
            old.append(path.with_name(f".{path.name}.{run}.{place}.old.part"))
            os.rename(one, old[-1])
        for source, target in reversed(list(zip(chain[: keep - 1], names, strict=False))):
            if source != target:
                os.rename(source, target)
    os.rename(temporary, path)
    for one in old:
        shutil.rmtree(one, ignore_errors=True)


# Loading


def read(path: Path, model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """The content of a checkpoint folder, with tensors that are placed as those of the model and optimizer here.

    In a run of several processes every rank calls this. Raises UsageError if the folder is damaged, or if a tensor
    cannot be read by this number of processes.
    """
    mine = ranks.rank()
    label, own = _agreed(mine, lambda: _label(path, mine or 0))
    content = label["content"]
    if mine is not None and not own:
        content = {**content, "step": ranks.reseeded(content["step"], path, mine)}
    return dict(_with_tensors(path, content, _Places(content, model, optimizer), mine))


def _agreed(mine: int | None, act: Callable[[], Any]) -> Any:
    return act() if mine is None else together.agree(act)


def _label(path: Path, mine: int) -> tuple[dict[str, Any], bool]:
    """What a rank has written, and whether it is this one; a rank that did not exist takes what rank 0 has written."""
    own = path / f"rank{mine}.pt"
    label = torch.load(own if own.is_file() else path / "rank0.pt", map_location="cpu", weights_only=True)
    if not isinstance(label, dict) or label.get("format") != _FORMAT:
        raise UsageError(f"{path} was not written by step.save")
    absent = [rank for rank in range(label["ranks"]) if not (path / f"rank{rank}.pt").is_file()]
    if absent or not (path / ".metadata").is_file():
        raise ValueError("files are missing")
    return label, own.is_file()


def _with_tensors(path: Path, content: Any, places: _Places, mine: int | None) -> Any:
    """The content with its tensors, read from the folder."""
    import torch.distributed.checkpoint as dcp

    wanted: dict[str, Tensor] = {}
    _agreed(mine, lambda: _collect(content, places, wanted))
    if wanted:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # by one process
            dcp.load(wanted, storage_reader=dcp.FileSystemReader(path), no_dist=mine is None)
    return _filled(content, wanted)


def _collect(value: Any, places: _Places, wanted: dict[str, Tensor]) -> None:
    if isinstance(value, Mapping):
        if _MARK in value:
            shape, dtype = torch.Size(value["shape"]), getattr(torch, value["dtype"])
            wanted[value[_MARK]] = places.empty(value[_MARK], shape, dtype)
        else:
            for item in value.values():
                _collect(item, places, wanted)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, places, wanted)


def _filled(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        return tensors[value[_MARK]] if _MARK in value else {key: _filled(value[key], tensors) for key in value}
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(item, tensors) for item in value)
    return value


class _Places:
    """Where the tensors of a checkpoint belong here: as the tensor of the model, or the parameter, that they go with.

    Args:
        content: the checkpoint, which has the names of its parameters.
        model, optimizer: of the run here.
    """

    def __init__(self, content: Mapping[str, Any], model: nn.Module, optimizer: Any) -> None:
        self._optimizer: Any = innermost(optimizer)
        state = model.state_dict()
        self._tensors = {plain: state[name] for name, plain in bare(state).items() if isinstance(state[name], Tensor)}
        saved = content["step"]["optimizer"]
        while "param_groups" not in saved and "base" in saved:
            saved = saved["base"]
        indices = [index for group in saved["param_groups"] for index in group["params"]]
        names = [name for group in saved["param_groups"] for name in group.get("param_names") or ()]
        here = [(name, tensor) for group in optimizer.param_groups for name, tensor in _named(group)]
        by_name = {plain: tensor for (_, tensor), plain in zip(here, bare(n for n, _ in here).values(), strict=False)}
        self._parameters: dict[str, Tensor] = {}
        if len(names) == len(indices) and by_name:
            plain = bare(names)
            self._parameters = {
                str(i): by_name[plain[n]] for i, n in zip(indices, names, strict=True) if plain[n] in by_name
            }
        elif len(here) == len(indices):
            self._parameters = {str(i): tensor for i, (_, tensor) in zip(indices, here, strict=True)}
        average = content["step"].get("average") or {}
        self._averaged = [str(name).strip("'") for name in average.get("names", ())]

    def empty(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A tensor to read into. Raises UsageError where the parts of another number of processes do not fit."""
        owner = self._owner(name)
        if owner is None or not sharding.is_spread(owner):
            if owner is not None and name.endswith("_largest") and not fits_whole(owner, shape):
                raise _other_blocks(name)
            return torch.empty(shape, dtype=dtype, device="cpu" if owner is None else owner.device)
        if owner.shape == shape:
            return torch.empty_like(owner.detach(), dtype=dtype)
        if divided.is_of_whole(self._optimizer, owner):
            return divided.empty(owner, shape, dtype)
        part = empty_codes(owner, name.endswith("_largest"), shape, dtype)
        if part is None:
            raise _other_blocks(name)
        return part

    def _owner(self, name: str) -> Tensor | None:
        parts = name.strip("/").split("/")
        if parts[0] == "model":
            return self._tensors.get(bare([parts[1]])[parts[1]])
        if "state" in parts and parts.index("state") + 1 < len(parts):
            return self._parameters.get(parts[parts.index("state") + 1])
        if parts[-2:-1] == ["averages"] and int(parts[-1]) < len(self._averaged):
            return self._tensors.get(self._averaged[int(parts[-1])])
        return None


def _named(group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    names = group.get("param_names") or [""] * len(group["params"])
    return list(zip(names, group["params"], strict=True))


def _other_blocks(name: str) -> UsageError:
    return UsageError(
        f"Step: '{name.strip('/')}' has codes in blocks that cross the rows of the parameter, which only the same "
        "number of processes can read; load with as many processes as saved, or save with state='bf16' or 'fp32'"
    )
