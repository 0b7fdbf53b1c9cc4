"""`stepwell tasks`: the built-in tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.terminal import print_facts


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the built-in tasks."""
    from stepwell.tasks import TABLE, find

    facts = [
        {"name": t.name, "summary": t.summary, "family": t.family, "steps": t.steps,
         "metric": t.metric.name, "direction": t.metric.direction, "target": t.target}
        for t in map(find, TABLE)
    ]  # fmt: skip
    print_facts(facts, ("name", "family", "steps", "target", "summary"), as_json)
