"""Checkpoints of a run: what is in them, and how they get to the disk and back without ever being half a file."""

from __future__ import annotations

import contextlib
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stepwell.errors import UsageError
from stepwell.optimizers.stepping import innermost, takes_factor
from stepwell.step import switching
from stepwell.step.generators import generator_states, set_generator_states

if TYPE_CHECKING:
    from stepwell.step.step import Step

FORMAT = "stepwell.step 1"
_PARTS = ("format", "number", "skipped", "optimizer", "scaler", "average", "clip", "plateau", "generators", "estimator")


# The state of a run


def state_dict(step: Step) -> dict[str, Any]:
    """The state of a step between two accumulations. Tensors are those in use, not copies."""
    return {
        "format": FORMAT,
        "number": step._number,
        "skipped": step._skipped,
        "optimizer": step.optimizer.state_dict(),
        "switched": step._switched,
        "scaler": None if step.scaler is None else step.scaler.state_dict(),
        "average": None if step.average is None else step.average.state_dict(),
        "clip": {} if step.clip is None else {"kind": type(step.clip).__name__, **step.clip.state_dict()},
        "plateau": None if step.plateau is None else step.plateau.state_dict(),
        "generators": generator_states(step.generators),
        "estimator": None if step.estimator is None else step.estimator.state_dict(),
    }


def load_state_dict(step: Step, state: Mapping[str, Any]) -> None:
    """Take over a state, or raise UsageError and change nothing."""
    before = step.optimizer, step._switched
    _switch(step, state)
    try:
        _load(step, state)
    except BaseException:
        step._take(before[0])
        step._switched = before[1]
        raise


def _switch(step: Step, state: Mapping[str, Any]) -> None:
    """Where the checkpoint was saved after a switch to another optimizer, do as much."""
    saved = state.get("switched") if isinstance(state, Mapping) else None
    if saved == step._switched:
        return
    if saved is None:
        raise UsageError(
            f"Step: the checkpoint is from before the switch to {step._switched}; make the Step anew, with the "
            "optimizer that it began with"
        )
    if saved != switching.name_of(step.optimizer):
        step._take(switching.to_saved(step, saved))
    step._switched = saved


def _load(step: Step, state: Mapping[str, Any]) -> None:
    check(step, state)
    step.optimizer.load_state_dict(state["optimizer"])  # refuses what does not fit, before it changes anything
    if step.scaler is not None:
        step.scaler.load_state_dict(state["scaler"])
    if step.average is not None:
        step.average.load_state_dict(state["average"], [tensor for _, tensor in step._averaged()])
    if step.clip is not None:
        step.clip.load_state_dict(state["clip"])
    if step.plateau is not None:
        step.plateau.load_state_dict(state["plateau"])
    if step.estimator is not None:
        step.estimator.load_state_dict(state["estimator"])
    step._resume(state["number"], state["skipped"])
    set_generator_states(step.generators, state["generators"])


