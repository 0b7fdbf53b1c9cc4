"""The optimizers of a comparison as a user names them: `adamw`, or `adamw[betas=(0.9, 0.95), schedule=constant]`."""

from __future__ import annotations

import ast
from typing import Any

from stepwell.errors import UsageError, shown


def split(text: str) -> list[str]:
    """The names in a list with commas; commas inside brackets belong to a name.

    >>> split("sgd, adamw[betas=(0.9, 0.95)],lion")
    ['sgd', 'adamw[betas=(0.9, 0.95)]', 'lion']
    """
    found, depth, begun = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            found.append(text[begun:at])
            begun = at + 1
    found.append(text[begun:])
    return [name.strip() for name in found if name.strip()]


def read(text: str) -> tuple[str, dict[str, Any]]:
    """The name of an optimizer and its settings. A value is a Python literal, or else text.

    >>> read("adamw[betas=(0.9, 0.95), schedule=constant]")
    ('adamw', {'betas': (0.9, 0.95), 'schedule': 'constant'})

    Raises UsageError if a bracket is not closed or a setting has no value.
    """
    name, bracket, rest = text.partition("[")
    if not bracket:
        return text.strip(), {}
    if not rest.rstrip().endswith("]"):
        raise UsageError(f"optimizer {shown(text)}: the bracket is not closed; write it as adamw[weight_decay=0.1]")
    found: dict[str, Any] = {}
    for part in split(rest.rstrip()[:-1]):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise UsageError(f"optimizer {shown(text)}: {shown(part)} is no setting; write it as weight_decay=0.1")
        if key in found:
            raise UsageError(f"optimizer {shown(text)}: {key} is given twice")
        try:
            found[key] = ast.literal_eval(value)
        except Exception:  # text, as the name of a schedule; or an expression that is too deep to be read
            found[key] = value
    return name.strip(), found


def label(optimizer: str, settings: dict[str, Any]) -> str:
    """What a comparison calls an optimizer with settings.

    >>> label("AdamW", {"betas": (0.9, 0.95), "schedule": "constant"})
    'AdamW[betas=(0.9, 0.95), schedule=constant]'
    """
    said = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{optimizer}[{said}]" if said else optimizer
