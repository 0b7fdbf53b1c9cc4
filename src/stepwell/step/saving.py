"""Checkpoints of a run: what is in them, and how they get to the disk and back without ever being half a file."""

from __future__ import annotations

import copy
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stepwell import engine
from stepwell.arguments import MOST, refusal, text, whole
from stepwell.engine.update import innermost, takes_factor
from stepwell.errors import UsageError, shown
from stepwell.step import files, ranks, switching
from stepwell.step.generators import check_generator_states, generator_states, set_generator_states
from stepwell.step.names import bare, matched
from stepwell.step.places import check_passes

if TYPE_CHECKING:
    from stepwell.step.step import Step

FORMAT = "stepwell.step 1"
_PATH, _PART = 4000, 255  # bytes of a path and of a name in it that Linux and its file systems take
_KEEP = 10_000  # checkpoints: each save looks for all of them
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
        "passes": step._places.state(step),
        "run": step._files.run,
    }


def load_state_dict(step: Step, state: Mapping[str, Any], then: Callable[[], None] | None = None) -> None:
    """Take over a state and do what comes `then`, or raise UsageError and change nothing."""
    before = step.optimizer, step._switched
    _switch(step, state)
    try:
        _in_words("content", check, step, state)
        kept = _Kept(step, state)
        try:
            _load(step, state)
            if then is not None:
                then()
            step._resume(state["number"], state["skipped"])
            step._places.load(step, state.get("passes"))
            set_generator_states(step.generators, state["generators"])
        except BaseException:
            kept.put_back(step)
            raise
    except BaseException:
        step._take(before[0])
        step._switched = before[1]
        raise
    if isinstance(state.get("run"), str):
        step._files.run = state["run"]


class _Kept:
    """What a Step holds, to be put back if a part of a checkpoint turns out not to fit after all."""

    def __init__(self, step: Step, state: Mapping[str, Any]) -> None:
        self.optimizer = step.optimizer.state_dict()
        if not isinstance(step.optimizer, engine.Optimizer):
            self.optimizer = copy.deepcopy(self.optimizer)  # others may load into the tensors that they have
        self.parts = {name: copy.deepcopy(part.state_dict()) for name, part in _small(step)}
        self.average = None if step.average is None else step.average.state_dict()

    def put_back(self, step: Step) -> None:
        step.optimizer.load_state_dict(self.optimizer)
        for name, part in _small(step):
            part.load_state_dict(self.parts[name])
        if step.average is not None and self.average is not None:
            step.average.load_state_dict(self.average, dict(step._averaged()))


def _small(step: Step) -> list[tuple[str, Any]]:
    """The parts that are small enough to be copied for a trial."""
    parts = (("scaler", step.scaler), ("clip", step.clip), ("plateau", step.plateau), ("estimator", step.estimator))
    return [(name, part) for name, part in parts if part is not None]


def _in_words(what: str, act: Callable[..., Any], *given: Any) -> Any:
    """Do it; an error that is not in words for the user becomes one."""
    try:
        return act(*given)
    except UsageError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"Step: the {what} of the checkpoint does not fit ({type(error).__name__}: {first}); nothing was changed"
        ) from error


def _switch(step: Step, state: Mapping[str, Any]) -> None:
    """Where the checkpoint was saved after a switch to another optimizer, do as much."""
    saved = state.get("switched") if isinstance(state, Mapping) else None
    if not isinstance(saved, (str, type(None))):
        raise UsageError(f"Step: 'switched' is {shown(saved)} in the checkpoint; it must be a name, or None")
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
    # refuses what does not fit, before it changes anything
    _in_words("'optimizer'", step.optimizer.load_state_dict, state["optimizer"])
    for name, part in _small(step):
        _in_words(f"'{name}'", part.load_state_dict, state[name])
    if step.average is not None:
        _in_words("'average'", step.average.load_state_dict, state["average"], dict(step._averaged()))