def check(step: Step, state: Mapping[str, Any]) -> None:
    """Raise UsageError for the first part that does not fit, as far as it can be seen without loading."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise UsageError("Step: this is no state of a Step; pass what step.state_dict() returned")
    missing = [part for part in _PARTS if part not in state]
    if missing:
        raise UsageError(f"Step: the checkpoint has no '{missing[0]}'; was it changed after it was saved?")
    for part, mine, made in (
        ("scaler", step.scaler, "scaler=GradScaler()"),
        ("average", step.average, "ema=0.999"),
        ("plateau", step.plateau, "plateau=Plateau()"),
        ("estimator", step.estimator, "estimator=Hutchinson()"),
    ):
        theirs = state[part]
        if (mine is None) != (theirs is None):
            has, lacks = ("the checkpoint", "this Step") if mine is None else ("this Step", "the checkpoint")
            raise UsageError(f"Step: {has} has '{part}' ({made}) and {lacks} has none; make them alike")
    kind = type(step.clip).__name__ if step.clip is not None else None
    if step.clip is not None and state["clip"].get("kind") == kind:
        step.clip.check_state(state["clip"])
    if step.estimator is not None:
        step.estimator.check_state(state["estimator"])
    if step.average is not None:
        averaged = step._averaged()
        step.average.check(state["average"], [name for name, _ in averaged], [tensor for _, tensor in averaged])
    if step._horizon is not None and state["number"] > step._horizon:
        raise UsageError(
            f"Step: the checkpoint is from update {state['number']}, and the schedule has {step._horizon} steps; "
            "make it longer, or end it with .hold()"
        )
    inside, saved = innermost(step.optimizer), state["optimizer"]
    while "param_groups" not in saved and "base" in saved:  # wrappers once saved what is inside so
        saved = saved["base"]
    if not takes_factor(inside):
        _check_torch_optimizer(inside, saved)
    absent = [name for name in step.generators if name not in state["generators"]["given"]]
    if absent:
        raise UsageError(f"Step: the checkpoint has no generator '{absent[0]}'; it would not go on as it was")


def _check_torch_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """torch loads a state of other shapes without a word, and fails at a later step; this names the parameter."""
    owner = type(optimizer).__name__
    if "param_groups" not in saved:
        raise UsageError(f"Step: the checkpoint is of {saved.get('wrapper', 'another optimizer')}, not of {owner}")
    groups, theirs = optimizer.param_groups, saved["param_groups"]
    counts = [len(group["params"]) for group in groups], [len(group["params"]) for group in theirs]
    if counts[0] != counts[1]:
        raise UsageError(
            f"Step: {owner} has groups of {counts[0]} parameters, the checkpoint of {counts[1]}; "
            "it was saved from another model or with other groups"
        )
    # L-BFGS keeps vectors over all parameters, as the state of the first.
    whole = (sum(tensor.numel() for group in groups for tensor in group["params"]),)
    vectors = (whole,) if isinstance(optimizer, torch.optim.LBFGS) else ()
    for place, (group, their) in enumerate(zip(groups, theirs, strict=True)):
        names = group.get("param_names") or [f"parameter {i} of group {place}" for i in range(len(group["params"]))]
        saved_names = their.get("param_names") or names
        for name, saved_name, tensor, index in zip(names, saved_names, group["params"], their["params"], strict=True):
            if "param_names" in group and name != saved_name:
                raise UsageError(f"Step: the checkpoint has '{saved_name}' where {owner} has '{name}'; other model")
            for slot, value in saved["state"].get(index, {}).items():
                if _misfit(slot, value, tensor) and value.shape not in vectors:
                    raise UsageError(
                        f"Step: '{slot}' of {name} has shape {tuple(value.shape)} in the checkpoint, the parameter "
                        f"{tuple(tensor.shape)}; it was saved from another model"
                    )


def _misfit(slot: str, value: Any, tensor: Tensor) -> bool:
    """Whether a slot that has a number for each element has other elements than the parameter."""
    if not isinstance(value, Tensor) or slot in ("row_var", "col_var"):  # torch's Adafactor: one per row and column
        return False
    return bool(value.dim() and value.dim() == tensor.dim()) and value.shape != tensor.shape


def check_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Raise UsageError naming the first tensor of the model that is not in `saved` with its shape."""
    mine = model.state_dict()
    for name, value in mine.items():
        if name not in saved:
            near = f"; it has '{next(k for k in saved if k not in mine)}'" if saved.keys() - mine.keys() else ""
            raise UsageError(f"Step: the checkpoint has no '{name}' of this model{near}: it was saved from another one")
        if not (isinstance(value, Tensor) and isinstance(saved[name], Tensor)):
            continue  # what a module adds with get_extra_state
        if saved[name].shape != value.shape:
            raise UsageError(
                f"Step: '{name}' has shape {tuple(saved[name].shape)} in the checkpoint, "
                f"{tuple(value.shape)} in this model: it was saved from another one"
            )
    extra = [name for name in saved if name not in mine]
    if extra:
        raise UsageError(f"Step: the checkpoint has '{extra[0]}', which this model has not: it was saved from another")


# Files


def save(step: Step, path: str | Path, model: nn.Module, keep: int, extra: Any) -> Path:
    """Write a checkpoint beside `path`, force it to the disk, move the older ones up and rename it to `path`."""
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise UsageError(f"Step: keep={keep!r}; it must be a whole number of at least 1")
    _check_plain(extra, "extra")
    path = Path(path)
    if path.is_dir():  # renaming what was there before would move it, with all that is inside
        raise UsageError(f"Step: {path} is a folder; give the name of a file, such as {path / 'checkpoint.pt'}")
    content = {"step": step.state_dict(), "model": model.state_dict(), "extra": extra}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            for number in reversed(range(1, keep)):
                older = before(path, number - 1)
                if older.exists():
                    os.replace(older, before(path, number))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    number = keep
    while (older := before(path, number)).exists():  # an earlier save kept more
        older.unlink()
        number += 1
    _sync_folder(path.parent)
    return path


def before(path: Path, number: int) -> Path:
    """The checkpoint `number` saves before the newest: checkpoint.pt, checkpoint.1.pt, ..."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path


def load(step: Step, path: str | Path, model: nn.Module) -> Any:
    """Load the newest whole checkpoint into step and model, or raise UsageError and change nothing."""
    content = read(Path(path))
    check_model(model, content["model"])
    load_state_dict(step, content["step"])
    model.load_state_dict(content["model"])
    return content["extra"]


def read(path: Path) -> dict[str, Any]:
    """The newest whole checkpoint at `path`. Warns of each that is damaged."""
    candidates = [path]
    while before(path, len(candidates)).exists():
        candidates.append(before(path, len(candidates)))
    faults: list[str] = []
    for candidate in candidates:
        fault = f"{candidate} does not exist"
        if candidate.exists():
            try:
                content = _read_one(candidate)
            except UsageError as error:
                fault = str(error)
            except Exception as error:  # whatever a torn file makes zipfile or torch raise
                fault = f"{candidate} is cut short or damaged ({type(error).__name__})"
            else:
                if faults:
                    warnings.warn(f"{'; '.join(faults)}: took {candidate} instead", UserWarning, stacklevel=4)
                return content
        faults.append(fault)
    raise UsageError(f"Step: no checkpoint to load: {'; '.join(faults)}")


def _read_one(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # compares every part with its checksum
        if damaged is not None:
            raise ValueError(damaged)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.keys() != {"step", "model", "extra"}:
        raise UsageError(f"{path} was not written by step.save")
    return content


def _check_plain(value: Any, where: str) -> None:
    """Raise UsageError for what `weights_only` would not read back: better now than at the resume."""
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


def _sync_folder(folder: Path) -> None:
    """Make the renames last, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
