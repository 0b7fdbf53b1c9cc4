"""Checkpoint files of a run: the state of a Step, the state of the model, and the user's `extra`."""

from __future__ import annotations

import copy
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.arguments import refusal, text, whole
from stepwell.engine import together
from stepwell.engine.sharding import placed_like
from stepwell.errors import UsageError
from stepwell.step import ranks, saving, sharded_checkpoint
from stepwell.step.files import Files, candidates
from stepwell.step.label import is_cut_short
from stepwell.step.names import matched
from stepwell.step.part import Parts, PutBack, in_words

_PATH, _PART = 4000, 255  # bytes of a path and of a name in it that Linux and its file systems take
_KEEP = 10_000  # checkpoints: each save looks for all of them


def save(
    state_dict: Callable[[], dict[str, Any]], files: Files, path: str | Path, model: nn.Module, keep: int, extra: Any
) -> Path:
    """Write a checkpoint to `path`; in a distributed run, the part of this process."""
    keep = whole("Step", "keep", keep, least=1, most=_KEEP)
    try:
        _check_plain(extra, "extra")
    except RecursionError:
        raise refusal("Step", "extra", extra, "nested less deeply, and not in itself") from None
    path = _checked(path)
    mine = ranks.rank()
    if files.fresh and mine is not None:
        files.run = ranks.name_of_run() or files.run
    weights = model.state_dict()
    if mine is not None and sharded_checkpoint.is_sharded(weights):
        paths = set(together.meet("Step", "step.save", str(path)))  # before any other call that all ranks must make
        if 1 < len(paths) < torch.distributed.get_world_size():
            raise UsageError(
                f"Step: the ranks save to {len(paths)} paths, such as {path}; give all ranks the same path, which "
                "becomes a folder, or each rank a separate path"
            )
        content = {"step": state_dict(), "model": weights, "extra": extra}
        if len(paths) == 1:
            sharded_checkpoint.save(files, path, content, keep)
        else:
            files.save(path, lambda file: torch.save(content, file), keep, mine)
        return path
    content = {"step": state_dict(), "model": weights, "extra": extra}
    if mine is not None and mine > 0:
        shared = ranks.is_anothers(path, files.run, mine)
        ranks.keep_own(path, content["step"], mine, keep, files)
        if shared:
            return path
    files.save(path, lambda file: torch.save(content, file), keep, mine)
    return path


def load(
    parts: Parts, then: Callable[[], None], files: Files, path: str | Path, model: nn.Module, optimizer: Any
) -> Any:
    """Load the newest intact checkpoint into parts and model, or raise UsageError and change nothing."""
    path = _checked(path)
    content, taken, damaged = read(path, lambda folder: sharded_checkpoint.read(folder, model, optimizer))
    state = content["step"]
    if not taken.is_dir():
        ranks.check_same_rank(content, taken)
        state = in_words("generators", ranks.with_own, state, path, taken)
    in_words("'model'", check_model, model, content["model"])
    if isinstance(state, Mapping):
        state = {**state, "model": content["model"]}
    saving.load_state_dict(with_model(parts, model), state, then)
    files.adopt(path, taken, damaged)
    return content["extra"]


def with_model(parts: Parts, model: nn.Module) -> Parts:
    """The parts with the model among them: after the optimizer, before the schedules."""
    place = [name for name, _ in parts].index("number")
    return [*parts[:place], ("model", _Model(model)), *parts[place:]]


