"""The settings that a script gives its optimizers, and the layers of its models, as far as they are written down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.lint.analysis.events import Event
from stepwell.lint.analysis.scope import constant
from stepwell.lint.analysis.script import Script
from stepwell.lint.analysis.values import Thing

_ATTENTION = re.compile(
    r"torch\.nn\.(Transformer\w*|MultiheadAttention|functional\.(scaled_dot_product|multi_head)_attention\w*)$|"
    r"(^|\.)(\w*Attention|\w*TransformerEncoder\w*|VisionTransformer|vit_\w+|GPT|Transformer)$|transformers\..*\.from_(pretrained|config)$"
)


def optimizers(script: Script) -> Iterator[tuple[Event, Thing, str]]:
    """The optimizers that a script makes: the event, the optimizer, and the name of its class. Each call once."""
    for places in script.places("make"):
        target = places[0].target
        if target is not None and target.kind == "optimizer" and target.local is None and target.made is not None:
            yield places[0], target, target.cls.rsplit(".", 1)[-1]


def number(optimizer: Thing, position: int, keyword: str) -> float | None:
    """A setting of an optimizer that is written as a number."""
    found = constant(optimizer.argument(position, keyword))
    value = found.value if found is not None else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def has_hidden(optimizer: Thing) -> bool:
    """Whether * or ** hides settings."""
    made = optimizer.made
    return (
        made is None
        or any(one.arg is None for one in made.keywords)
        or any(isinstance(one, ast.Starred) for one in made.args)
    )


def attention(script: Script) -> ast.AST | None:
    """A call that makes or computes attention."""
    if "attention" not in script.first:
        script.first["attention"] = next((node for node, name in script.calls if _ATTENTION.search(name)), None)
    return script.first["attention"]


def layer(script: Script, pattern: str) -> ast.AST | None:
    """A call that makes a layer of torch.nn of this name."""
    named = re.compile(rf"torch\.nn\.({pattern})")
    return next((node for node, name in script.calls if named.fullmatch(name)), None)


def trains(script: Script) -> bool:
    """Whether the file has a backward pass in a loop, and a step."""
    return any(event.kind == "backward" and event.loops for event in script.events) and any(
        event.kind == "step" for event in script.events
    )
