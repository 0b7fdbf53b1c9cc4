"""`stepwell info`: versions, devices and backends."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, devices, and what each backend can do here."""
    from stepwell.engine.explain import info as found

    facts = found()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for title, entries in facts.items():
        print(title)
        for name, value in entries.items():
            print(f"  {name:<12}{value}")
