"""From arguments to a situation: every argument is checked, and free text is read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stepwell.advisor.names import FAMILIES, REGIMES, TASKS, family_of, read_model, read_regime, read_task
from stepwell.advisor.published import published
from stepwell.advisor.situation import Situation, completed
from stepwell.arguments import number, refusal, text, whole
from stepwell.errors import UsageError, nearest, shown

OWNER = "advise"
PRIORITIES = {"fast": "fast", "fast start": "fast", "speed": "fast", "quick": "fast", "best": "best",
              "best end": "best", "final": "best", "quality": "best", "balanced": "", "": ""}  # fmt: skip
INPUTS = (
    "model", "family", "task", "dataset", "regime", "params", "batch_size", "batch_unit", "seq_len", "total_steps",
    "total_epochs", "total_tokens",
)  # fmt: skip


def situation(model: Any, given: Mapping[str, Any]) -> tuple[Situation, list[str]]:
    """The situation that the arguments of `advise` describe, and notes on what was not understood."""
    notes: list[str] = []
    if isinstance(model, Mapping):  # a row of the published configurations
        row = model
        mixed = [
            name for name in INPUTS if given.get(name) is not None and row.get(name) is not None and name != "model"
        ]
        if mixed:
            raise UsageError(f"{OWNER}: {mixed[0]} is given twice, in the row and as an argument; give it once")
        given = {**given, **{name: row[name] for name in INPUTS if row.get(name) is not None}}
        model = given.pop("model", None)
        if not any(given.get(name) for name in ("family", "task", "dataset")) and model is None:
            raise UsageError(f"{OWNER}: the row has none of {', '.join(INPUTS)}; give at least model or task")
    values: dict[str, Any] = {}
    if isinstance(model, str):
        values["model"] = text(OWNER, "model", model, "a module or its name, as 'ViT-B/16'")
    elif model is not None and not hasattr(model, "named_parameters") and not _is_list(model):
        raise refusal(OWNER, "model", model, "a torch.nn.Module, or the name of a model, as 'ViT-B/16'")
    values |= _words(given, values.get("model", ""), model is not None and not isinstance(model, str), notes)
    values |= _numbers(given)
    one = replace(Situation(), **values, origin=dict.fromkeys(values, "given"))
    if model is not None and not isinstance(model, str):
        from stepwell.advisor.looking import looked

        seen, said = looked(model, one)
        fields = {name: value for name, value in seen.items() if name != "traits"}
        one = one.with_("seen", **fields)
        one = replace(one, traits=frozenset(seen.get("traits", ())))
        notes += said
    return completed(one), notes


def _is_list(model: Any) -> bool:
    return isinstance(model, list | tuple) and bool(model) and all(hasattr(part, "named_parameters") for part in model)


def _words(given: Mapping[str, Any], model: str, is_module: bool, notes: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given.get("family") is not None:
        found["family"] = family(given["family"])
    if given.get("regime") is not None:
        found["regime"] = regime(given["regime"])
    said = given.get("task")
    if isinstance(said, str) and not _task_of(said) and read_model(said).family and not found.get("family"):
        notes.append(f"the task {said!r} names a kind of model: {read_model(said).family}")
        found["family"] = read_model(said).family
    elif said is not None:
        found["task"] = _task(said, bool(found.get("family")), bool(read_model(model).family) or is_module, notes)
    if given.get("dataset") is not None:
        found["dataset"] = text(OWNER, "dataset", given["dataset"], "the name of the data, as 'ImageNet-1k'")
    if given.get("batch_unit") is not None:
        found["batch_unit"] = text(OWNER, "batch_unit", given["batch_unit"], "'samples', 'tokens' or 'samples/GPU'")
    if given.get("priority") is not None:
        said = given["priority"]
        if not isinstance(said, str) or said.lower().strip() not in PRIORITIES:
            raise refusal(OWNER, "priority", said, "'fast' (a fast start), 'best' (the best end) or 'balanced'")
        found["priority"] = PRIORITIES[said.lower().strip()]
    if given.get("tuning") is not None:
        found["tuning"] = text(OWNER, "tuning", given["tuning"], "'none', 'little' or 'much'")
        if found["tuning"] not in ("none", "little", "much"):
            raise refusal(OWNER, "tuning", given["tuning"], "'none', 'little' or 'much'")
    return found


def family(said: Any) -> str:
    """The family that a text means. Raises UsageError for a text that means none."""
    if isinstance(said, str):
        folded = said.lower().strip().replace(" ", "_").replace("-", "_")
        if folded in FAMILIES:
            return folded
        read = family_of(read_model(said).architecture, read_task(said), read_regime(said))
        if read and not difflib.get_close_matches(folded, FAMILIES, 1, 0.8):
            return read
    raise UsageError(f"{OWNER}: unknown family {shown(said)}: {nearest(said, FAMILIES)}")


def regime(said: Any) -> str:
    """The regime that a text means. Raises UsageError for a text that means none."""
    if isinstance(said, str):
        folded = said.lower().strip().replace(" ", "_").replace("-", "_")
        if folded in REGIMES:
            return folded
        if read_regime(said):
            return read_regime(said)
    raise UsageError(f"{OWNER}: unknown regime {shown(said)}: {nearest(said, REGIMES)}")


def _task(said: Any, has_family: bool, is_known: bool, notes: list[str]) -> str:
    """The task; a text that means none is kept where the family or the model is known, and noted."""
    stated = text(OWNER, "task", said, "what is learned, as 'image_classification' or 'causal_lm'")
    read = _task_of(stated)
    if read:
        return read
    known = [name for name, _ in TASKS]
    near = difflib.get_close_matches(stated.lower(), [name.lower() for name in known], 1, 0.85)
    if has_family or (is_known and not near):
        hint = f"; did you mean {near[0]!r}?" if near else ""
        notes.append(f"the task {stated!r} is not known; only the family and the model count{hint}")
        return stated
    raise UsageError(f"{OWNER}: unknown task {shown(said)}: {nearest(said, known)}; or give family")


def _task_of(said: str) -> str:
    """The task in the words of the configurations; empty if the text means none."""
    return said if any(row.task == said for row in published()) else read_task(said)


def _numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pairs = (("steps", "total_steps"), ("epochs", "total_epochs"), ("tokens", "total_tokens"))
    for short, long in pairs:
        value, other = given.get(short), given.get(long)
        if value is not None and other is not None and value != other:
            raise UsageError(f"{OWNER}: {short}={shown(value)} and {long}={shown(other)} are the same; give one")
        value = other if value is None else value
        if value is not None:
            found[long] = float(number(OWNER, long if other is not None else short, value, above=0))
    for name in ("params", "batch_size", "memory"):
        if given.get(name) is not None:
            found[name] = float(number(OWNER, name, given[name], above=0))
    if given.get("seq_len") is not None:
        found["seq_len"] = int(number(OWNER, "seq_len", given["seq_len"], least=1))
    if given.get("devices") is not None:
        found["devices"] = whole(OWNER, "devices", given["devices"], least=1)
    return found
