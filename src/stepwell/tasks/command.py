"""`stepwell tasks`: the built-in tasks."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from stepwell.terminal import print_facts


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the built-in tasks, and those over local data (name:path)."""
    from stepwell.tasks import LOCAL, TABLE, find

    facts = [
        {"name": t.name, "summary": t.summary, "family": t.family, "steps": t.steps,
         "metric": t.metric.name, "direction": t.metric.direction, "target": t.target}
        for t in map(find, TABLE)
    ]  # fmt: skip
    unknown = dict.fromkeys(("family", "steps", "metric", "direction", "target"))
    for name, file in LOCAL.items():
        facts.append({"name": f"{name}:PATH", "summary": import_module(f"stepwell.tasks.{file}").SUMMARY, **unknown})
    print_facts(facts, ("name", "family", "steps", "target", "summary"), as_json)