def check(step: Step, state: Mapping[str, Any]) -> None:
    """Raise UsageError for the first part that does not fit, as far as it can be seen without loading."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise UsageError("Step: this is no state of a Step; pass what step.state_dict() returned")
    missing = [part for part in _PARTS if part not in state]
    if missing:
        raise UsageError(f"Step: the checkpoint has no '{missing[0]}'; was it changed after it was saved?")
    for part in ("number", "skipped"):
        if not isinstance(state[part], int) or isinstance(state[part], bool) or not 0 <= state[part] <= MOST:
            raise UsageError(
                f"Step: '{part}' is {shown(state[part])} in the checkpoint; it must be a whole number from 0 on"
            )
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
        lost = sorted(step.clip.state_dict().keys() - state["clip"].keys())
        if lost:
            raise UsageError(f"Step: the checkpoint has no '{lost[0]}' of {kind}; was it changed after it was saved?")
        step.clip.check_state(state["clip"])
    if step.estimator is not None:
        step.estimator.check_state(state["estimator"])
    if step.average is not None:
        step.average.check(state["average"], dict(step._averaged()))
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
    check_generator_states(step.generators, state["generators"])
    check_passes(state.get("passes"), step.generators)
    for name, part in _small(step):
        if name != "estimator":  # it holds the optimizer, and has been checked
            _in_words(f"'{name}'", copy.deepcopy(part).load_state_dict, state[name])


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
        plain, saved_plain = bare(names), bare(saved_names)
        for name, saved_name, tensor, index in zip(names, saved_names, group["params"], their["params"], strict=True):
            if "param_names" in group and plain[name] != saved_plain[saved_name]:
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
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise UsageError(
            "Step: the 'model' of the checkpoint is no state of a model; was it changed after it was saved?"
        )
    mine = model.state_dict()
    saved = {new: saved[old] for old, new in matched(saved, mine).items()}
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
    """Write a checkpoint to `path`; in a run of several processes, the part of this one."""
    keep = whole("Step", "keep", keep, least=1, most=_KEEP)
    try:
        _check_plain(extra, "extra")
    except RecursionError:
        raise refusal("Step", "extra", extra, "nested less deeply, and not in itself") from None
    path = _checked(path)
    mine = ranks.rank()
    if step._files.fresh and mine is not None:
        step._files.run = ranks.name_of_run() or step._files.run
    state = step.state_dict()
    content = {"step": state, "model": model.state_dict(), "extra": extra}
    if mine is not None and mine > 0:
        shared = ranks.is_anothers(path, step._files.run, mine)
        if shared:
            ranks.check_whole(content, path, mine)
        ranks.keep_own(path, state, mine, keep, step._files)
        if shared:
            return path
    step._files.save(path, lambda file: torch.save(content, file), keep, mine)
    return path


def load(step: Step, path: str | Path, model: nn.Module) -> Any:
    """Load the newest whole checkpoint into step and model, or raise UsageError and change nothing."""
    path = _checked(path)
    content, taken, damaged = read(path)
    ranks.check_same_rank(content, taken)
    _in_words("'model'", check_model, model, content["model"])
    state = _in_words("generators", ranks.with_own, content["step"], path, taken)
    load_state_dict(step, state, lambda: _load_model(model, content["model"]))
    step._files.adopt(path, taken, damaged)
    return content["extra"]


def _load_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    mine = model.state_dict()
    before = {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in mine.items()
    }
    renamed = {new: saved[old] for old, new in matched(saved, mine).items()}
    try:
        _in_words("'model'", model.load_state_dict, renamed)
    except BaseException:
        model.load_state_dict(before)
        raise


def _checked(path: Any) -> Path:
    must = "the name of a file, such as 'runs/a/checkpoint.pt'"
    if not isinstance(path, (str, Path)):
        raise refusal("Step", "path", path, must)
    checked = Path(text("Step", "path", str(path), must))
    if len(str(checked).encode()) > _PATH or any(len(part.encode()) > _PART for part in checked.parts):
        raise refusal("Step", "path", path, f"{must}, with at most {_PART} bytes a name")
    return checked


def read(path: Path) -> tuple[dict[str, Any], Path, list[Path]]:
    """The newest whole checkpoint at `path`, where it lies, and what is damaged. Warns of each that is."""
    faults: list[str] = []
    damaged: list[Path] = []
    for candidate in files.candidates(path):
        fault = f"{candidate} does not exist"
        if candidate.exists():
            try:
                content = _read_one(candidate)
            except UsageError as error:
                fault = str(error)
            except Exception as error:  # whatever a torn file makes zipfile or torch raise
                fault = f"{candidate} is cut short or damaged ({type(error).__name__})"
                damaged.append(candidate)
            else:
                if faults:
                    warnings.warn(f"{'; '.join(faults)}: took {candidate} instead", UserWarning, stacklevel=4)
                return content, candidate, damaged
        faults.append(fault)
    raise UsageError(f"Step: no checkpoint to load: {'; '.join(faults)}")


def _read_one(path: Path) -> dict[str, Any]:
    if files.is_cut_short(path):
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
