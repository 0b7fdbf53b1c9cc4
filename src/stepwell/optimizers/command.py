"""`stepwell optimizers`, and the `--option` of the commands that train with one."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from stepwell.errors import UsageError, printable, shown, unknown
from stepwell.terminal import print_facts

FAMILIES = ("cnn", "transformer", "toy")


def optimizers(
    family: Annotated[
        str | None, typer.Option(help="Learning rates for this kind of model: cnn, transformer or toy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/optimizers.md.")] = False,
) -> None:
    """List the optimizers: learning rates worth trying, bytes of state per element, what each needs.

    --json prints all that is known of each, with sources.
    """
    from stepwell.optimizers import TABLE, find
    from stepwell.optimizers.facts import record

    if family is not None and family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    if markdown:
        from stepwell.optimizers.guide import page

        print(page([find(name) for name in TABLE]), end="")
        return
    facts = [record(find(name), family) for name in TABLE]
    print_facts(facts, ("name", "kind", "method", "lr_low", "lr_high", "state_bytes", "needs", "summary"), as_json)


def options(given: Sequence[str], about_lr: str) -> dict[str, dict[str, Any]]:
    """`["adamw.weight_decay=0.1"]` as nested dicts; a value is a Python literal, or else text.

    `about_lr` is what is said of an lr: no command takes one here.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        target, equals, value = text.partition("=")
        name, dot, argument = target.partition(".")
        if not (name and dot and argument.isidentifier() and equals):
            raise UsageError(f"--option {shown(text)}: write it as adamw.weight_decay=0.1")
        if argument == "lr":
            raise UsageError(f"--option {shown(text)}: {about_lr.format(name=printable(name))}")
        mine = found.setdefault(name, {})
        try:
            mine[argument] = ast.literal_eval(value)
        except Exception:  # text; or an expression that is too deep or too long to be read
            mine[argument] = value
    return found


def options_of(optimizer: str, given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of the one optimizer that a command is about. Raises UsageError for those of another."""
    from stepwell.optimizers import find

    cls, found = find(optimizer), {}
    for name, mine in given.items():
        if find(name) is not cls:
            raise UsageError(f"--option names {find(name).__name__}, and the optimizer here is {cls.__name__}")
        found.update(mine)
    return found
