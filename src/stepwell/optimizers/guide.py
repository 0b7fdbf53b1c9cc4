"""The catalog of optimizers as a page of Markdown, from facts and docstrings: `stepwell optimizers --markdown`."""

from __future__ import annotations

import inspect
from typing import Any

from stepwell.optimizers.facts import record

SCHEDULES = {
    "decay": "warm-up, then decay",
    "warmup": "warm-up, then constant",
    "constant": "constant",
}
METHODS = {
    "gradient": "The gradient itself",
    "adaptive": "The gradient over a running size of it",
    "sign": "The sign of the gradient",
    "averaged": "Averages of the iterates",
    "curvature": "An estimate of the curvature",
    "layer-wise": "Steps in the scale of each tensor",
    "matrix": "Products of whole matrices",
    "perturbed": "The gradient at a point near the weights",
}
NEEDS = {
    "closure": "a closure",
    "warmup": "warm-up on transformers",
    "large_batch": "large batches",
    "matrices": "matrices (the rest goes to AdamW)",
    "modes": "`.train()` and `.eval()`",
}


def page(optimizers: list[type[Any]]) -> str:
    """The page: a table of all optimizers, then the description of each from its docstring."""
    facts = [record(optimizer) for optimizer in optimizers]
    lines = [
        "# The optimizers",
        "",
        "Written by `stepwell optimizers --markdown` from the facts and docstrings of `stepwell.optimizers`. Sources",
        "of the figures follow each description. Learning rates are those worth trying, with usual values of the other",
        'hyperparameters. Bytes of state are per element of a large float32 matrix with `state="fp32"`; elementwise',
        'and layer-wise optimizers also have `state="bf16"`, `"int8"` and `"int4"` ([contract.md](contract.md)).',
        "",
        "| optimizer | state, B | lr, transformer | lr, convolutions | times AdamW's lr | schedule | needs |",
        "|---|---|---|---|---|---|---|",
        *(_row(fact) for fact in facts),
    ]
    for method, title in METHODS.items():
        mine = [(o, fact) for o, fact in zip(optimizers, facts, strict=True) if fact["method"] == method]
        lines += ["", f"## {title}"]
        for optimizer, fact in mine:
            lines += ["", f"### {fact['name']}", "", _use(optimizer), "", f"Rates: {fact['source']}."]
    return "\n".join(lines) + "\n"


def _row(fact: dict[str, Any]) -> str:
    name = fact["name"]
    spans = [fact["lr_by_family"].get(family, fact["lr_by_family"]["default"]) for family in ("transformer", "cnn")]
    ranges = [f"{low:g} to {high:g}" for low, high in spans]
    against = "" if fact["lr_against_adamw"] is None else f"{fact['lr_against_adamw']:g}"
    needs = ", ".join(NEEDS[word] for word in fact["needs"])
    size = f"{fact['state_bytes']:.3g}"
    cells = [f"[{name}](#{name.lower()})", size, *ranges, against, SCHEDULES[fact["schedule"]], needs]
    return "| " + " | ".join(cells) + " |"


def _use(optimizer: type[Any]) -> str:
    """The part of the docstring before its arguments."""
    return inspect.cleandoc(optimizer.__doc__ or "").partition("\nArgs:")[0].strip()
