"""The one analysis under all checks: what a training script does, in order, with its objects told apart."""

from __future__ import annotations

from stepwell.lint.analysis.events import Block, Branch, Call, Event, Jump, Loop, events_of, loops_of
from stepwell.lint.analysis.paths import paths
from stepwell.lint.analysis.script import Root, Script, Unreadable, read
from stepwell.lint.analysis.values import (
    Class,
    Constant,
    External,
    Function,
    Many,
    Method,
    Tensor,
    Thing,
    Value,
    argument,
    things,
)

__all__ = [
    "Block", "Branch", "Call", "Class", "Constant", "Event", "External", "Function", "Jump", "Loop", "Many", "Method",
    "Root", "Script", "Tensor", "Thing", "Unreadable", "Value", "argument", "events_of", "loops_of", "paths", "read",
    "things",
]  # fmt: skip
