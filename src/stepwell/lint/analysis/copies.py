"""Networks that take their weights from another network: targets, teachers, averages."""

from __future__ import annotations

import re

from stepwell.lint.analysis.events import Event
from stepwell.lint.analysis.script import Script
from stepwell.lint.analysis.values import Thing


def copied(script: Script, model: Thing) -> tuple[Event, Thing] | None:
    """Where a model takes the weights of another one, and which one that is."""
    for event in script.events:
        if event.kind == "load_state" and event.target is not None and event.target.is_same(model):
            for other in script.events:
                if (
                    other.kind == "other"
                    and other.name == "state_dict"
                    and other.target is not None
                    and not other.target.is_same(model)
                    and other.target.kind == "model"
                    and getattr(other.node, "lineno", -1) == event.line
                ):
                    return event, other.target
        if event.kind == "make" and event.target is not None and event.target.is_same(model):
            origin = event.extra.get("copy")
            if isinstance(origin, Thing):
                return event, origin
    return None


def is_averaged(script: Script, model: Thing) -> bool:
    """Whether a loop over pairs of parameters moves those of a model toward those of another one."""
    name = re.escape(model.name.rsplit(".", 1)[-1])
    if not name:
        return False
    pair = rf"zip\([^\n]*\b{name}\.parameters\(\)"
    return bool(re.search(pair, script.source)) and bool(re.search(r"\.copy_\(|\.lerp_\(|\.mul_\(", script.source))