class _Model:
    """The model of a checkpoint file. Its weights are not part of a Step's state."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        return self._model.state_dict()

    def check_state(self, state: Any) -> None:
        """Does nothing: `check_model` was called first."""

    def load_state_dict(self, state: Any) -> None:
        mine = self._model.state_dict()
        found = {new: state[old] for old, new in matched(state, mine).items()}
        self._model.load_state_dict({name: placed_like(value, mine[name]) for name, value in found.items()})

    def kept(self) -> PutBack:
        before = {
            name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
            for name, value in self._model.state_dict().items()
        }

        def put_back() -> None:
            self._model.load_state_dict(before)

        return put_back


def check_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Raise UsageError naming the first tensor of the model that is not in `saved` with its shape."""
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise UsageError(
            "Step: the 'model' of the checkpoint is not the state of a model; was the file changed after it was saved?"
        )
    mine = model.state_dict()
    saved = {new: saved[old] for old, new in matched(saved, mine).items()}
    for name, value in mine.items():
        if name not in saved:
            near = f"; it contains '{next(k for k in saved if k not in mine)}'" if saved.keys() - mine.keys() else ""
            raise UsageError(
                f"Step: the checkpoint does not contain '{name}' of this model{near}; it was saved from a different "
                "model"
            )
        if not (isinstance(value, Tensor) and isinstance(saved[name], Tensor)):
            continue  # what a module adds with get_extra_state
        if saved[name].shape != value.shape:
            raise UsageError(
                f"Step: '{name}' has shape {tuple(saved[name].shape)} in the checkpoint, "
                f"{tuple(value.shape)} in this model; it was saved from a different model"
            )
    extra = [name for name in saved if name not in mine]
    if extra:
        raise UsageError(
            f"Step: the checkpoint contains '{extra[0]}', which this model does not have; it was saved from a "
            "different model"
        )


def _checked(path: Any) -> Path:
    must = "a file name, such as 'runs/a/checkpoint.pt'"
    if not isinstance(path, (str, Path)):
        raise refusal("Step", "path", path, must)
    checked = Path(text("Step", "path", str(path), must))
    if len(str(checked).encode()) > _PATH or any(len(part.encode()) > _PART for part in checked.parts):
        raise refusal("Step", "path", path, f"{must}, with at most {_PART} bytes a name")
    return checked


def read(
    path: Path, read_folder: Callable[[Path], dict[str, Any]] | None = None
) -> tuple[dict[str, Any], Path, list[Path]]:
    """The newest intact checkpoint at `path`, its file, and the damaged files. Warns of each damaged file.

    Args:
        read_folder: reads the checkpoint of a sharded model, which is a folder; None refuses folders.
    """
    faults: list[str] = []
    damaged: list[Path] = []
    for candidate in candidates(path):
        fault = f"{candidate} does not exist"
        if candidate.exists():
            try:
                content = _read_one(candidate, read_folder)
            except UsageError as error:
                fault = str(error)
            except Exception as error:  # whatever a torn file makes zipfile or torch raise
                fault = f"{candidate} is cut short or damaged ({type(error).__name__})"
                damaged.append(candidate)
            else:
                if faults:
                    warnings.warn(f"{'; '.join(faults)}: loaded {candidate} instead", UserWarning, stacklevel=4)
                return content, candidate, damaged
        faults.append(fault)
    raise UsageError(f"Step: no checkpoint to load: {'; '.join(faults)}")


def _read_one(path: Path, read_folder: Callable[[Path], dict[str, Any]] | None) -> dict[str, Any]:
    if path.is_dir():
        if read_folder is None or not sharded_checkpoint.is_folder(path):
            raise UsageError(f"{path} is a folder that step.save has not written")
        return read_folder(path)
    if is_cut_short(path):
        raise ValueError("cut short")
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # compares every part with its checksum
        if damaged is not None:
            raise ValueError(damaged)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.keys() != {"step", "model", "extra"}:
        raise UsageError(f"{path} was not written by step.save")
    return content


def _check_plain(value: Any, where: str) -> None:
    """Raise UsageError for a value that `weights_only` would not read back: better at the save than at the resume."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        for place, item in enumerate(value):
            _check_plain(item, f"{where}[{place}]")
    elif not (value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, Tensor)):
        raise UsageError(
            f"Step: {where} is a {type(value).__name__}; a checkpoint holds numbers, text, tensors, lists and dicts"
        )
