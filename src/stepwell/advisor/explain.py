"""A recipe in words: the table of its values, and the long form with reasons, sources, doubt and both sides."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from stepwell.advisor.evidence import disputes

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

# value -> what it is called, in the order of the table
TITLES = {
    "optimizer": "optimizer", "lr": "learning rate", "momentum": "momentum", "nesterov": "Nesterov", "betas": "betas",
    "alpha": "alpha", "eps": "eps", "weight_decay": "weight decay", "decay_form": "form of the decay",
    "exempt": "without decay", "layer_decay": "layer decay", "groups": "groups", "schedule": "schedule",
    "lr_end": "end of the schedule", "warmup": "warmup", "clip_norm": "clip norm", "batch_size": "batch size",
    "accumulate": "accumulation", "precision": "precision", "state": "format of the state", "ema": "average (EMA)",
    "steps": "updates",
}  # fmt: skip
WIDTH = 100


def table(recipe: Recipe) -> str:
    """One line per value: value, range, doubt."""
    rows = [
        (title, str(recipe[name]) or "nothing", recipe[name].sure)
        for name, title in TITLES.items()
        if name in recipe.choices
    ]
    first, second = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    lines = [recipe.name, ""]
    lines += [f"{title:{first}}  {value:{second}}  sure: {sure}" for title, value, sure in rows]
    return "\n".join(lines)


def explained(recipe: Recipe) -> str:
    """The long form."""
    one = recipe.situation
    known = [
        f"{name} {_shown(getattr(one, name))} ({origin})" for name, origin in one.origin.items() if name != "model"
    ]
    parts = [recipe.name, "=" * len(recipe.name), "", _filled("Known: ", ", ".join(known) or "nothing")]
    if one.traits:
        parts.append(_filled("Seen in the model: ", ", ".join(sorted(one.traits))))
    parts += [_filled("Note: ", note) for note in recipe.notes]
    if recipe.objections:
        parts += ["", "What speaks against what was asked for"]
        for objection in recipe.objections:
            parts += ["", _filled(f"[{objection.severity}] ", f"{objection.seen}: {objection.cost}")]
            parts.append(_filled("  fix: ", objection.fix))
            parts.append(_filled("  evidence: ", objection.evidence_for))
            if objection.evidence_against:
                parts.append(_filled("  but: ", objection.evidence_against))
    parts += ["", "Values"]
    for name, title in TITLES.items():
        if name not in recipe.choices:
            continue
        choice = recipe[name]
        parts += ["", f"{title}: {choice or 'nothing'} (sure: {choice.sure})"]
        parts.append(_filled("  why: ", choice.reason))
        if choice.sources:
            parts.append(_filled("  from: ", "; ".join(choice.sources)))
        if choice.would_change:
            parts.append(_filled("  would change it: ", choice.would_change))
    if recipe.near:
        parts += ["", "Nearest published configurations"]
        parts += [_filled(f"  {distance:.1f}  ", f"{name}: {words}") for name, distance, words in recipe.near]
    found = disputes(recipe)
    if found:
        parts += ["", "Where published evidence disagrees"]
        for dispute in found:
            parts += ["", _filled('"', f'{dispute.advice}"')]
            parts += [_filled("  for: ", dispute.supports), _filled("  against: ", dispute.against)]
    return "\n".join(parts) + "\n"


def _filled(start: str, said: str) -> str:
    indent = " " * (len(start) - len(start.lstrip()) + 2)
    return textwrap.fill(start + said, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
