"""The state of a run: the states of its parts by name, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stepwell.errors import UsageError
from stepwell.step.part import Parts, PutBack, in_words

FORMAT = "stepwell.step 1"

# In the order of the file.
_NAMES = (
    "number", "skipped", "optimizer", "switched", "scaler", "average", "clip", "plateau", "generators", "estimator",
    "passes", "run",
)  # fmt: skip
_LATER = ("switched", "passes", "run")  # earlier versions did not save these
_OPTIONAL = {
    "scaler": "scaler=GradScaler()",
    "average": "ema=0.999",
    "plateau": "plateau=Plateau()",
    "estimator": "estimator=Hutchinson()",
}


def state_dict(parts: Parts) -> dict[str, Any]:
    """The state of a Step between two accumulations. Tensors are those in use, not copies."""
    table = dict(parts)
    return {"format": FORMAT, **{name: table[name].state_dict() for name in _NAMES}}


def load_state_dict(parts: Parts, state: Any, then: Callable[[], None]) -> None:
    """Load a state into the parts and call `then`, or raise UsageError and change nothing. The first part decides what
    fits the others."""
    (ahead, first), *others = parts
    undo: list[PutBack] = [first.kept()]
    try:
        saved = state.get(ahead) if isinstance(state, Mapping) else None
        first.check_state(saved)
        first.load_state_dict(saved)
        in_words("content", check, others, state)
        for name, part in others:
            undo.append(part.kept())
            in_words(f"'{name}'", part.load_state_dict, state.get(name))
        then()
    except BaseException:
        for put_back in reversed(undo):
            put_back()
        raise


def check(parts: Parts, state: Any) -> None:
    """Raise UsageError for the first part that does not fit, as far as known without loading."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise UsageError("Step: this is not the state of a Step; pass the result of step.state_dict()")
    missing = [name for name in _NAMES if name not in state and name not in _LATER]
    if missing:
        raise UsageError(f"Step: the checkpoint has no '{missing[0]}'; was it changed after it was saved?")
    table = dict(parts)
    for name, made in _OPTIONAL.items():
        here, there = table[name].state_dict() is not None, state[name] is not None
        if here != there:
            has, lacks = ("this Step", "the checkpoint") if here else ("the checkpoint", "this Step")
            raise UsageError(
                f"Step: {has} has '{name}' ({made}) and {lacks} does not; make the Step like the saved one"
            )
    for name, part in parts:
        part.check_state(state.get(name))
